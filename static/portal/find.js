/* Words in the rows that a page has of an output: found, marked, and gone through. */
"use strict";

// biome-ignore lint/correctness/noUnusedVariables: window.js uses it
class Find {
  constructor(view) {
    this.view = view; // an OutputWindow
    this.query = "";
    this.hits = [];
    this.at = -1;
  }

  /* Rows have left the page. */
  forget() {
    this.hits = this.hits.filter((hit) => hit.row.element?.isConnected);
  }

  /* There are other rows. */
  again() {
    if (this.query) this.soon();
  }

  soon(typed = false) {
    clearTimeout(this.finding);
    this.finding = setTimeout(() => this.look(typed), typed ? 80 : 400);
  }

  look(typed) {
    const words = this.view.root.querySelector("[name=find]").value.toLowerCase();
    const before = this.hits[this.at]?.row;
    this.query = words;
    this.hits = [];
    this.at = -1;
    if (words) {
      for (const row of this.view.rows) {
        if (!row.element) continue; // it is folded
        const text = row.element.children[3].textContent.toLowerCase();
        for (let i = text.indexOf(words); i >= 0 && this.hits.length < 10000; i = text.indexOf(words, i + words.length))
          this.hits.push({ row, start: i, end: i + words.length });
      }
      this.at = before ? this.hits.findIndex((hit) => hit.row === before) : -1;
    }
    this.paint();
    if (typed && this.hits.length) this.step(this.at < 0 ? 1 : 0);
    else this.tell();
  }

  paint() {
    if (!window.CSS?.highlights) return;
    const range = (hit) => {
      const found = new Range();
      const walk = document.createTreeWalker(hit.row.element.children[3], NodeFilter.SHOW_TEXT);
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
    if (!this.hits.length) return this.tell();
    this.at = (Math.max(this.at, by > 0 ? -1 : 0) + by + this.hits.length) % this.hits.length;
    this.view.show(this.hits[this.at].row);
    this.paint();
    return this.tell();
  }

  tell() {
    const place = this.view.root.querySelector("[data-hits]");
    if (!this.query) place.textContent = "";
    else if (!this.hits.length) place.textContent = "Not in the lines shown";
    else place.textContent = `${this.at + 1 || "–"} of ${number(this.hits.length)} in the lines shown`;
  }
}
