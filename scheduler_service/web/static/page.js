// Follow what happens without a reload, count what ticks, and send what a person asks for.
import { morph } from "./morph.js";
import { acting } from "./acting.js";

const root = document.documentElement;
const REFRESH_GAP = 1000;    // between two fetches of the page, at least
const REFRESH_ALWAYS = 30000; // and at most, for what no message tells
const LOOK_AGAIN = 3000;     // after the last change: looks at all jobs come a little later
const SILENCE = 15000;       // of the stream: it speaks every five seconds

// --- time: the database's, as the page was told

let skew = Date.parse(document.querySelector("meta[name=database-time]").content) - Date.now();
const now = () => Date.now() + skew;

function span(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.trunc(seconds))} s`;
  let left = Math.round(seconds);
  const parts = [];
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]]) {
    const count = Math.floor(left / length);
    left -= count * length;
    if (count || parts.length) parts.push(`${count}${unit}`);
  }
  return parts.slice(0, 2).filter((part) => !part.startsWith("0")).join(" ");
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function tick() {
  for (const element of document.querySelectorAll("time[data-relative]")) {
    let seconds = (now() - Date.parse(element.dateTime)) / 1000;
    if (element.dataset.seen) seconds = Math.max(0, seconds); // what was seen was seen before now
    write(element, seconds >= 0 ? `${span(seconds)} ago` : `in ${span(-seconds)}`);
  }
  for (const element of document.querySelectorAll("[data-lease]")) {
    const seconds = Math.max(0, (Date.parse(element.dataset.until) - now()) / 1000);
    write(element, span(seconds));
    const meter = document.querySelector("[data-lease-meter]");
    if (meter) meter.value = seconds;
  }
}

// --- the page itself, fetched again

let fetched = Date.now();
let asked = false;
let fetching = false;

function parts(from) {
  return new Map([...from.querySelectorAll("[data-part]")].map((one) => [one.dataset.part, one]));
}

async function refresh() {
  if (fetching || document.hidden) { asked = true; return; }
  const wait = fetched + REFRESH_GAP - Date.now();
  if (wait > 0) {
    if (!asked) { asked = true; setTimeout(refresh, wait); }
    return;
  }
  asked = false;
  fetching = true;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (answer.status === 401) { location.reload(); return; }
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (!answer.ok && root.dataset.live === "yes" && !document.querySelector("[data-part=unavailable]")) {
      cutOff("the database does not answer");
      return;
    }
    show(page);
    live();
  } catch {
    cutOff("this replica does not answer");
  } finally {
    fetched = Date.now();
    fetching = false;
    if (asked) { asked = false; refresh(); }
  }
}

function show(page) {
  const time = page.querySelector("meta[name=database-time]");
  if (time) skew = Date.parse(time.content) - Date.now();
  const fresh = parts(page), shown = parts(document);
  if ([...fresh.keys()].join() !== [...shown.keys()].join()) {
    // Another page altogether, such as after the database came back.
    morph(document.querySelector("main"), page.querySelector("main"));
  }
  for (const [name, part] of fresh) {
    const old = shown.get(name);
    if (!old || !old.isConnected) continue;
    const news = part.dataset.announce;
    if (news !== undefined && news !== old.dataset.announce) {
      write(document.getElementById("announce"), news);
      old.classList.remove("arrived");
      void old.offsetWidth; // so that the animation begins anew
      part.classList.toggle("arrived", name === "leader");
    } else {
      part.classList.toggle("arrived", old.classList.contains("arrived"));
    }
    morph(old, part);
  }
  document.title = page.title;
  const icon = document.querySelector("[data-icon]"), freshIcon = page.querySelector("[data-icon]");
  if (icon && freshIcon && icon.getAttribute("href") !== freshIcon.getAttribute("href")) icon.href = freshIcon.getAttribute("href");
  for (const one of document.querySelectorAll(".scripted")) reveal(one);
  tick();
}

// --- whether it is live

const sign = document.getElementById("live");
let reached = false;

function live() {
  if (source && source.readyState === EventSource.OPEN && reached) {
    sign.dataset.state = "live";
    write(sign, "live");
    root.classList.remove("stale");
  }
}

function cutOff(why) {
  if (sign.dataset.state !== "off") {
    sign.dataset.state = "off";
    write(sign, `not live since ${new Date(now()).toISOString().slice(11, 19)}: ${why}`);
    root.classList.add("stale");
  }
}

let source = null;
let heard = Date.now();
let again = 0;

function connect() {
  source?.close();
  heard = Date.now();
  source = new EventSource("/events");
  source.onopen = () => { heard = Date.now(); reached = true; refresh(); };
  source.onerror = () => {
    cutOff("this replica does not answer");
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 5000);
  };
  source.addEventListener("change", (event) => {
    beat(event);
    refresh();
    clearTimeout(again);
    again = setTimeout(refresh, LOOK_AGAIN);
  });
  source.addEventListener("beat", beat);
  source.addEventListener("trouble", () => { heard = Date.now(); cutOff("the database does not answer"); });
}

function beat(event) {
  heard = Date.now();
  const told = JSON.parse(event.data);
  for (const element of document.querySelectorAll("[data-lease]")) if (told.lease) element.dataset.until = told.lease;
  for (const element of document.querySelectorAll("[data-seen]")) if (told.seen[element.dataset.seen]) element.dateTime = told.seen[element.dataset.seen];
  tick();
}

// --- looks

function reveal(element) {
  if (element.id !== "forget") element.hidden = false;
}

const themes = ["auto", "light", "dark"];
const button = document.getElementById("theme");

function applyTheme(theme) {
  if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
  write(button, { auto: "Theme: system", light: "Theme: light", dark: "Theme: dark" }[theme]);
}

button.addEventListener("click", () => {
  const theme = themes[(themes.indexOf(root.dataset.theme ?? "auto") + 1) % themes.length];
  applyTheme(theme);
  try { localStorage.setItem("theme", theme); } catch { /* for this page, then */ }
});

// One stop of the tab key for each strip; arrows walk along it.
document.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const cell = step && event.target.closest?.(".strip a, .chart a");
  if (!cell) return;
  const cells = [...cell.closest("svg").querySelectorAll("a")];
  const next = cells[cells.indexOf(cell) + step];
  if (!next) return;
  event.preventDefault();
  cell.setAttribute("tabindex", "-1");
  next.setAttribute("tabindex", "0");
  next.focus();
});

applyTheme(root.dataset.theme ?? "auto");
for (const one of document.querySelectorAll(".scripted")) reveal(one);
acting(refresh);
setInterval(tick, 1000);
tick();
if (root.dataset.live === "yes") {
  sign.dataset.state = "connecting";
  write(sign, "connecting");
  connect();
  setInterval(() => {
    if (Date.now() - heard > SILENCE) { cutOff("the stream fell silent"); connect(); }
    else if (Date.now() - fetched > REFRESH_ALWAYS || (asked && !fetching)) refresh();
  }, 1000);
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
}
