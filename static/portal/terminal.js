/* The terminal of a page: xterm.js on one side, the socket of clusters/consumers.py on the other. What is shown is told
   to the portal, and what was typed goes no faster than the node takes it, so that neither piles up.

   A connection that is lost is made again, and the terminal goes on where it was; after a reload of the page, too, by
   the token in this tab's sessionStorage. */
"use strict";

const terminal = {
  RETRY: 45000, // how long a lost connection is tried again; the portal keeps the terminal for 30 s
  DEAF: 25000, // two beats and a half of the server
  SHOWN: 16384, // bytes after which the portal is told that they are shown; otherwise after a moment
  PIECE: 8192, // bytes of typing in one message
  encoder: new TextEncoder(),
  socket: null,
  at: 0, // up to which byte we have what it says
  shown: 0,
  told: 0,
  before: 0, // up to there it was said before this page came: questions in it were answered then
  sent: 0, // bytes of typing that have gone
  typed: 0, // of which the node has taken so many
  waiting: [], // what is typed and has not gone
  over: false,
  lost: 0, // since when there is no connection
  greet: false, // it was lost: that it is there again is said aloud
  heard: 0,

  async start(box) {
    this.box = box;
    this.words = document.getElementById("terminal-words");
    this.screen = document.getElementById("terminal-screen");
    this.typing = Number(box.dataset.typing);
    this.key = `terminal ${box.dataset.socket} ${document.body.dataset.person}`;
    const [{ Terminal }, { FitAddon }] = await Promise.all([
      import(box.dataset.xterm),
      import(box.dataset.fit),
      document.fonts.load('14px "Plex Mono"'),
      document.fonts.load('600 14px "Plex Mono"'),
    ]);
    this.term = new Terminal({
      fontFamily: getComputedStyle(document.documentElement).getPropertyValue("--cx-mono"),
      fontSize: 14,
      scrollback: 5000,
      cursorBlink: !matchMedia("(prefers-reduced-motion: reduce)").matches,
      minimumContrastRatio: 4.5,
      rescaleOverlappingGlyphs: true,
      theme: this.colours(),
      screenReaderMode: localStorage.getItem("terminal reader") === "yes",
    });
    this.fit = new FitAddon();
    this.term.loadAddon(this.fit);
    this.term.open(this.screen);
    this.term.textarea.setAttribute("aria-label", `${box.getAttribute("aria-label")}. Shift F6 leaves it.`);
    this.term.textarea.setAttribute("aria-keyshortcuts", "Shift+F6");
    this.fit.fit();
    this.term.onData((text) => this.type(this.encoder.encode(text)));
    this.term.onBinary((text) => this.type(Uint8Array.from(text, (c) => c.charCodeAt(0))));
    this.term.onResize(({ cols, rows }) => this.say({ size: [cols, rows] }));
    this.term.onSelectionChange(() => {
      this.button("copy").disabled = !this.term.hasSelection();
    });
    this.term.attachCustomKeyEventHandler((event) => this.keep(event));
    this.screen.addEventListener("paste", (event) => this.paste(event), true);
    new ResizeObserver(() => this.fit.fit()).observe(this.screen);
    new MutationObserver(() => {
      this.term.options.theme = this.colours();
    }).observe(document.documentElement, { attributeFilter: ["data-bs-theme"] });
    box.addEventListener("click", (event) => this.press(event.target.closest("[data-do]")?.dataset.do));
    this.button("reader").setAttribute("aria-pressed", String(this.term.options.screenReaderMode));
    addEventListener("online", () => this.lost && this.connect());
    setInterval(() => this.tick(), 1000);
    this.connect();
    this.term.focus();
  },

  /* The tokens of the theme; the sixteen colours are the output viewer's. */
  colours() {
    const style = getComputedStyle(this.box ?? document.documentElement);
    const token = (name) => style.getPropertyValue(`--cx-term${name}`).trim();
    return {
      background: token(""),
      foreground: token("-ink"),
      cursor: token("-ink"),
      cursorAccent: token(""),
      selectionBackground: token("-select"),
      black: "#22313d",
      red: token("-bad"),
      green: token("-ok"),
      yellow: token("-warn"),
      blue: token("-info"),
      magenta: "#d3a6f5",
      cyan: "#7fd4d9",
      white: token("-ink"),
      brightBlack: token("-dim"),
      brightRed: "#ffb8b0",
      brightGreen: "#a5e8c1",
      brightYellow: "#f9dba0",
      brightBlue: "#b0dafa",
      brightMagenta: "#e5c8fb",
      brightCyan: "#abe8ec",
      brightWhite: "#ffffff",
    };
  },

  button(name) {
    return this.box.querySelector(`[data-do="${name}"]`);
  },

  tell(words, spoken = true) {
    if (this.words.textContent === words) return;
    this.words.textContent = words;
    if (spoken) say(words);
  },

  /* False for keys that the terminal is not to have. */
  keep(event) {
    if (event.type !== "keydown") return true;
    const key = event.key.toLowerCase();
    const control = (event.ctrlKey || event.metaKey) && !event.altKey;
    if (key === "f6" && event.shiftKey) {
      event.preventDefault();
      const way = this.over ? '[data-do="again"]' : ".bar button:not([disabled], [hidden])";
      this.box.querySelector(way).focus();
      return false;
    }
    if (control && key === "c" && (event.shiftKey || this.term.hasSelection())) {
      event.preventDefault();
      this.press("copy");
      return false;
    }
    // The browser's own way to paste: it asks for no right to read the clipboard.
    return !(control && key === "v" && (event.shiftKey || event.metaKey));
  },

  /* Without control characters, which xterm.js leaves in: a text could end the paste by itself, and press Enter. */
  paste(event) {
    event.preventDefault();
    event.stopPropagation();
    this.term.paste(event.clipboardData.getData("text/plain").replace(/[^\P{Cc}\t\n\r]/gu, ""));
  },

  async press(name) {
    if (name === "copy" && this.term.hasSelection()) {
      try {
        await navigator.clipboard.writeText(this.term.getSelection());
        say("Copied");
      } catch {
        say("This browser does not let the page copy");
      }
      this.term.clearSelection();
      this.term.focus();
    } else if (name === "reader") {
      const on = !this.term.options.screenReaderMode;
      this.term.options.screenReaderMode = on;
      localStorage.setItem("terminal reader", on ? "yes" : "no");
      this.button("reader").setAttribute("aria-pressed", String(on));
      say(on ? "What the terminal says is read out" : "What the terminal says is not read out");
      this.term.focus();
    } else if (name === "end") {
      this.say({ end: true });
    } else if (name === "again") {
      this.term.reset();
      this.over = false;
      this.ask = null;
      this.connect();
      this.term.focus();
    }
  },

  /* The connection */

  get kept() {
    try {
      return JSON.parse(sessionStorage.getItem(this.key));
    } catch {
      return null;
    }
  },

  connect() {
    if (this.socket || this.over) return;
    clearTimeout(this.retry);
    const socket = new WebSocket(location.origin.replace("http", "ws") + this.box.dataset.socket);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.heard = Date.now();
    socket.onopen = () => {
      const size = [this.term.cols, this.term.rows];
      const mine = this.ask ?? this.kept;
      this.guessing = Boolean(mine) && !this.ask; // this tab had one; it may be long over
      if (mine) this.say({ ...mine, after: this.ask ? this.at : null, size });
      else this.say({ open: size });
    };
    socket.onmessage = ({ data }) => {
      this.heard = Date.now();
      if (typeof data === "string") this.hear(JSON.parse(data));
      else this.show(new Uint8Array(data));
    };
    socket.onclose = (event) => this.closed(socket, event.code);
    this.tell(this.ask || this.kept ? "Connecting again…" : "Connecting…", Boolean(this.lost));
  },

  hear(news) {
    if ("resume" in news) this.opened(news);
    if ("typed" in news) {
      this.typed = news.typed;
      this.send();
    }
    if ("notice" in news) {
      this.tell(news.notice || "Connected", Boolean(news.notice) || this.greet);
      if (!news.notice) this.greet = false;
    }
    if ("over" in news) this.ended(news.over);
  },

  opened(news) {
    this.guessing = false;
    const same = this.ask?.resume === news.resume;
    this.ask = { resume: news.resume, terminal: news.terminal };
    sessionStorage.setItem(this.key, JSON.stringify(this.ask));
    if (!same || news.fresh) this.term.reset();
    // What was on its way when the connection was lost may have been taken, or not: typing goes on behind it.
    this.sent = this.typed = news.typed;
    this.at = this.told = news.from;
    this.shown = news.from;
    this.before = news.fresh ? news.head : 0;
    this.button("end").disabled = false;
    this.button("again").hidden = true;
    this.greet ||= Boolean(this.lost);
    this.lost = 0;
  },

  closed(socket, code) {
    if (socket !== this.socket) return;
    this.socket = null;
    this.button("end").disabled = true;
    if (this.over) return;
    if (code === 4429) return this.ended("Too many of your pages are open: close some of them.");
    this.lost ||= Date.now();
    if (Date.now() - this.lost > this.RETRY) return this.ended("The portal could not be reached in time.");
    this.tell("The connection was lost. Connecting again…");
    this.retry = setTimeout(() => this.connect(), code === 4409 ? 1000 : 500 + Math.random() * 500);
  },

  ended(words) {
    if (this.guessing) {
      sessionStorage.removeItem(this.key);
      const { socket } = this;
      this.socket = null;
      socket.close();
      return this.connect();
    }
    this.over = true;
    this.lost = 0;
    this.ask = null;
    this.waiting = [];
    sessionStorage.removeItem(this.key);
    this.socket?.close();
    this.socket = null;
    this.button("end").disabled = true;
    this.button("again").hidden = false;
    this.tell(`${words} This terminal is over.`);
    // A cursor that blinks would promise that it listens.
    this.term.write("\x1b[?25l");
  },

  tick() {
    if (this.socket && Date.now() - this.heard > this.DEAF) {
      const socket = this.socket;
      this.closed(socket, 1006);
      socket.onmessage = null;
      socket.close();
    }
  },

  say(words) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(words));
  },

  /* What it says */

  show(bytes) {
    this.at += bytes.length;
    const end = this.at;
    this.term.write(bytes, () => {
      this.shown = Math.max(this.shown, Math.min(end, this.at));
      if (this.shown - this.told >= this.SHOWN) this.tellShown();
      else this.telling ??= setTimeout(() => this.tellShown(), 50);
    });
  },

  tellShown() {
    clearTimeout(this.telling);
    this.telling = null;
    if (this.shown <= this.told) return;
    this.told = this.shown;
    this.say({ shown: this.shown });
  },

  /* What is typed */

  type(bytes) {
    // While what was said before is shown again, xterm.js answers the questions in it again.
    if (this.over || this.shown < this.before) return;
    for (let from = 0; from < bytes.length; from += this.PIECE) this.waiting.push(bytes.slice(from, from + this.PIECE));
    this.send();
  },

  send() {
    while (this.waiting.length && this.ask && this.socket?.readyState === WebSocket.OPEN) {
      if (this.sent - this.typed + this.waiting[0].length > this.typing) return;
      const piece = this.waiting.shift();
      this.sent += piece.length;
      this.socket.send(piece);
    }
  },
};

document.addEventListener("DOMContentLoaded", () => {
  const box = document.getElementById("terminal");
  if (box) terminal.start(box);
});
