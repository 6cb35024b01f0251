/* Bytes to rows, as a terminal would show them. A row is a line of one writer: a stream of a rank, or what no rank
   wrote. Rows stand in the order in which they begin; a line gets its number when it ends, which is its number in the
   download. */
"use strict";

const LONGEST = 8 * 1024; // characters of one row, until asked for more
const KEPT = 1024 * 1024; // characters of one row that are kept for asking
const TOKEN =
  /[^\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]+|\r|\x1b\[[0-9;:?<=>]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-OQ-WYZ\\`-~]|[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;
// What is not printed. Those that turn the order of others round would make one name another.
const HIDDEN = /^[^\t\x20-\x7e\xa0-\u{10ffff}]|^[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/u;
const UNFINISHED = /\x1b(?:\[[0-9;:?<=>]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)$/;

/* Bytes to rows: one decoder, one colour and one open row for each writer. */
// biome-ignore lint/correctness/noUnusedVariables: window.js uses it
class Screen {
  constructor() {
    this.writers = new Map();
    this.rows = []; // made since the last `taken`
    this.touched = new Set(); // rows of before that got more text, or their number
  }

  feed({ stream, rank, position, line, ms, bytes }) {
    const key = `${stream} ${rank}`;
    let state = this.writers.get(key);
    if (!state) {
      state = {
        decoder: new TextDecoder("utf-8", { ignoreBOM: true }),
        look: "",
        held: "",
        row: null,
        fresh: position > 0,
      };
      this.writers.set(key, state);
    }
    let i = 0;
    if (state.fresh) while (i < 3 && bytes[i] >> 6 === 2) i++; // begun within a character
    state.fresh = false;
    while (i < bytes.length) {
      const newline = bytes.indexOf(10, i);
      const end = newline < 0 ? bytes.length : newline;
      let row = state.row;
      if (!row) {
        row = state.row = {
          line: null,
          ms,
          stream,
          rank,
          position: position + i,
          parts: [],
          length: 0,
          rest: [],
          restLength: 0,
          returned: false,
          element: null,
        };
        this.rows.push(row);
      } else if (row.element) {
        this.touched.add(row);
      }
      this.write(state, row, state.decoder.decode(bytes.subarray(i, end), { stream: newline < 0 }), newline >= 0);
      if (newline < 0) break;
      row.line = ++line;
      state.row = null;
      i = newline + 1;
    }
  }

  write(state, row, text, ends) {
    if (state.held) {
      text = state.held + text;
      state.held = "";
    }
    const cut = text.includes("\x1b") ? text.search(UNFINISHED) : -1;
    if (cut >= 0 && text.length - cut < 4096) {
      // The rest of the sequence may be in the next piece; at the end of a line there is none, and it is shown.
      if (ends) text = text.slice(0, cut) + text.slice(cut).replaceAll("\x1b", "");
      else {
        state.held = text.slice(cut);
        text = text.slice(0, cut);
      }
    }
    for (const [token] of text.matchAll(TOKEN)) {
      const code = token.charCodeAt(0);
      if (code === 13) row.returned = true;
      else if (code === 27 && /^\x1b\[[\d;:]*m$/.test(token)) state.look = colour(state.look, token.slice(2, -1));
      else if (!HIDDEN.test(token)) this.print(row, state.look, token);
    }
  }

  print(row, look, text) {
    if (row.returned) {
      // As on a terminal: what comes after a carriage return takes the place of what was there.
      Object.assign(row, { returned: false, parts: [], length: 0, rest: [], restLength: 0 });
    }
    if (row.length < LONGEST) {
      const fits = text.slice(0, LONGEST - row.length);
      const last = row.parts.at(-1);
      if (last && last[0] === look) last[1] += fits;
      else row.parts.push([look, fits]);
      row.length += fits.length;
      text = text.slice(fits.length);
    }
    if (text) {
      row.restLength += text.length;
      if (row.restLength <= KEPT) row.rest.push(text);
    }
  }

  taken() {
    const taken = [this.rows, this.touched];
    this.rows = [];
    this.touched = new Set();
    return taken;
  }
}

/* A sequence of SGR numbers, as classes: c0 to c15, b bold, d dim, i italic, u underlined, v inverse. */
function colour(look, numbers) {
  const on = new Set(look.split(" ").filter(Boolean));
  const paint = (name) => {
    for (const one of on) if (/^c\d/.test(one)) on.delete(one);
    if (name) on.add(name);
  };
  const list = numbers.split(/[;:]/).map(Number);
  for (let k = 0; k < list.length; k++) {
    const n = list[k];
    if (n === 0) on.clear();
    else if (n === 1) on.add("b");
    else if (n === 2) on.add("d");
    else if (n === 3) on.add("i");
    else if (n === 4) on.add("u");
    else if (n === 7) on.add("v");
    else if (n === 22) for (const look of ["b", "d"]) on.delete(look);
    else if (n === 23) on.delete("i");
    else if (n === 24) on.delete("u");
    else if (n === 27) on.delete("v");
    else if (n >= 30 && n <= 37) paint(`c${n - 30}`);
    else if (n >= 90 && n <= 97) paint(`c${n - 82}`);
    else if (n === 39) paint("");
    else if (n === 38 || n === 48) {
      const palette = list[k + 1] === 5;
      if (n === 38) paint(palette && list[k + 2] < 16 ? `c${list[k + 2]}` : "");
      k += palette ? 2 : 4;
    }
  }
  return [...on].sort().join(" ");
}
