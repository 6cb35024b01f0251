/* Theme, menus, copying, and one polite voice. Loaded in <head> without defer: the theme must be set before the first
   paint. Every page works without it. */
"use strict";

const theme = {
  names: ["auto", "light", "dark"],
  get: () => document.cookie.match(/(?:^|; )theme=(\w+)/)?.[1] ?? document.documentElement.dataset.theme ?? "auto",
  set(name) {
    const secure = location.protocol === "https:" ? "; secure" : "";
    document.cookie = `theme=${name}; path=/; max-age=31536000; samesite=lax${secure}`;
    document.documentElement.dataset.theme = name;
    say(theme.paint());
  },
  paint() {
    const dark = theme.get() === "auto" ? matchMedia("(prefers-color-scheme: dark)").matches : theme.get() === "dark";
    document.documentElement.dataset.bsTheme = dark ? "dark" : "light";
    const words = `Theme: ${theme.get() === "auto" ? `as the system has it, ${dark ? "dark" : "light"}` : theme.get()}`;
    for (const button of document.querySelectorAll("[data-theme-next]")) {
      button.title = `${words}. Change it`;
      button.querySelector(".visually-hidden").textContent = `${words}. Change theme`;
    }
    return words;
  },
};
theme.paint();
document.documentElement.classList.add("has-js");
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", theme.paint);

/* The page's one live region: at most one sentence a second, so that bursts do not drown a reader. */
let lastSaid = 0;
function say(sentence) {
  const wait = Math.max(20, lastSaid + 1000 - Date.now());
  lastSaid = Date.now() + wait;
  setTimeout(() => {
    const region = document.getElementById("said");
    if (region) region.textContent = sentence;
  }, wait);
}

async function copy(button) {
  const source = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source ? source.textContent.trim() : button.dataset.copy);
  } catch {
    say("This browser does not let the page copy");
    return;
  }
  const icon = button.querySelector(".bi");
  icon?.classList.replace("bi-copy", "bi-check2");
  setTimeout(() => icon?.classList.replace("bi-check2", "bi-copy"), 1500);
  say("Copied");
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-theme-next], [data-copy]");
  if (button?.matches("[data-theme-next]")) {
    const next = theme.names[(theme.names.indexOf(theme.get()) + 1) % theme.names.length];
    theme.set(next);
  } else if (button) {
    copy(button);
  }
  for (const menu of document.querySelectorAll("details.menu[open]"))
    if (!menu.contains(event.target)) menu.open = false;
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const menu = event.target.closest?.("details.menu[open], details.place[open]");
  if (menu) {
    menu.open = false;
    menu.querySelector("summary").focus();
  } else if (location.hash === "#rail") {
    location.hash = "#main";
    document.querySelector(".menu-open")?.focus();
  }
});

/* Go to…: Ctrl K opens it, the arrows walk through what is found, Enter goes to the first or to the chosen one. */
const go = {
  get dialog() {
    return document.getElementById("go");
  },
  links: () => [...go.dialog.querySelectorAll("#go-found a")],
  open() {
    go.dialog.showModal();
    const input = go.dialog.querySelector("input");
    input.select();
    input.dispatchEvent(new Event("go"));
  },
  walk(by) {
    const stops = [go.dialog.querySelector("input"), ...go.links()];
    const at = stops.indexOf(document.activeElement);
    stops[(at + by + stops.length) % stops.length].focus();
  },
};

document.addEventListener("keydown", (event) => {
  if (!go.dialog) return;
  if (event.key.toLowerCase() === "k" && (event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey) {
    event.preventDefault();
    if (!go.dialog.open) go.open();
  } else if (go.dialog.open && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    event.preventDefault();
    go.walk(event.key === "ArrowDown" ? 1 : -1);
  } else if (go.dialog.open && event.key === "Escape") {
    event.preventDefault(); // browsers would empty the field first
    go.dialog.close();
  } else if (go.dialog.open && event.key === "Enter" && event.target.matches("#go input") && go.links().length) {
    event.preventDefault();
    go.links()[0].click();
  }
});
document.addEventListener("click", (event) => {
  if (event.target === go.dialog) go.dialog.close(); // beside what is in it
  if (event.ctrlKey || event.metaKey || event.shiftKey || !go.dialog || !event.target.closest("[data-go]")) return;
  event.preventDefault();
  go.open();
});

// data-ticks="cluster": a box that ticks all of this name, and none of them again.
document.addEventListener("change", (event) => {
  if (!event.target.matches("[data-ticks]")) return;
  for (const box of document.querySelectorAll(`input[type="checkbox"][name="${event.target.dataset.ticks}"]`))
    box.checked = event.target.checked;
});

/* data-enter of a form: the button that Enter in a field presses, where an earlier one only looks for something.
   What is in data-find belongs to that one, and the command of a shell has lines. */
document.addEventListener("keydown", (event) => {
  const form = event.target.form;
  const button = document.getElementById(form?.dataset.enter);
  if (!button || event.key !== "Enter" || event.isComposing) return;
  const isLine = event.target.matches("input") || (event.target.name === "command" && form.kind?.value !== "shell");
  if (!isLine || event.target.closest("[data-find]")) return;
  event.preventDefault();
  button.click();
});

// data-add-row of a button: one more empty row, like the last one beside it. Without this the page is asked for it.
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-add-row]");
  if (!button) return;
  event.preventDefault();
  const rows = button.parentElement.querySelectorAll("[data-row]");
  const row = rows[rows.length - 1].cloneNode(true);
  for (const control of row.querySelectorAll("input, textarea")) {
    control.value = "";
    control.removeAttribute("id");
    control.setAttribute("aria-label", control.getAttribute("aria-label").replace(/\d+/, rows.length + 1));
  }
  rows[rows.length - 1].after(row);
  row.querySelector("input").focus();
});

