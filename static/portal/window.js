/* The rows of an output that are in the page: at most LIMIT. While the reader is at its end the window moves on, else
   it stands still, and what is not shown is said in words with its line numbers. Only text nodes are made, never
   markup.

   A filter by rank and stream decides what becomes a row: the live line brings everything, what lies behind is asked
   for with the filter.

   What extends it says how far the output is (`showState`), and knows where ranks run (`learn`, `showRanks`). */
"use strict";

const LIMIT = 5000; // rows in the page
const REACH = 192 * 1024; // wanted bytes before the window that "Load earlier" fetches
const SLICE = 12; // ms for which rows are made before the browser has its turn
const FAR = 2 * 1024 * 1024; // bytes behind the head that are jumped over by a reader who follows
const MARKS = { 1: "", 2: "stderr", 3: "portal", 4: "set-up" }; // in the rank's column, of what no rank wrote

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

const number = (n) => n.toLocaleString("en-US");
const lines = (n) => `${number(n)} ${n === 1 ? "line" : "lines"}`;
function make(tag, look, text) {
  const element = document.createElement(tag);
  if (look) element.className = look;
  if (text !== undefined) element.textContent = text;
  return element;
}

// biome-ignore lint/correctness/noUnusedVariables: viewer.js uses it
class OutputWindow extends Frames {
  constructor(root) {
    super(root);
    this.log = root.querySelector(".log");
    this.list = this.log.querySelector("ol");
    this.clocks = clocksOf(root.dataset.zone);
    this.shownTo = this.cursor;
    this.from = this.cursor; // where the window begins
    this.nodes = { hosts: [], of: new Map() }; // rank → hostname
    this.knownRanks = 0;
    this.turn = 0; // of what is loaded: what was asked for before the filter changed is dropped
    this.screen = new Screen();
    this.rows = [];
    this.waiting = []; // frames' pieces that are not rows yet
    this.unshown = []; // rows that are not in the page yet
    this.moving = true; // the window goes on with the cursor
    this.painting = 0;
    this.begun = false;
    this.following = !("still" in root.dataset);
    this.scrolledTo = 0;
    this.found = new Find(this);
    this.search = new Search(this);
    this.activity = new Activity(this);
    this.folds = new Folds();
    this.folding = true;
    this.regrouped = new Set(); // groups whose first row is to say that there are more of it
    this.top = null;
    this.bottom = null;
    this.empty = null;
  }

  /* A frame has come. Asks for the next one when this one is painted. */
  take(buffer, way) {
    const header = Frames.read(buffer);
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
    if (this.ranked && this.complete && !wasComplete) this.activity.soon(300);
    this.paintSoon(() => {
      if (way === "socket" || line.open || header.next < header.head) this.ask();
    });
    return true;
  }

  paintSoon(then = this.after) {
    this.after = then;
    if (this.painting) return;
    this.painting = requestAnimationFrame(() => {
      this.painting = 0;
      if (this.loading || !this.paint()) return void (this.loading || this.paintSoon());
      const next = this.after;
      this.after = null;
      next?.();
    });
  }

  /* Show what has come, as much of it as a moment allows. Whether that was all. */
  paint() {
    for (const piece of this.waiting) this.screen.feed(piece);
    this.waiting = [];
    const [fresh, touched] = this.screen.taken();
    this.unshown.push(...fresh);
    if (
      this.moving &&
      !this.following &&
      this.rows.length + this.unshown.length > LIMIT &&
      this.rows.length + this.unshown.length - fresh.length
    ) {
      // The reader looks at something: the window stops here, and ends with the rows it has.
      this.stopMoving(fresh);
      this.unshown.splice(this.unshown.length - fresh.length);
    }
    for (const row of touched) if (row.element?.isConnected) this.fill(row);
    for (const row of touched) if (row.line !== null && row.element?.isConnected) this.joins(row);
    if (this.unshown.length > LIMIT) this.unshown.splice(0, this.unshown.length - LIMIT);
    const part = document.createDocumentFragment();
    const until = performance.now() + SLICE;
    let count = 0;
    for (; count < this.unshown.length && (count % 16 || performance.now() < until); count++) {
      const row = this.unshown[count];
      if (!this.joins(row)) part.append(this.build(row));
      this.rows.push(row);
    }
    this.unshown.splice(0, count);
    if (this.bottom) this.bottom.before(part);
    else this.list.append(part);
    if (this.rows.length > LIMIT) this.drop(this.rows.length - LIMIT);
    this.edges();
    if (this.following) this.toEnd();
    if (count) this.found.again();
    this.showState();
    return !this.unshown.length;
  }

