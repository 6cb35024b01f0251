/* The output viewer: bytes by cursor in, rows out. Only text nodes are made, never markup.

   A frame is what `portal.tasks.output.frame` makes. The cursor is the position of the next byte that we do not have:
   a frame that begins elsewhere is dropped, so that nothing is shown twice and nothing is left out. The page shows a
   window of at most LIMIT rows; while the reader is at its end it moves on, else it stands still, and what is not shown
   is said in words with its line numbers.

   A row is a line of one writer: a stream of a rank, or what no rank wrote. Rows stand in the order in which they
   begin; a line gets its number when it ends, which is its number in the download. A filter by rank and stream decides
   what becomes a row: the live line brings everything, what lies behind is asked for with the filter. */
"use strict";

const LIMIT = 5000; // rows in the page
const LONGEST = 8 * 1024; // characters of one row, until asked for more
const KEPT = 1024 * 1024; // characters of one row that are kept for asking
const REACH = 192 * 1024; // wanted bytes before the window that "Load earlier" fetches
const FAR = 2 * 1024 * 1024; // bytes behind the head that are jumped over by a reader who follows
const NAMES = { 1: "stdout", 2: "stderr", 3: "portal", 4: "setup" };
const MARKS = { 1: "", 2: "stderr", 3: "portal", 4: "set-up" }; // in the rank's column, of what no rank wrote
const NARROW = matchMedia("(max-width: 61.99rem)"); // as in portal.css
const TOKEN =
  /[^\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]+|\r|\x1b\[[0-9;:?<=>]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-OQ-WYZ\\`-~]|[\x00-\x1f\x7f-\x9f\u2028\u2029]/g;
const UNFINISHED = /\x1b(?:\[[0-9;:?<=>]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)$/;

/* How times of a zone are written: of the day, and in full. */
function clocksOf(zone) {
  const time = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
  const full = { weekday: "long", day: "numeric", month: "long", year: "numeric", ...time, timeZoneName: "short" };
  const made = (timeZone) => [time, full].map((form) => new Intl.DateTimeFormat("en-GB", { ...form, timeZone }));
  try {
    return made(zone);
  } catch {
    return made("UTC"); // one that this browser has not heard of
  }
}

/* Bytes to rows: one decoder, one colour and one open row for each writer. */
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
      else if (
        (code >= 32 && code !== 127 && !(code >= 128 && code < 160) && code !== 0x2028 && code !== 0x2029) ||
        code === 9
      )
        this.print(row, state.look, token);
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

/* Which writers are wanted: what people write in the fields, as `portal.tasks.output.Filter` reads it too. */
class Filter {
  static RANKS = /^(?:(\d{1,5})\.)?(\d{1,9})(?:-(\d{1,9}))?$/;

  constructor(rank, stream, nodes) {
    this.rank = rank
      .trim()
      .replace(/[\s,]+/g, ",")
      .replace(/^,|,$/g, "");
    this.stream = stream;
    this.known = new Map();
    this.streams = stream ? new Set(stream.split(",")) : null;
    this.ranks = this.rank ? this.rank.split(",").flatMap((word) => Filter.ranks(word, nodes)) : null;
    this.query = new URLSearchParams(
      Object.entries({ rank: this.rank, stream }).filter(([, value]) => value),
    ).toString();
  }

  static ranks(word, nodes) {
    if (nodes.hosts.includes(word))
      return [...nodes.of].filter(([, host]) => host === word).flatMap(([name]) => Filter.ranks(name, nodes));
    const match = word.match(Filter.RANKS);
    if (!match)
      throw new Error(
        `“${word}” is no rank. Write 3, or 0-7,12${nodes.hosts.length ? ", or the name of a node" : ""}.`,
      );
    return [[Number(match[1] ?? 0), Number(match[2]), Number(match[3] ?? match[2])]];
  }

  takes(stream, rank) {
    const key = `${stream} ${rank}`;
    let known = this.known.get(key);
    if (known === undefined) {
      known = (!this.streams || this.streams.has(NAMES[stream])) && (!this.ranks || this.has(rank));
      this.known.set(key, known);
    }
    return known;
  }

  has(name) {
    if (!name) return false;
    const [rank, world] = name.split(".").reverse().map(Number);
    return this.ranks.some(([of, first, last]) => of === (world ?? 0) && first <= rank && rank <= last);
  }

  /* "rank 17", "ranks 0-7,12", "ranks of tide-2"; the same in tasks/views.py. */
  get who() {
    if (!this.rank) return "";
    if (/^[\d.]+$/.test(this.rank)) return `rank ${this.rank}`;
    return `ranks ${/^[\d.,-]+$/.test(this.rank) ? "" : "of "}${this.rank.replaceAll(",", ", ")}`;
  }

  get what() {
    const to = this.stream === "stdout" || this.stream === "stderr" ? ` to ${this.stream}` : "";
    if (this.who) {
      const verb = /^ranks/.test(this.who) ? "have" : "has";
      return `${this.who[0].toUpperCase()}${this.who.slice(1)} ${verb} written nothing${to}`;
    }
    return to ? `Nothing has been written${to}` : "The portal has said nothing";
  }
}

const number = (n) => n.toLocaleString("en-US");
const lines = (n) => `${number(n)} ${n === 1 ? "line" : "lines"}`;
function make(tag, look, text) {
  const element = document.createElement(tag);
  if (look) element.className = look;
  if (text !== undefined) element.textContent = text;
  return element;
}
function icon(name) {
  const i = make("i", `bi ${name}`);
  i.ariaHidden = "true";
  return i;
}

class Viewer {
  constructor(root) {
    const data = root.dataset;
    this.root = root;
    this.log = root.querySelector(".log");
    this.list = this.log.querySelector("ol");
    this.output = data.output;
    this.url = data.frame;
    // A run's output is complete when it is in the store; a task's when it has ended, and it may go on after a retry.
    this.keeps = "keeps" in data;
    this.clocks = clocksOf(data.zone);
    this.cursor = Number(data.start); // of the line to the portal
    this.shownTo = this.cursor; // of the window
    this.from = this.cursor; // where the window begins
    this.told = { ended: false, kept: false };
    this.header = null;
    this.wanted = null; // a Filter; null: everything
    this.nodes = { hosts: [], of: new Map() }; // rank → hostname
    this.knownRanks = 0;
    this.turn = 0; // of what is loaded: what was asked for before the filter changed is dropped
    this.screen = new Screen();
    this.rows = [];
    this.waiting = []; // frames' pieces that are not rows yet
    this.moving = true; // the window goes on with the cursor
    this.asking = null;
    this.painting = 0;
    this.begun = false;
    this.following = !("still" in data);
    this.scrolledTo = 0;
    this.hits = [];
    this.at = -1;
    this.wired = false;
    this.top = null;
    this.bottom = null;
    this.empty = null;
    this.wire();
    line.viewers.push(this);
    if (this.fields.rank?.value || this.fields.stream?.value) this.filter();
    else this.askByHttp();
  }

  get complete() {
    return Boolean(this.header?.ended && (this.header.kept || !this.keeps) && this.cursor >= this.header.head);
  }

  // Asking, one frame in flight

  ask() {
    if (this.asking || (this.complete && this.keeps) || line.stopped) return;
    if (!line.open) return void this.askByHttp();
    this.asking = "socket";
    line.socket.send(JSON.stringify({ output: this.output, after: this.cursor, ...this.told }));
  }

  lineLost() {
    if (this.asking === "socket") this.asking = null;
  }

  async askByHttp() {
    if (this.asking || line.stopped) return;
    this.asking = "http";
    let frame = null;
    try {
      frame = await this.fetch(this.cursor);
    } catch {
      // the line says that there is no connection
    }
    if (this.asking === "http") this.asking = null;
    if (frame) this.take(frame, "http");
    else if (line.open) setTimeout(() => this.ask(), 1000);
  }

  async get(url, query) {
    const response = await fetch(`${url}?${query}${this.wanted ? `&${this.wanted.query}` : ""}`, { cache: "no-store" });
    if (response.redirected) line.signedOut();
    else if (response.status === 404) line.gone();
    if (response.redirected || !response.ok) throw new Error(`${url}: ${response.status}`);
    return response;
  }

  async fetch(after, until) {
    return (await this.get(this.url, `after=${after}${until === undefined ? "" : `&until=${until}`}`)).arrayBuffer();
  }

  /* A frame's pieces lie side by side, and each position and line follows from the one before; those of a filtered
     frame have their own. */
  static read(buffer) {
    const size = new DataView(buffer).getUint32(0);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
    let at = 4 + size;
    let nextPosition = header.after;
    let nextLine = header.line;
    let from = 0;
    const pieces = [];
    for (const word of header.pieces ? header.pieces.split(";") : []) {
      if (word[0] === "@") {
        from = Number(word.slice(1));
        continue;
      }
      const [stream, rank, length, later, position = nextPosition, line = nextLine] = word.split(",");
      const bytes = new Uint8Array(buffer, at, Number(length));
      const piece = {
        stream: Number(stream),
        rank,
        position: Number(position),
        line: Number(line),
        ms: from + Number(later),
        bytes,
      };
      pieces.push(piece);
      at += bytes.length;
      nextPosition = piece.position + bytes.length;
      nextLine = piece.line;
      for (let i = bytes.indexOf(10); i >= 0; i = bytes.indexOf(10, i + 1)) nextLine++;
    }
    header.pieces = pieces;
    return header;
  }

  /* A frame has come. Asks for the next one when this one is painted. */
  take(buffer, way) {
    const header = Viewer.read(buffer);
    if (way === "socket") this.asking = null;
    if (header.after !== this.cursor || this.loading) {
      if (!this.loading) this.ask();
      return false;
    }
    const wasComplete = this.complete;
    this.header = header;
    this.told = { ended: header.ended, kept: header.kept };
    const news = header.next > this.cursor;
    this.cursor = header.next;
    if (news) this.newsAt = Date.now();
    if (this.following && header.head - header.next > FAR) {
      this.jump();
      return true;
    }
    if (header.ranks !== this.knownRanks) this.learn(header.ranks);
    if (this.moving) {
      this.shownTo = header.next;
      for (const piece of header.pieces)
        if (!this.wanted || this.wanted.takes(piece.stream, piece.rank)) this.waiting.push(piece);
    }
    if (!this.begun) {
      this.begun = true;
      this.list.replaceChildren();
    }
    if (this.complete && !wasComplete && way === "socket") say(`Output complete, ${lines(header.lines)}`);
    if (this.complete) line.show();
    this.paintSoon(() => {
      if (way === "socket" || line.open || header.next < header.head) this.ask();
    });
    return true;
  }

  // Painting

  paintSoon(then) {
    this.after = then;
    if (this.painting) return;
    this.painting = requestAnimationFrame(() => {
      this.painting = 0;
      this.paint();
      const next = this.after;
      this.after = null;
      next?.();
    });
  }

  paint() {
    for (const piece of this.waiting) this.screen.feed(piece);
    this.waiting = [];
    let [fresh, touched] = this.screen.taken();
    if (this.moving && !this.following && this.rows.length + fresh.length > LIMIT && this.rows.length) {
      // The reader looks at something: the window stops here, and ends with the rows it has.
      this.stopMoving(fresh);
      fresh = [];
    }
    for (const row of touched) if (row.element?.isConnected) this.fill(row);
    if (fresh.length > LIMIT) fresh = fresh.slice(-LIMIT);
    const part = document.createDocumentFragment();
    for (const row of fresh) part.append(this.build(row));
    const tooMany = this.rows.length + fresh.length - LIMIT;
    if (tooMany > 0) {
      for (const row of this.rows.splice(0, tooMany)) row.element.remove();
      this.hits = this.hits.filter((hit) => hit.row.element.isConnected);
      this.from = (this.rows[0] ?? fresh[0]).position;
    }
    this.rows.push(...fresh);
    if (this.bottom) this.bottom.before(part);
    else this.list.append(part);
    this.edges();
    if (this.following) this.toEnd();
    if (fresh.length && this.query) this.findSoon();
    this.showState();
  }

  clock(ms) {
    const second = Math.floor(ms / 1000);
    if (second !== this.clockAt) {
      this.clockAt = second;
      this.clockWords = this.clocks.map((form) => form.format(ms));
    }
    return this.clockWords;
  }

  build(row) {
    const li = make("li", `ln ${NAMES[row.stream]}`);
    const [time, day] = this.clock(row.ms);
    const clock = make("span", "at", time);
    clock.title = day;
    const ranked = row.rank !== "";
    const mark = make(
      ranked ? "abbr" : "span",
      "rk",
      ranked ? `r${row.rank}${row.stream === 2 ? " err" : ""}` : MARKS[row.stream],
    );
    row.element = li;
    li.append(make("span", "no"), clock, mark, make("span", "x"));
    if (ranked) {
      this.nameRank(row);
      if (!this.ranked) this.showRanks();
    }
    this.fill(row);
    return li;
  }

  nameRank(row) {
    const node = this.nodes.of.get(row.rank);
    row.element.children[2].title = `rank ${row.rank}${node ? ` on ${node}` : ""}${row.stream === 2 ? ", stderr" : ""}`;
  }

  fill(row) {
    const x = row.element.lastChild;
    row.element.firstChild.textContent = row.line ?? "";
    const parts = row.parts.map(([look, text]) => (look ? make("span", look, text) : document.createTextNode(text)));
    if (row.restLength) {
      const whole = row.restLength <= KEPT;
      const button = make(
        "button",
        "btn btn-sm",
        whole
          ? `Show all ${number(row.length + row.restLength)} characters`
          : `${number(row.restLength)} more characters, whole in the download`,
      );
      button.type = "button";
      button.disabled = !whole;
      button.addEventListener("click", () => {
        button.replaceWith(document.createTextNode(row.rest.join("")));
        this.log.focus();
      });
      parts.push(document.createTextNode(" "), button);
    }
    x.replaceChildren(...parts);
  }

  /* What is stored and not in the page, above and below, in words. */
  edges() {
    const shown = this.rows.filter((row) => row.line !== null).map((row) => row.line);
    const hiddenAbove = shown.length ? Math.min(...shown) - 1 : 0;
    const above = this.wanted
      ? `There may be earlier lines of ${this.wanted.who || "this kind"}`
      : `Lines 1–${number(hiddenAbove)} are not shown`;
    this.top = this.edge(
      this.top,
      this.rows.length > 0 && (this.wanted ? this.from > 0 : hiddenAbove > 0),
      above,
      [["earlier", "Load earlier"]],
      true,
    );
    const below = !this.moving && this.header && shown.length ? Math.max(0, this.header.lines - Math.max(...shown)) : 0;
    const later = this.wanted
      ? "Later lines are not shown"
      : `${number(below)} later ${below === 1 ? "line is" : "lines are"} not shown`;
    this.bottom = this.edge(
      this.bottom,
      !this.moving,
      later,
      [
        ["later", "Load later"],
        ["end", "Jump to the end"],
      ],
      false,
    );
    this.showEmpty();
    this.showFollowing();
  }

  /* A filter that lets nothing through says so. */
  showEmpty() {
    let words = "";
    if (this.wanted && this.searching)
      words = `Looking for lines of ${this.wanted.who || this.wanted.stream.replace(",", " and ")}…`;
    else if (this.wanted && !this.rows.length && this.header) {
      const known = [...this.nodes.of.keys()];
      const last = Math.max(...known.filter((name) => !name.includes(".")).map(Number));
      words = `${this.wanted.what}${this.complete ? "" : " so far"}.`;
      if (this.wanted.ranks && known.length && !known.some((name) => this.wanted.has(name)))
        words += ` This run has ranks 0 to ${last}.`;
    }
    if (!words) {
      this.empty?.remove();
      this.empty = null;
      return;
    }
    this.empty ??= make("li", "gap-row");
    if (this.empty.parentNode !== this.list) this.list.replaceChildren(this.empty);
    if (this.empty.textContent !== words) {
      this.empty.textContent = words;
      say(words);
    }
  }

  showFollowing() {
    const at = this.following && this.moving;
    this.log.classList.toggle("is-followed", at);
    const button = this.root.querySelector(".follow");
    if (button) button.hidden = at;
  }

  edge(element, wanted, words, buttons, above) {
    if (!wanted) {
      element?.remove();
      return null;
    }
    if (!element) {
      element = make("li", "gap-row");
      element.append(make("span"));
      for (const [action, label] of buttons) {
        const button = make("button", "btn btn-sm ms-2", label);
        button.type = "button";
        button.dataset.do = action;
        element.append(button);
      }
      if (above) {
        const link = make("a", "btn btn-sm ms-2", "Download all");
        link.href = this.root.dataset.download;
        element.append(link);
      }
    }
    if (above && this.list.firstChild !== element) this.list.prepend(element);
    if (!above && this.list.lastChild !== element) this.list.append(element);
    if (element.firstChild.textContent !== words) element.firstChild.textContent = words;
    return element;
  }

  stopMoving(dropped) {
    this.moving = false;
    this.shownTo = dropped[0]?.position ?? this.shownTo;
    this.screen = new Screen();
  }

  showState() {
    const place = this.root.querySelector("[data-state]");
    const h = this.header;
    if (!place || !h) return;
    const soFar = h.lines || !h.head ? `${lines(h.lines)} so far` : `${number(h.head)} bytes so far`;
    const over = h.ended || (this.keeps && document.querySelector("[data-ended]"));
    // Until the end is read, what the server has said of an output that has ended stands.
    if (over && this.cursor < h.head && !this.shownState && line.state !== "cut") return;
    let look, sign, words;
    if (this.complete)
      [look, sign, words] = [
        "t-ok",
        "bi-patch-check-fill",
        `Complete: ${number(this.cursor)} of ${number(h.head)} bytes, ${lines(h.lines)}`,
      ];
    else if (!line.open && line.state === "cut")
      [look, sign, words] = ["t-bad", "bi-wifi-off", `No connection; ${soFar}`];
    else if (over && h.next >= h.head)
      [look, sign, words] = ["t-warn", "bi-hourglass-split", "Ended; keeping the output…"];
    else if (h.head && (this.cursor < h.head || Date.now() - (this.newsAt ?? 0) < 2500))
      [look, sign, words] = ["t-ok", "bi-broadcast", `Receiving, ${soFar}`];
    else
      [look, sign, words] = ["muted", "bi-hourglass", h.head ? `Waiting for output, ${soFar}` : "Waiting for output"];
    clearTimeout(this.quiet);
    if (sign === "bi-broadcast") this.quiet = setTimeout(() => this.showState(), 2600);
    const key = words + h.agrees + JSON.stringify(h.sha256) + this.complete;
    if (key === this.shownState) return;
    this.shownState = key;
    const parts = [make("span", look)];
    parts[0].append(icon(sign), ` ${words}`);
    if (this.complete) {
      if (h.cut)
        parts.push(this.note("t-warn", "bi-scissors", `${number(h.cut)} more bytes were written and not stored`));
      if (h.agrees === true) parts.push(this.note("t-ok", "bi-check2", "agrees with the node's copy"));
      if (h.agrees === false)
        parts.push(this.note("t-bad", "bi-exclamation-triangle-fill", "differs from the node's copy"));
      const sums = Object.entries(h.sha256);
      const shown = sums.filter(([name]) => name === "stdout" || name === "stderr");
      for (const [name, sum] of shown.length ? shown : sums) parts.push(this.sum(name, sum));
    }
    place.replaceChildren(...parts);
  }

  note(look, sign, words) {
    const span = make("span", look);
    span.append(icon(sign), ` ${words}`);
    return span;
  }

  sum(name, sum) {
    const span = make("span", "muted nowrap", `sha256 of ${name} `);
    const button = make("button", "copy");
    button.type = "button";
    button.dataset.copy = sum;
    button.append(icon("bi-copy"), make("span", "visually-hidden", `Copy the checksum of ${name}`));
    span.append(make("span", "mono", `${sum.slice(0, 6)}…${sum.slice(-6)}`), button);
    return span;
  }

  // The window: at the end, or anywhere before it

  toEnd() {
    this.log.scrollTop = this.log.scrollHeight;
    this.scrolledTo = this.log.scrollTop;
  }

  /* Scroll so that this row stands so far below the upper edge; twice, because heights above it may be estimates. */
  place(row, below) {
    const once = () => {
      this.log.scrollTop += row.element.getBoundingClientRect().top - this.log.getBoundingClientRect().top - below;
    };
    once();
    requestAnimationFrame(once);
  }

  /* Rows of what is wanted from a position on, until there are so many bytes of it; and how far that went. */
  async range(from, to, most) {
    const screen = new Screen();
    let at = from;
    let got = 0;
    while (at < to && got < most) {
      const header = Viewer.read(await this.fetch(at, to));
      if (header.next <= at) break;
      for (const piece of header.pieces) {
        screen.feed(piece);
        got += piece.bytes.length;
      }
      at = header.next;
      this.header ??= header;
    }
    return [screen, at];
  }

  /* From where on there are REACH wanted bytes before a position. */
  async reach(before) {
    if (!this.wanted) return Math.max(0, before - REACH);
    let at = before;
    let found = 0;
    const turn = this.turn;
    while (at > 0 && found < REACH && turn === this.turn) {
      const answer = await (await this.get(this.root.dataset.reach, `before=${at}&enough=${REACH - found}`)).json();
      if (answer.position >= at) break;
      at = answer.position;
      found += answer.found;
    }
    return at;
  }

  /* Make the window anew: from a position on, or as far before `reach` as it takes. */
  async load({ from, reach, end, keep }) {
    const turn = ++this.turn;
    this.loading = true;
    this.log.ariaBusy = "true";
    const offset = keep && keep.element.getBoundingClientRect().top - this.log.getBoundingClientRect().top;
    const slow = setTimeout(() => {
      this.searching = true;
      this.showEmpty();
    }, 500);
    try {
      const begin = from ?? (await this.reach(reach));
      const target = this.cursor;
      let [screen, at] = turn === this.turn ? await this.range(begin, target, end ? Infinity : 3 * REACH) : [];
      if (turn !== this.turn) return;
      let [rows] = screen.taken();
      this.from = begin;
      if (end && rows.length > LIMIT) {
        rows = rows.slice(-LIMIT);
        this.from = rows[0].position;
      } else if (rows.length > LIMIT) {
        at = rows[LIMIT].position;
        rows = rows.slice(0, LIMIT);
      }
      this.waiting = [];
      this.screen = screen;
      this.rows = rows;
      this.top = this.bottom = null;
      this.begun = true;
      this.moving = end || at >= this.cursor;
      this.following = Boolean(end);
      this.shownTo = at;
      if (!this.moving) this.screen = new Screen();
      this.searching = false;
      const part = document.createDocumentFragment();
      for (const row of rows) part.append(this.build(row));
      this.list.replaceChildren(part);
      this.edges();
      if (end) this.toEnd();
      else if (keep) {
        const same = rows.findLast((row) => row.position <= keep.position);
        if (same) this.place(same, offset);
      }
      if (this.query) this.findSoon();
    } catch {
      if (turn === this.turn) {
        say("The lines could not be loaded; try again");
        if (this.searching) this.list.replaceChildren(...this.rows.map((row) => row.element));
      }
    } finally {
      clearTimeout(slow);
    }
    if (turn !== this.turn) return;
    this.searching = false;
    this.loading = false;
    this.log.ariaBusy = "false";
    this.showState();
    this.ask();
  }

  jump() {
    const head = Math.max(this.cursor, this.header?.head ?? 0);
    this.cursor = head;
    return this.load({ reach: head, end: true });
  }

  // Ranks, and the filter

  /* More is known of where ranks run. */
  async learn(count) {
    this.knownRanks = count;
    let nodes;
    try {
      nodes = await (await this.get(this.root.dataset.nodes, "")).json();
    } catch {
      this.knownRanks = 0; // the next frame asks again
      return;
    }
    const hosts = nodes.hosts ?? [];
    this.nodes = { hosts, of: new Map(Object.entries(nodes.of ?? {}).map(([name, index]) => [name, hosts[index]])) };
    for (const row of this.rows) if (row.rank) this.nameRank(row);
    const list = this.root.querySelector("datalist");
    if (list) {
      const choices = [...hosts.map((host) => [host, "all ranks of this node"]), ...this.nodes.of];
      list.replaceChildren(...choices.map(([value, label]) => Object.assign(make("option"), { value, label })));
    }
    this.showRanks();
    if (this.fields.rank?.value) this.filter();
    this.showEmpty();
  }

  showRanks() {
    this.ranked = true;
    this.root.classList.add("has-ranks");
    if (this.fields.rank && this.nodes.of.size) this.fields.rank.placeholder = `all ${number(this.nodes.of.size)}`;
  }

  filter() {
    const { rank, stream } = this.fields;
    const fault = this.root.querySelector("[data-fault]");
    let wanted;
    try {
      wanted = new Filter(rank?.value ?? "", stream?.value ?? "", this.nodes);
    } catch (error) {
      rank.ariaInvalid = "true";
      fault.textContent = error.message;
      return;
    }
    if (rank) rank.ariaInvalid = "false";
    if (fault) fault.textContent = "";
    const query = wanted.query;
    const same = query === (this.wanted?.query ?? "");
    this.wanted = query ? wanted : null; // even if the words are the same: which ranks a node has may be news
    if (same) return;
    const address = new URL(location);
    for (const name of ["rank", "stream"]) {
      if (wanted[name]) address.searchParams.set(name, wanted[name]);
      else address.searchParams.delete(name);
    }
    history.replaceState(history.state, "", address);
    const link = this.root.querySelector("[data-filtered]");
    if (link) {
      link.hidden = !query;
      link.firstElementChild.href = `${this.root.dataset.download}?${query}`;
      const only = [wanted.who, wanted.stream.replace(",", " and ")].filter(Boolean);
      link.firstElementChild.textContent = `Only ${only.join(", ")}`;
    }
    if (!this.header) this.cursor = Number(this.root.dataset.head);
    this.jump();
  }

  // What the reader can do

  wire() {
    const { root, log } = this;
    const keep = (name) => `viewer.${name}`;
    const stored = (name) => {
      try {
        return localStorage.getItem(keep(name));
      } catch {
        return null;
      }
    };
    for (const [name, usual] of [
      ["wrap", null],
      ["times", String(!NARROW.matches)],
    ]) {
      const button = root.querySelector(`[data-do=${name}]`);
      const wish = stored(name) ?? usual;
      if (button && wish !== null) this[name](button, wish === "true");
    }
    this.remember = (name, on) => {
      try {
        localStorage.setItem(keep(name), on);
      } catch {
        // private windows may refuse
      }
    };
    root.addEventListener("click", (event) => {
      const button = event.target.closest("[data-do]");
      if (button) this[button.dataset.do](button);
    });
    const form = root.querySelector("form");
    this.fields = { rank: form?.elements.rank, stream: form?.elements.stream };
    for (const [name, field] of Object.entries(this.fields)) {
      const asked = new URLSearchParams(location.search).get(name);
      if (field && asked) field.value = asked;
    }
    form?.addEventListener("submit", (event) => {
      event.preventDefault();
      this.filter();
    });
    form?.addEventListener("input", (event) => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.filter(), event.target === this.fields.rank ? 400 : 0);
    });
    const find = root.querySelector("[name=find]");
    find?.addEventListener("input", () => this.findSoon(true));
    find?.addEventListener("keydown", (event) => {
      if (event.key === "Enter") {
        event.preventDefault();
        this.step(event.shiftKey ? -1 : 1);
      } else if (event.key === "Escape") log.focus();
    });
    log.addEventListener("keydown", (event) => {
      if (event.target !== log || event.ctrlKey || event.metaKey || event.altKey) return;
      const act = {
        "/": () => find?.focus(),
        r: () => this.ranked && this.fields.rank?.focus(),
        n: () => this.step(1),
        p: () => this.step(-1),
        f: () => this.first(),
        e: () => this.end(),
        w: () => this.wrap(root.querySelector("[data-do=wrap]")),
        End: () => this.end(),
      }[event.key];
      if (act) {
        event.preventDefault();
        act();
      }
    });
    log.addEventListener(
      "scroll",
      () => {
        // Rows that were only estimated get their real height when they come into view, which scrolls too: somebody who
        // follows stops to do so by going up, not by the end moving away.
        const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 32;
        const wentUp = log.scrollTop < this.scrolledTo - 2;
        this.scrolledTo = log.scrollTop;
        if (atEnd || !this.following) this.following = atEnd && this.moving;
        else if (wentUp) this.following = false;
        this.showFollowing();
      },
      { passive: true },
    );
    new ResizeObserver(() => this.following && this.toEnd()).observe(this.list);
  }

  press(name, button, on) {
    const pressed = on ?? button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", pressed);
    this.remember?.(name, pressed);
    return pressed;
  }

  wrap(button, on) {
    this.log.classList.toggle("wrap", this.press("wrap", button, on));
  }

  times(button, on) {
    const pressed = this.press("times", button, on);
    this.log.classList.toggle("no-times", !pressed);
    this.log.classList.toggle("with-times", pressed);
  }

  end() {
    if (!this.moving) return this.jump();
    this.following = true;
    this.toEnd();
    this.edges();
    return undefined;
  }

  earlier() {
    if (this.rows.length) this.load({ reach: this.from, keep: this.rows[0] });
    this.log.focus();
  }

  later() {
    const keep = this.rows.at(-1);
    if (keep) this.load({ from: this.rows[this.rows.length >> 1].position, keep });
    this.log.focus();
  }

  first() {
    const row = this.rows.find((one) => one.stream === 2);
    if (row) this.show(row);
    else say("No stderr in the lines shown");
  }

  show(row) {
    this.here?.classList.remove("is-here");
    this.here = row.element;
    this.here.classList.add("is-here");
    this.following = false;
    this.place(row, this.log.clientHeight / 3);
    this.edges();
  }

  findSoon(typed = false) {
    clearTimeout(this.finding);
    this.finding = setTimeout(() => this.find(typed), typed ? 80 : 400);
  }

  find(typed) {
    const words = this.root.querySelector("[name=find]").value.toLowerCase();
    const before = this.hits[this.at]?.row;
    this.query = words;
    this.hits = [];
    this.at = -1;
    if (words) {
      for (const row of this.rows) {
        const text = row.element.lastChild.textContent.toLowerCase();
        for (let i = text.indexOf(words); i >= 0 && this.hits.length < 10000; i = text.indexOf(words, i + words.length))
          this.hits.push({ row, start: i, end: i + words.length });
      }
      this.at = before ? this.hits.findIndex((hit) => hit.row === before) : -1;
    }
    this.paintHits();
    if (typed && this.hits.length) this.step(this.at < 0 ? 1 : 0);
    else this.sayHits();
  }

  paintHits() {
    if (!window.CSS?.highlights) return;
    const range = (hit) => {
      const found = new Range();
      const walk = document.createTreeWalker(hit.row.element.lastChild, NodeFilter.SHOW_TEXT);
      let seen = 0;
      for (let node = walk.nextNode(); node; node = walk.nextNode()) {
        const end = seen + node.length;
        if (hit.start >= seen && hit.start < end) found.setStart(node, hit.start - seen);
        if (hit.end > seen && hit.end <= end) {
          found.setEnd(node, hit.end - seen);
          break;
        }
        seen = end;
      }
      return found;
    };
    CSS.highlights.set("found", new Highlight(...this.hits.slice(0, 1000).map(range)));
    CSS.highlights.set("found-here", new Highlight(...(this.hits[this.at] ? [range(this.hits[this.at])] : [])));
  }

  step(by) {
    if (!this.hits.length) return this.sayHits();
    this.at = (Math.max(this.at, by > 0 ? -1 : 0) + by + this.hits.length) % this.hits.length;
    this.show(this.hits[this.at].row);
    this.paintHits();
    return this.sayHits();
  }

  sayHits() {
    const place = this.root.querySelector("[data-hits]");
    if (!this.query) place.textContent = "";
    else if (!this.hits.length) place.textContent = "not in the lines shown";
    else place.textContent = `${this.at + 1 || "–"} of ${number(this.hits.length)} in the lines shown`;
  }
}

document.addEventListener("DOMContentLoaded", () => {
  for (const root of document.querySelectorAll("[data-viewer]")) root.viewer = new Viewer(root);
});
