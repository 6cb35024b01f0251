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

// A form is sent once; its key makes a second time harmless, and this makes it rare.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post" || event.defaultPrevented) return;
  if (form.dataset.sent) event.preventDefault();
  form.dataset.sent = "yes";
});
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});

document.addEventListener("DOMContentLoaded", () => {
  theme.paint(); // its button is there now
  document.querySelector(".error-summary")?.focus();
});
