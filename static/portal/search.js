/* Words in all of an output: asked of the portal, a stretch at a time, and shown as a list of links to lines. */
"use strict";

// biome-ignore lint/correctness/noUnusedVariables: window.js uses it
class Search {
  static MOST = 200; // lines, until asked for more

  constructor(view) {
    this.view = view; // an OutputWindow
    this.panel = view.root.querySelector("[data-found]");
    this.turn = 0;
    if (!this.panel) return;
    this.list = this.panel.querySelector("ol");
    this.panel.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button?.dataset.found === "close") this.close();
      else if (button?.dataset.found === "more") this.on();
    });
  }

  start(words) {
    if (!this.panel || !words) return;
    this.words = words;
    this.next = "0:0";
    this.hits = 0;
    this.list.replaceChildren();
    this.panel.hidden = false;
    this.on();
  }

  close() {
    this.turn++;
    this.panel.hidden = true;
    this.view.log.focus();
  }

  async on() {
    const turn = ++this.turn;
    const most = this.hits + Search.MOST;
    this.tell(null);
    try {
      while (this.next !== null && this.hits < most) {
        const query = new URLSearchParams({ find: this.words, after: this.next });
        const url = this.view.root.dataset.search;
        const answer = await (await this.view.get(url, query, { Accept: "application/json" })).json();
        if (turn !== this.turn) return;
        this.next = answer.next;
        this.hits += answer.hits.length;
        this.list.append(...answer.hits.map((hit) => this.build(hit)));
        this.tell(answer);
      }
    } catch {
      if (turn === this.turn) this.say("The portal does not answer; search again.");
    }
  }

  tell(answer) {
    const found = this.hits ? lines(this.hits) : "No line";
    const verb = this.hits > 1 ? "have" : "has";
    let words = `${found} so far ${verb} “${this.words}”`;
    if (answer && this.next === null) words = `${found} ${verb} “${this.words}”, in all ${number(answer.head)} bytes.`;
    else if (answer) words += `; looked through ${number(answer.looked)} of ${number(answer.head)} bytes`;
    this.say(words);
    this.panel.querySelector("[data-found=more]").hidden = !(answer && this.next !== null);
  }

  say(words) {
    this.panel.querySelector("[data-words]").textContent = words;
  }

  build(hit) {
    const item = make("li");
    const link = make("a", "", hit.line ? `Line ${number(hit.line)}` : "No end yet");
    link.href = hit.line ? `#L${hit.line}` : "#";
    link.addEventListener("click", (event) => {
      if (hit.line && location.hash !== link.hash) return; // the page hears of its address
      event.preventDefault();
      if (hit.line) this.view.goToLine(hit.line);
      else this.view.load({ from: hit.position });
    });
    const who = hit.rank === "" ? NAMES[hit.stream] : `r${hit.rank}${hit.stream === 2 ? " err" : ""}`;
    const text = make("span", "mono");
    const at = hit.text.toLowerCase().indexOf(this.words.toLowerCase());
    if (at < 0) text.textContent = hit.text;
    else {
      const end = at + this.words.length;
      text.append(hit.text.slice(0, at), make("mark", "", hit.text.slice(at, end)), hit.text.slice(end));
    }
    item.append(link, make("span", "muted", ` ${this.view.clock(hit.ms)[0]} ${who} `), text);
    return item;
  }
}
