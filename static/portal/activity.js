/* How much each rank has written when, as a picture with a sentence, and who has fallen silent. */
"use strict";

const SVG = "http://www.w3.org/2000/svg";

// biome-ignore lint/correctness/noUnusedVariables: window.js uses it
class Activity {
  static NAMED = 8; // silent ranks that are named

  constructor(view) {
    this.view = view; // an OutputWindow
    this.place = view.root.querySelector("[data-activity]");
    if (!this.place) return;
    this.strip = this.place.querySelector("[data-strip]");
    this.words = this.place.querySelector("[data-words]");
    this.place.addEventListener("toggle", () => this.place.open && this.soon(0));
    this.strip.addEventListener("pointermove", (event) => this.name(event));
    this.strip.addEventListener("click", (event) => this.choose(event));
  }

  /* Now and again while more comes: sooner where it is looked at. */
  soon(ms = !this.data?.ranks.length ? 1000 : this.place?.open ? 5000 : 15_000) {
    if (!this.place) return;
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.look(), ms);
  }

  async look() {
    if (this.asking) return;
    if (document.hidden) return this.soon();
    this.asking = true;
    try {
      let data = null;
      do data = await (await this.view.get(this.view.root.dataset.activity, "")).json();
      while (data.read < data.head && data.read > (this.data?.read ?? -1) && !this.slow(data));
      this.data = data;
      this.show();
    } catch {
      // the next time
    } finally {
      this.asking = false;
    }
    if (!this.view.complete && !line.stopped) this.soon();
    return undefined;
  }

  /* A large output takes some calls; what is known is shown meanwhile. */
  slow(data) {
    this.data = data;
    this.show();
    return line.stopped;
  }

  show() {
    const { ranks, silent, quiet, nothing, most } = this.data;
    if (!ranks.length) return;
    const clock = (ms) => this.view.clock(ms)[0];
    const failed = ranks.filter((rank) => rank[3] !== null).sort((a, b) => a[3] - b[3])[0];
    const notes = [];
    if (failed) notes.push(["", `r${failed[0]} was the first to write to stderr, at ${clock(failed[3])}`, failed[0]]);
    for (const [name, since] of silent.slice(0, Activity.NAMED))
      notes.push(["t-warn", `r${name} is silent since ${clock(since)}`, name]);
    if (silent.length > Activity.NAMED) {
      const rest = silent.slice(Activity.NAMED).map(([name]) => name);
      notes.push(["t-warn", `so are ${rest.length} more: ${ranges(rest)}`]);
    }
    if (quiet) notes.push(["t-warn", `${quiet} of ${ranks.length} ranks have been silent for a minute or longer`]);
    if (nothing.length)
      notes.push(["muted", `${nothing.length === 1 ? "rank" : "ranks"} ${ranges(nothing)} wrote nothing`]);
    if (most) notes.push(["muted", `only the first ${number(most)} ranks are shown`]);
    const span = `${lasting(this.data.to - this.data.from)}, ${clock(this.data.from)} to ${clock(this.data.to)}`;
    const count = `${number(ranks.length)} ${ranks.length === 1 ? "rank" : "ranks"}`;
    const key = JSON.stringify([notes, span]);
    if (key !== this.said) {
      this.said = key;
      this.words.replaceChildren(...notes.map((note) => this.note(...note)));
      const short = silent.length ? `, ${silent.length} silent` : "";
      this.place.querySelector("[data-short]").textContent = `${count}, ${span}${short}`;
    }
    if (!this.place.open) return;
    const alternative = [`Output of ${count}, ${span}`, ...notes.map((note) => note[1])].join(". ");
    this.draw(ranks, `${alternative}.`);
  }

  note(look, words, rank) {
    if (!rank) return make("span", look, words);
    const button = make("button", `btn btn-sm btn-bare ${look}`, words);
    button.type = "button";
    button.title = `Show rank ${rank} alone`;
    button.addEventListener("click", () => this.view.only(rank));
    return button;
  }

  draw(ranks, words) {
    const columns = Math.max(...ranks.map((rank) => rank[1].length), 1);
    const paths = Array.from({ length: this.data.levels }, () => []);
    ranks.forEach(([, levels], y) => {
      for (let x = 0; x < levels.length; ) {
        const level = levels[x];
        let end = x + 1;
        while (levels[end] === level) end++;
        if (level !== "0") paths[level - 1].push(`M${x} ${y + 0.5}h${end - x - 0.05}`);
        x = end;
      }
    });
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${columns} ${ranks.length}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", words);
    svg.setAttribute("height", Math.ceil(ranks.length * Math.max(2, Math.min(10, 120 / ranks.length))));
    paths.forEach((path, level) => {
      const shape = document.createElementNS(SVG, "path");
      shape.setAttribute("class", `h${level + 1}`);
      shape.setAttribute("d", path.join(""));
      svg.append(shape);
    });
    this.strip.replaceChildren(svg);
  }

  under(event) {
    const box = this.strip.firstChild?.getBoundingClientRect();
    return box && this.data.ranks[Math.floor(((event.clientY - box.top) / box.height) * this.data.ranks.length)];
  }

  name(event) {
    const rank = this.under(event);
    this.strip.title = rank ? `rank ${rank[0]}, last output at ${this.view.clock(rank[2])[0]}` : "";
  }

  choose(event) {
    const rank = this.under(event);
    if (rank) this.view.only(rank[0]);
  }
}

function lasting(ms) {
  const s = Math.round(ms / 1000);
  if (s < 60) return `${s} s`;
  return s < 3600
    ? `${Math.floor(s / 60)} min ${s % 60} s`
    : `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}
