/* The output viewer: a window (`window.js`) of rows (`screen.js`) on what comes of an output (`frames.js`), with the
   state of that in words, the fields of the filter (`filter.js`), words that are looked for (`find.js`), keys and
   buttons. */
"use strict";

const NARROW = matchMedia("(max-width: 61.99rem)"); // as in portal.css

function icon(name) {
  const i = make("i", `bi ${name}`);
  i.ariaHidden = "true";
  return i;
}

/* #L123 asks for line 123. */
function lineOfAddress() {
  return Number(location.hash.match(/^#L([1-9]\d{0,14})$/)?.[1] ?? 0);
}

class Viewer extends OutputWindow {
  constructor(root) {
    super(root);
    this.wire();
    line.viewers.push(this);
    const asked = lineOfAddress();
    if (asked) this.following = false;
    if (this.fields.rank?.value || this.fields.stream?.value) this.filter(Boolean(asked));
    else if (!asked) this.askByHttp();
    if (asked) this.goToLine(asked);
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
    else if (over && h.next >= h.head && h.late)
      [look, sign, words] = [
        "t-warn",
        "bi-hourglass-split",
        "Ended; all of it is here, but its store does not take it. The portal tries again.",
      ];
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
    for (const row of this.rows)
      if (row.rank && row.element?.children[2].tagName === "ABBR") row.element.children[2].replaceWith(this.whose(row));
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
    this.activity.soon(300);
    if (this.fields.rank && this.nodes.of.size) this.fields.rank.placeholder = `all ${number(this.nodes.of.size)}`;
  }

  /* Show what one rank wrote. */
  only(rank) {
    if (!this.fields.rank) return;
    this.fields.rank.value = rank;
    this.filter();
    this.log.focus();
  }

  /* Take the filter off, without loading anything. */
  everything() {
    this.fields.rank.value = this.fields.stream.value = "";
    this.filter(true);
  }

  filter(still = false) {
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
    if (still) return;
    if (!this.header) this.cursor = Number(this.root.dataset.head);
    this.jump();
  }

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
      ["fold", null],
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
    addEventListener("hashchange", () => {
      const asked = lineOfAddress();
      if (asked) this.goToLine(asked);
    });
    document.addEventListener("click", (event) => {
      const link = event.target.closest("[data-failed]");
      if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      root.scrollIntoView({ block: "nearest" });
      this.goToFailure(link.dataset.failed);
    });
    root.querySelector("form[data-search]")?.addEventListener("submit", (event) => {
      event.preventDefault();
      this.search.start(root.querySelector("[name=find]").value);
    });
    const form = root.querySelector("form[data-filter]");
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
    find?.addEventListener("input", () => this.found.soon(true));
    find?.addEventListener("keydown", (event) => {
      if (event.key === "Enter") {
        event.preventDefault();
        if (this.found.hits.length) this.found.step(event.shiftKey ? -1 : 1);
        else this.search.start(find.value);
      } else if (event.key === "Escape") log.focus();
    });
    log.addEventListener("keydown", (event) => {
      if (event.target !== log || event.ctrlKey || event.metaKey || event.altKey) return;
      const act = {
        "/": () => find?.focus(),
        r: () => this.ranked && this.fields.rank?.focus(),
        n: () => this.found.step(1),
        p: () => this.found.step(-1),
        f: () => this.first(),
        g: () => this.fold(root.querySelector("[data-do=fold]")),
        l: () => this.link(),
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

  fold(button, on) {
    if (this.loading) return;
    const pressed = this.press("fold", button, on);
    if (pressed === this.folding) return;
    this.folding = pressed;
    this.redraw();
  }

  /* The address becomes that of the line that was found last. */
  link() {
    const found = this.here?.firstChild.textContent;
    if (!found) return say("Find a line first");
    history.replaceState(history.state, "", `#L${found}`);
    return say(`The address is that of line ${found}`);
  }

  times(button, on) {
    const pressed = this.press("times", button, on);
    this.log.classList.toggle("no-times", !pressed);
    this.log.classList.toggle("with-times", pressed);
  }

  first() {
    const row = this.rows.find((one) => one.stream === 2);
    if (row) this.show(row);
    else say("No stderr in the lines shown");
  }
}

document.addEventListener("DOMContentLoaded", () => {
  for (const root of document.querySelectorAll("[data-viewer]")) root.viewer = new Viewer(root);
});
