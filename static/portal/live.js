/* The page's one line to the portal: a socket that says "look again", and plain HTTP every 5 s while there is none.

   The page says what it watches with data-live="task.UUID cluster.UUID". Elements with data-on="task.UUID" and hx-get
   are fetched again when that changed, and all of them after every connect: something may have happened in between.
   After the first one only a moment later, and only if nothing was fetched meanwhile: the page has just been made.
   data-every="3" fetches at least so often. data-say is spoken when it changes; data-title becomes the page's title;
   data-since="2026-11-24T15:42:36Z" is counted up, data-until down; data-ended says that nothing more will come. */
"use strict";

const line = {
  POLL: 5000,
  DEAF: 25000, // two beats and a half of the server
  FRESH: 500, // a page that was just made is as it is told
  CALM: 500, // between two fetches of one element, in the long run
  AT_ONCE: 5, // that need not wait for each other after a quiet time: a short run is over before the first pause is
  socket: null,
  open: false,
  wasOpen: false,
  crowded: false, // the person has too many pages open for a socket each
  stopped: false,
  state: "",
  since: null, // when the connection was lost
  heard: 0,
  pause: 500,
  viewers: [],
  skew: Number(document.querySelector("meta[name=now]")?.content ?? Date.now()) - Date.now(),

  start() {
    this.names = [
      ...new Set([...document.querySelectorAll("[data-live]")].flatMap((e) => e.dataset.live.split(/\s+/))),
    ].filter(Boolean);
    setInterval(() => this.tick(), 1000);
    if (!this.names.length) return;
    this.connect();
    addEventListener("online", () => this.retryNow());
    addEventListener("offline", () => this.offline());
    document.addEventListener("visibilitychange", () => this.shown());
  },

  connect() {
    if (this.stopped || this.socket) return;
    const socket = new WebSocket(`${location.origin.replace("http", "ws")}/live/`);
    this.socket = socket;
    this.heard = Date.now();
    socket.binaryType = "arraybuffer";
    socket.onopen = () => socket.send(JSON.stringify({ watch: this.names }));
    socket.onmessage = (event) => {
      this.heard = Date.now();
      if (typeof event.data !== "string") {
        for (const viewer of this.viewers) viewer.take(event.data, "socket");
        return;
      }
      const news = JSON.parse(event.data);
      if (news.watching) this.connected();
      if (news.changed) this.changed(new Set(news.changed));
    };
    socket.onclose = (event) => this.closed(socket, event.code);
  },

  connected() {
    this.open = true;
    this.pause = 500;
    this.since = null;
    clearTimeout(this.polling);
    this.polling = null;
    this.show("live");
    if (this.wasOpen) this.changed(null);
    else setTimeout(() => this.changed(null, true), this.FRESH);
    this.wasOpen = true;
    for (const viewer of this.viewers) viewer.ask();
  },

  closed(socket, code) {
    if (socket !== this.socket) return;
    this.socket = null;
    this.open = false;
    for (const viewer of this.viewers) viewer.lineLost();
    if (code === 4401) return this.signedOut();
    if (code === 4404) return this.gone();
    this.crowded = code === 4429;
    this.since ??= new Date();
    this.again = setTimeout(() => this.connect(), this.pause * (0.75 + Math.random() / 2));
    this.pause = Math.min(10000, this.pause * 2);
    // A restart of the portal takes a second or two: only then is it worth saying.
    this.polling ??= setTimeout(() => this.poll(), 1500);
  },

  /* The browser says at once what silence would say in half a minute. It may be wrong where the portal is near. */
  offline() {
    if (this.stopped) return;
    this.drop();
    this.show("cut");
  },

  drop() {
    const socket = this.socket;
    if (!socket) return;
    this.closed(socket, 1006);
    socket.onmessage = null;
    socket.close();
  },

  retryNow() {
    if (this.socket || this.stopped) return;
    clearTimeout(this.again);
    this.connect();
  },

  /* Without a socket: everything that the page shows is asked for by plain HTTP. */
  async poll() {
    if (this.open || this.stopped) return;
    this.polling = setTimeout(() => this.poll(), this.POLL);
    if (document.hidden) return;
    let answered = false;
    try {
      answered = (await fetch("/healthz", { cache: "no-store" })).ok;
    } catch {
      // no network, or no portal
    }
    if (this.open || this.stopped) return;
    this.show(answered ? "late" : "cut");
    if (!answered) return;
    this.changed(null);
    for (const viewer of this.viewers) viewer.ask();
  },

  shown() {
    if (document.hidden) return;
    if (this.socket && Date.now() - this.heard > this.DEAF) this.socket.close();
    for (const element of document.querySelectorAll("[data-on]"))
      if (this.fetches.get(element.id)?.wanted) this.fetchSoon(element);
    if (!this.open) this.retryNow();
  },

  tick() {
    // A dead line may take minutes to close by itself.
    if (this.open && Date.now() - this.heard > this.DEAF) this.drop();
    for (const element of document.querySelectorAll("[data-every]")) {
      const last = this.fetches.get(element.id)?.last ?? this.began;
      if (Date.now() - last >= Number(element.dataset.every) * 1000 && !document.hidden && !this.stopped)
        this.fetchSoon(element);
    }
    for (const element of document.querySelectorAll("[data-since]")) {
      const text = this.duration((Date.now() + this.skew - Date.parse(element.dataset.since)) / 1000);
      if (element.textContent !== text) element.textContent = text;
    }
    for (const element of document.querySelectorAll("[data-until]")) {
      const text = this.duration((Date.parse(element.dataset.until) - Date.now() - this.skew) / 1000);
      if (element.textContent !== text) element.textContent = text;
    }
  },

  duration(seconds) {
    const s = Math.max(0, Math.floor(seconds));
    const two = (n) => String(n).padStart(2, "0");
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min ${two(s % 60)} s`;
    return `${Math.floor(s / 3600)} h ${two(Math.floor(s / 60) % 60)} min`;
  },

  /* What is fetched again: by element id, promptly the first times and then at most once in CALM. */
  began: Date.now(),
  fetches: new Map(),

  changed(names, onlyOld = false) {
    for (const element of document.querySelectorAll("[data-on]")) {
      if (onlyOld && this.fetches.has(element.id)) continue;
      if (!names || element.dataset.on.split(/\s+/).some((name) => names.has(name))) this.fetchSoon(element);
    }
  },

  fetchSoon(element) {
    let one = this.fetches.get(element.id);
    if (!one) {
      one = { last: 0, paid: 0, busy: false, wanted: false, timer: null };
      this.fetches.set(element.id, one);
    }
    one.wanted = true;
    if (one.busy && Date.now() - one.last > 15000) one.busy = false; // its answer was lost
    if (one.busy || one.timer || document.hidden || this.stopped) return;
    const go = () => {
      one.timer = null;
      const now = document.getElementById(element.id);
      if (!now || document.hidden || this.stopped) return;
      one.wanted = false;
      one.busy = true;
      one.last = Date.now();
      one.paid = Math.max(one.paid, one.last) + this.CALM;
      htmx.trigger(now, "refresh");
    };
    const wait = one.paid - (this.AT_ONCE - 1) * this.CALM - Date.now();
    if (wait <= 0) go();
    else one.timer = setTimeout(go, wait);
  },

  fetched(element, xhr) {
    const one = this.fetches.get(element.id);
    if (!one) return;
    one.busy = false;
    if (xhr?.status === 404 || xhr?.status === 403) this.gone();
    else if (one.wanted) this.fetchSoon(element);
  },

  signedOut() {
    this.stop();
    this.show("out");
  },

  gone() {
    this.stop();
    this.show("gone");
    // The portal's own page says what there is to say; not in a circle, though.
    if (performance.now() > 4000) location.reload();
  },

  stop() {
    this.stopped = true;
    this.open = false;
    clearTimeout(this.polling);
    clearTimeout(this.again);
    this.socket?.close();
  },

  show(state) {
    if (state) this.state = state;
    const ended =
      this.state === "live" && document.querySelector("[data-ended]") && this.viewers.every((v) => v.complete);
    const mark = document.getElementById("live");
    if (!mark || !this.state) return; // not connected for the first time yet
    const at = this.since ? this.since.toISOString().slice(11, 19) : "";
    const [look, icon, words] = {
      live: ended ? ["", "bi-check2-circle", "Ended; nothing more will come"] : ["", "bi-broadcast", "Live"],
      late: [
        "is-late",
        "bi-arrow-clockwise",
        this.crowded ? "Many of your pages are open: this one asks every 5 s" : "Asking every 5 s",
      ],
      cut: ["is-cut", "bi-wifi-off", `No connection since ${at} UTC`],
      out: ["is-cut", "bi-box-arrow-right", "Signed out."],
      gone: ["is-cut", "bi-slash-circle", "No longer yours to see"],
    }[this.state];
    if (mark.dataset.words !== words) {
      if (mark.dataset.words && this.state !== "live") say(words);
      mark.dataset.words = words;
      mark.className = `live ${look}`;
      const i = document.createElement("i");
      i.className = `bi ${icon}`;
      i.ariaHidden = "true";
      const text = document.createElement("span");
      text.textContent = words;
      mark.replaceChildren(i, text);
      if (this.state === "out") {
        const link = document.createElement("a");
        link.href = `/accounts/login/?next=${encodeURIComponent(location.pathname)}`;
        link.textContent = "Sign in";
        mark.append(link);
      }
      mark.hidden = false;
    }
    for (const viewer of this.viewers) viewer.showState();
  },

  /* After a swap: speak what changed, and take over the title. */
  spoken: new Map(),
  listen() {
    for (const element of document.querySelectorAll("[data-say]")) {
      const before = this.spoken.get(element.id);
      if (before !== undefined && before !== element.dataset.say) say(element.dataset.say);
      this.spoken.set(element.id, element.dataset.say);
    }
    const title = document.querySelector("[data-title]")?.dataset.title;
    if (title) document.title = title;
    if (this.state) this.show();
    this.tick();
  },
};

if (window.Idiomorph) {
  // A reader's open <details>, ticks and half-typed words are theirs.
  Idiomorph.defaults.callbacks.beforeNodeMorphed = (node) =>
    !(node === document.activeElement && node.matches("input, select, textarea"));
  Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name, node) =>
    !(name === "open" && node.tagName === "DETAILS") && !(name === "checked" && node.matches("input"));
}

document.addEventListener("htmx:beforeSwap", (event) => {
  // A fetch that was sent to the sign-in page must not paint it into this one.
  if (new URL(event.detail.xhr.responseURL || location.href).pathname.startsWith("/accounts/login")) {
    event.detail.shouldSwap = false;
    line.signedOut();
  }
});
// htmx reads an address when it looks at an element, which is a moment after that was changed: a task that has dropped
// down just now would be shut again.
document.addEventListener("htmx:configRequest", ({ detail }) => {
  if (detail.triggeringEvent?.type === "refresh") detail.path = detail.elt.getAttribute("hx-get");
});
// What another element has put into its place is fetched, too.
document.addEventListener("htmx:afterRequest", ({ detail }) => {
  for (const element of new Set([detail.elt, detail.target])) line.fetched(element, detail.xhr);
});
document.addEventListener("htmx:afterSettle", () => line.listen());
document.addEventListener("DOMContentLoaded", () => {
  line.start(); // first: it knows by how much the clocks differ
  line.listen();
});