// A form is sent once; its key makes a second time harmless, and this makes it rare. data-again: it leads to no page.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post" || event.defaultPrevented || "again" in form.dataset) return;
  if (form.dataset.sent) event.preventDefault();
  form.dataset.sent = "yes";
  typed.keep(form);
});

/* What was typed into a form that did not arrive, because its person was signed out meanwhile. It waits in this tab,
   through the sign-in, for the same person at the same page; whatever other page of theirs comes first, drops it. */
const typed = {
  KEY: "coxswain-typed",
  here: () => location.pathname + location.search,
  forms: () => [...document.querySelectorAll("main form")].filter((form) => form.method === "post"),
  fields: (form) =>
    [...form.elements].filter((e) => e.name && !["hidden", "password", "file", "submit", "button"].includes(e.type)),

  keep(form) {
    const number = typed.forms().indexOf(form);
    const { person } = document.body.dataset;
    if (number < 0 || !person) return;
    const values = typed.fields(form).map((e) => [e.name, /^(checkbox|radio)$/.test(e.type) ? e.checked : e.value]);
    try {
      sessionStorage.setItem(typed.KEY, JSON.stringify({ person, page: typed.here(), number, values }));
    } catch {
      // a browser that keeps nothing: the words are lost, as they would be without this
    }
  },

  giveBack() {
    let kept = null;
    try {
      kept = JSON.parse(sessionStorage.getItem(typed.KEY));
      const { person } = document.body.dataset;
      if (kept && !person) {
        sessionStorage.setItem(typed.KEY, JSON.stringify({ ...kept, away: true }));
        return;
      }
      sessionStorage.removeItem(typed.KEY);
      if (!kept?.away || kept.person !== person || kept.page !== typed.here()) return;
    } catch {
      return;
    }
    const form = typed.forms()[kept.number];
    const fields = form ? typed.fields(form) : [];
    if (fields.map((e) => e.name).join() !== kept.values.map(([name]) => name).join()) return;
    fields.forEach((field, i) => {
      const value = kept.values[i][1];
      if (typeof value === "boolean") field.checked = value;
      else field.value = value;
      field.dispatchEvent(new Event("change", { bubbles: true }));
    });
    const note = document.createElement("p");
    note.className = "note note-info";
    note.textContent = "This is what you had typed before you were signed out. Look through it, and send it again.";
    (form.querySelector(".body") ?? form).prepend(note);
    say(note.textContent);
  },
};

/* The browser's time zone: proposed where somebody makes an account, offered where their profile has another one. */
const zone = {
  name: Intl.DateTimeFormat().resolvedOptions().timeZone,
  offer() {
    for (const field of document.querySelectorAll("input[data-zone]")) field.value = zone.name ?? "";
    const button = document.querySelector("[data-take-zone]");
    const choice = button && document.getElementById(button.dataset.takeZone);
    if (!choice || ![...choice.options].some((option) => option.value === zone.name)) return;
    const look = () => {
      button.hidden = choice.value === zone.name;
    };
    button.textContent = `Use this browser's zone: ${zone.name.replaceAll("_", " ")}`;
    button.addEventListener("click", () => {
      choice.value = zone.name;
      look();
      choice.focus();
    });
    choice.addEventListener("change", look);
    look();
  },
};

// A browser may keep a page as it was left, and show that on the way back. What is sent from it then is another thing
// than what was made before, and gets a key of its own; without one, the portal gives it.
addEventListener("pageshow", (event) => {
  for (const form of document.querySelectorAll("form[data-sent]")) {
    delete form.dataset.sent;
    const key = form.querySelector('[type="hidden"][name="key"]'); // an AWS account's is another
    if (event.persisted && key) key.value = crypto.randomUUID?.() ?? "";
  }
});

document.addEventListener("DOMContentLoaded", () => {
  theme.paint(); // its button is there now
  zone.offer();
  typed.giveBack();
  document.querySelector(".error-summary")?.focus();
});