  /* Put all rows into the page anew, a moment's worth at a time: from the last one back, or from the first one on. */
  async fillList(backwards, turn) {
    this.folds = new Folds();
    for (const row of this.rows) row.element = row.group = null;
    const shown = this.rows.filter((row) => !this.joins(row));
    this.list.replaceChildren();
    this.top = this.bottom = null;
    while (shown.length) {
      const part = document.createDocumentFragment();
      const until = performance.now() + SLICE;
      let size = 0;
      while (size < shown.length && (size % 16 || performance.now() < until)) {
        size++;
        if (backwards) part.prepend(this.build(shown.at(-size)));
        else part.append(this.build(shown[size - 1]));
      }
      for (const row of backwards ? shown.splice(-size) : shown.splice(0, size))
        if (row.group?.rows.length > 1) this.mark(row.group);
      if (backwards) {
        this.list.prepend(part);
        this.toEnd();
      } else this.list.append(part);
      if (shown.length) await new Promise((next) => (document.hidden ? setTimeout(next) : requestAnimationFrame(next)));
      if (turn !== this.turn) return;
    }
    this.edges();
    this.found.again();
  }

  /* Whether a row is shown by another one, which says so. */
  joins(row) {
    const group = this.folding ? this.folds.join(row) : null;
    if (!group || group.rows.length < 2) {
      row.group = group;
      return false;
    }
    row.group = group;
    row.element?.remove();
    row.element = null;
    this.regrouped.add(group);
    if (!this.regrouping) {
      this.regrouping = true;
      queueMicrotask(() => {
        this.regrouping = false;
        for (const one of this.regrouped) this.mark(one);
        this.regrouped.clear();
      });
    }
    return true;
  }

  /* The first row of a group says on how many ranks it is the same, and shows them when asked. */
  mark(group) {
    const [head] = group.rows;
    if (!head?.element) return;
    const old = head.element.children[2];
    if (group.rows.length < 2) {
      old.replaceWith(this.whose(head));
      head.element.children[4]?.remove();
      return;
    }
    const button = old.tagName === "BUTTON" ? old : make("button", "rk");
    button.type = "button";
    button.textContent = `×${group.rows.length}${head.stream === 2 ? " err" : ""}`;
    button.title = `ranks ${ranges(group.rows.map((row) => row.rank))}`;
    button.ariaExpanded = String(Boolean(group.open));
    if (button !== old) {
      button.addEventListener("click", () => this.unfold(head.group));
      old.replaceWith(button);
      head.element.append(make("span", "same"));
    }
    head.element.lastChild.textContent = `same on ${group.rows.length} ranks`;
    if (group.open) this.unfold(group, true);
  }

  /* Show what a group is of, or hide it again. */
  unfold(group, open = !group.open) {
    for (const row of group.rows.slice(1)) row.element = null;
    group.open?.remove();
    group.open = null;
    const [head] = group.rows;
    if (open) {
      group.open = make("li", "fold");
      const list = make("ol");
      for (const row of group.rows) {
        const shown = row === head ? { ...row, group: null } : row;
        list.append(this.build(shown));
        if (shown !== row) shown.element.removeAttribute("id");
      }
      group.open.append(list);
      head.element.after(group.open);
    }
    head.element.children[2].ariaExpanded = String(open);
    this.found.again();
  }

  /* The first rows leave the page. Of a group, the next one takes the place of the first. */
  drop(count) {
    const without = new Set();
    for (const row of this.rows.splice(0, count)) {
      const { group } = row;
      if (group) {
        if (group.rows[0] === row) {
          group.open?.remove();
          group.open = null;
          for (const other of group.rows) if (other !== row) other.element = null;
          without.add(group);
        }
        group.rows.splice(group.rows.indexOf(row), 1);
      }
      row.element?.remove();
    }
    let next = null;
    const heads = new Set([...without].flatMap((group) => group.rows.slice(0, 1)));
    for (let i = this.rows.length - 1; i >= 0 && heads.size; i--) {
      const row = this.rows[i];
      if (heads.delete(row)) {
        const built = this.build(row);
        if (next) next.before(built);
        else if (this.bottom) this.bottom.before(built);
        else this.list.append(built);
        this.mark(row.group);
      }
      if (row.element?.parentNode === this.list) next = row.element;
    }
    this.found.forget();
    this.from = this.rows[0].position;
  }

