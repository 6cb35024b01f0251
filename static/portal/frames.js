/* What a page has of an output: frames, each asked for by the position of the next byte that is not there yet, by the
   page's socket or by plain HTTP. A frame is what `portal.tasks.output.frame` makes; one that begins elsewhere is
   dropped, so that nothing is shown twice and nothing is left out. Whoever extends this takes them (`take`). */
"use strict";

// biome-ignore lint/correctness/noUnusedVariables: window.js uses it
class Frames {
  constructor(root) {
    this.root = root;
    this.output = root.dataset.output;
    this.url = root.dataset.frame;
    // A run's output is complete when it is in the store; a task's when it has ended, and it may go on after a retry.
    this.keeps = "keeps" in root.dataset;
    this.cursor = Number(root.dataset.start);
    this.told = { ended: false, kept: false };
    this.header = null; // of the last frame
    this.wanted = null; // a Filter; null: everything
    this.asking = null;
  }

  get complete() {
    return Boolean(this.header?.ended && (this.header.kept || !this.keeps) && this.cursor >= this.header.head);
  }

  /* One frame is in flight. */
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

  async get(url, query, headers = {}) {
    const filter = this.wanted ? `&${this.wanted.query}` : "";
    const response = await fetch(`${url}?${query}${filter}`, { cache: "no-store", headers });
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
}
