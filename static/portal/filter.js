/* Which writers' lines of an output are wanted: what people write in the fields, as `portal.tasks.output.Filter` reads
   it too. */
"use strict";

const NAMES = { 1: "stdout", 2: "stderr", 3: "portal", 4: "setup" };

// biome-ignore lint/correctness/noUnusedVariables: viewer.js uses it
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