  /* All rows anew, after what is folded has changed. */
  async redraw() {
    const turn = ++this.turn;
    this.loading = true;
    await this.fillList(this.following, turn);
    if (turn !== this.turn) return;
    this.loading = false;
    this.paintSoon();
    this.ask();
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
    row.element = li;
    const no = make("a", "no");
    no.tabIndex = -1;
    li.append(no, clock, this.whose(row), make("span", "x"));
    if (row.rank !== "" && !this.ranked) this.showRanks();
    this.fill(row);
    return li;
  }

  whose(row) {
    if (row.rank === "") return make("span", "rk", MARKS[row.stream]);
    const mark = make("abbr", "rk", `r${row.rank}${row.stream === 2 ? " err" : ""}`);
    const node = this.nodes.of.get(row.rank);
    mark.title = `rank ${row.rank}${node ? ` on ${node}` : ""}${row.stream === 2 ? ", stderr" : ""}`;
    return mark;
  }

  fill(row) {
    const x = row.element.children[3];
    if (row.line !== null) {
      row.element.id = `L${row.line}`;
      row.element.firstChild.textContent = row.line;
      row.element.firstChild.href = `#L${row.line}`;
    }
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
      const header = Frames.read(await this.fetch(at, to));
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
      this.unshown = [];
      clearTimeout(slow);
      await this.fillList(Boolean(end), turn);
      if (turn !== this.turn) return;
      if (end) this.toEnd();
      else if (keep) {
        const same = rows.findLast((row) => row.element && row.position <= keep.position);
        if (same) this.place(same, offset);
      }
    } catch {
      if (turn === this.turn) {
        say("The lines could not be loaded; try again");
        if (this.searching) await this.fillList(false, turn);
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

  end() {
    this.log.focus(); // what was pressed is gone
    if (!this.moving) return this.jump();
    this.following = true;
    this.toEnd();
    this.edges();
    return undefined;
  }

  earlier() {
    if (this.rows.length) this.load({ reach: this.from, keep: this.rows.find((row) => row.element) });
    this.log.focus();
  }

  later() {
    const keep = this.rows.findLast((row) => row.element);
    if (keep) this.load({ from: this.rows[this.rows.length >> 1].position, keep });
    this.log.focus();
  }

  /* Go to a line by its number, from wherever it is. */
  async goToLine(wanted) {
    const find = () => this.rows.find((row) => row.line === wanted);
    if (!find()) {
      let position = null;
      try {
        ({ position } = await (await this.get(this.root.dataset.reach, `line=${wanted}`)).json());
      } catch {
        return say("The line could not be loaded; try again");
      }
      if (position === null) {
        this.ask();
        return say(`There is no line ${number(wanted)} yet`);
      }
      if (!this.header) this.cursor = Number(this.root.dataset.head);
      await this.load({ from: Math.max(0, position - 64 * 1024) }); // it may have begun before
    }
    const row = find();
    return row ? this.show(row) : say(`Line ${number(wanted)} is not among what is shown`);
  }

  /* Go to what a rank wrote last before it failed: its last traceback, or its last line. */
  async goToFailure(rank) {
    const head = Math.max(this.header?.head ?? 0, Number(this.root.dataset.head));
    let at = { found: 0 };
    try {
      for (const stream of ["stderr", "stdout"]) {
        const query = new URLSearchParams({ rank, stream, before: head, enough: 2000 });
        if (!at.found) at = await (await fetch(`${this.root.dataset.reach}?${query}`, { cache: "no-store" })).json();
      }
    } catch {
      return say("The lines could not be loaded; try again");
    }
    if (!at.found) return say(`Rank ${rank} has written nothing`);
    if (this.wanted) this.everything();
    if (!this.header) this.cursor = head;
    await this.load({ from: Math.max(0, at.position - 32 * 1024) });
    const its = this.rows.filter((row) => row.rank === rank);
    const row = its.findLast((one) => textOf(one).startsWith("Traceback")) ?? its.at(-1);
    if (row) this.show(row);
    this.log.focus();
    return undefined;
  }

  show(row) {
    if (!row.element) {
      const { group } = row;
      if (!group.open) this.unfold(group);
    }
    this.here?.classList.remove("is-here");
    this.here = row.element;
    this.here.classList.add("is-here");
    this.following = false;
    this.place(row, this.log.clientHeight / 3);
    this.edges();
  }
}
