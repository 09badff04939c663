// The console's one script: live regions, keys, and questions in a layer. Without it every page and every form works.
"use strict";

const policy = window.trustedTypes ? trustedTypes.createPolicy("fleetcast", { createHTML: (text) => text }) : { createHTML: (text) => text };
const STALE_MS = 25000, MARK_MS = 8000, RETRY_MS = 8000, LOAD_MS = 30000;
const main = document.getElementById("main"), clock = document.getElementById("clock"), clockText = document.getElementById("clock-text");
const said = document.getElementById("said");
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

// Live regions

const regions = new Map([...document.querySelectorAll("[data-live]")].map((one) => [one.dataset.live, one]));
const waiting = new Map();
let held = false, lastAt = clock.dataset.at, lastBeat = Date.now(), source = null;

function live() {
  if (!main || !main.dataset.page || !regions.size) return;
  const query = new URLSearchParams({ regions: [...regions.keys()].join(","), page: main.dataset.page });
  source = new EventSource("/live?" + query);
  source.addEventListener("beat", (event) => beat(JSON.parse(event.data)));
  source.addEventListener("region", (event) => {
    const found = JSON.parse(event.data);
    beat(found.at);
    waiting.set(found.name, found);
    settle();
  });
  source.addEventListener("title", (event) => {
    const found = JSON.parse(event.data);
    if (document.title !== found.title) document.title = found.title;
    const icon = document.querySelector("link[rel=icon]"), count = document.getElementById("alerts-count");
    const wanted = found.needs ? icon.dataset.needs : icon.dataset.well;
    if (icon.getAttribute("href") !== wanted) icon.setAttribute("href", wanted);
    if (count) { count.textContent = String(found.alerts); count.hidden = !found.alerts; }
  });
  source.addEventListener("over", () => { source.close(); location.reload(); });
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) load();
  });
}

// Where the hub follows no more pages, this one is loaded anew each half minute, and following it is tried again each time.
async function load() {
  let pause = RETRY_MS;
  try {
    const answer = await fetch(main.dataset.page, { headers: { "x-fleetcast-look": "no" } });
    if (answer.redirected) return location.reload();
    if (answer.ok) {
      const text = await answer.text();
      const fresh = new DOMParser().parseFromString(policy.createHTML(text), "text/html");
      const at = fresh.getElementById("clock").dataset.at;
      for (const one of fresh.querySelectorAll("[data-live]")) waiting.set(one.dataset.live, { name: one.dataset.live, html: one.innerHTML, at });
      if (document.title !== fresh.title) document.title = fresh.title;
      settle();
      beat(at);
      lastBeat += LOAD_MS;
      if (!held) clockText.textContent = `each half minute, ${at} UTC`;
      said.textContent = "The hub follows no more pages: this one is loaded anew each half minute.";
      pause = LOAD_MS;
    }
  } catch { /* The hub does not answer: the page is stale, and says so. */ }
  setTimeout(live, pause);
}

function beat(at) {
  lastAt = at;
  lastBeat = Date.now();
  clock.classList.add("on");
  clock.classList.remove("stale");
  document.body.classList.remove("stale");
  clockText.textContent = held ? `held at ${at} UTC` : `live, ${at} UTC`;
  if (/^(Stale|The hub follows)/.test(said.textContent)) said.textContent = "";
}

setInterval(() => {
  settle();
  if (!source || Date.now() - lastBeat < STALE_MS || clock.classList.contains("stale")) return;
  clock.classList.remove("on");
  clock.classList.add("stale");
  document.body.classList.add("stale");
  clockText.textContent = `stale since ${lastAt}`;
  said.textContent = `Stale since ${lastAt}: the hub does not answer. What you see is of then. Trying again.`;
}, 1000);

function settle() {
  if (held) return;
  for (const [name, found] of [...waiting]) {
    const region = regions.get(name);
    if (region && isTouched(region)) continue;
    waiting.delete(name);
    if (region) replace(region, found.html, found.at);
  }
}

// A region stays as it is while the pointer is on something in it that can be pressed, it holds the focus, or text is selected in it.
function isTouched(region) {
  if (region.contains(document.activeElement)) return true;
  if (region.querySelector("a:hover, button:hover, input:hover, summary:hover")) return true;
  const selection = getSelection();
  return selection && !selection.isCollapsed && region.contains(selection.anchorNode);
}

function replace(region, html, at) {
  const fresh = document.createElement(region.tagName);
  fresh.innerHTML = policy.createHTML(html);
  for (const one of region.querySelectorAll("details[open]")) {
    const same = fresh.querySelectorAll("details")[[...region.querySelectorAll("details")].indexOf(one)];
    if (same) same.open = true;
  }
  morph(region, fresh, at);
}

// Children that are equal stay; a row that has changed is marked; a table's rows keep their places until `s` is pressed.
function morph(old, fresh, at) {
  if (old.tagName === "TBODY" && hasIds(old) && hasIds(fresh)) return rows(old, fresh, at);
  const before = [...old.childNodes], after = [...fresh.childNodes];
  for (let i = 0; i < Math.max(before.length, after.length); i++) {
    const a = before[i], b = after[i];
    if (!b) a.remove();
    else if (!a) old.append(b);
    else if (a.isEqualNode(b)) continue;
    else if (a.nodeType === 1 && b.nodeType === 1 && a.tagName === b.tagName && a.id === b.id && a.tagName !== "svg") { attributes(a, b); morph(a, b, at); }
    else a.replaceWith(b);
  }
}

function attributes(old, fresh) {
  for (const one of [...old.attributes]) if (!fresh.hasAttribute(one.name) && one.name !== "open") old.removeAttribute(one.name);
  for (const one of fresh.attributes) if (old.getAttribute(one.name) !== one.value) old.setAttribute(one.name, one.value);
}

const hasIds = (body) => body.rows.length > 0 && [...body.rows].every((row) => row.id);

function rows(body, fresh, at) {
  const kept = new Map([...body.rows].map((row) => [row.id, row]));
  const order = [...fresh.rows].map((row) => row.id);
  for (const row of [...fresh.rows]) {
    const known = kept.get(row.id);
    if (!known) { body.append(row); mark(row, at); continue; }
    kept.delete(row.id);
    const text = known.textContent;
    attributes(known, row);
    known.classList.remove("gone");
    morph(known, row, at);
    if (known.textContent.replace(/\s+/g, " ") !== text.replace(/\s+/g, " ")) mark(known, at);
  }
  for (const row of kept.values()) row.classList.add("gone");
  const now = [...body.rows].filter((row) => !row.classList.contains("gone")).map((row) => row.id);
  const moved = now.filter((id, place) => id !== order[place]).length;
  note(body, moved + kept.size, () => {
    for (const id of order) { const row = document.getElementById(id); if (row) body.append(row); }
    for (const row of [...body.rows]) if (!order.includes(row.id)) row.remove();
  });
}

function note(body, count, show) {
  const table = body.closest("table");
  let button = table.previousElementSibling;
  if (!button || !button.classList.contains("moved")) button = null;
  if (!count) { if (button) button.remove(); return; }
  if (!button) {
    button = document.createElement("button");
    button.className = "moved plain";
    table.before(button);
  }
  button.textContent = `${count} ${count === 1 ? "row" : "rows"} changed places. Show`;
  button.onclick = () => { show(); button.remove(); };
}

function mark(row, at) {
  row.classList.add("new");
  if (still && row.cells.length && !row.querySelector(".changed")) {
    const small = document.createElement("small");
    small.className = "changed";
    small.textContent = `changed ${at}`;
    row.cells[row.cells.length - 1].append(small);
    setTimeout(() => small.remove(), 60000);
  }
  setTimeout(() => row.classList.remove("new"), MARK_MS);
}

// Questions: shown in a layer above the page, as its page has it.

document.addEventListener("click", async (event) => {
  const link = event.target.closest("a[data-question]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  try {
    const answer = await fetch(link.href, { credentials: "same-origin" });
    if (!answer.ok || answer.redirected) throw new Error(String(answer.status));
    const page = new DOMParser().parseFromString(policy.createHTML(await answer.text()), "text/html");
    ask(document.importNode(page.getElementById("question"), true), link);
  } catch {
    location.assign(link.href);
  }
});

function ask(question, link) {
  const dialog = document.createElement("dialog");
  question.classList.remove("card");
  dialog.append(question);
  dialog.setAttribute("aria-label", question.querySelector("h1").textContent);
  document.body.append(dialog);
  const leave = question.querySelector(".acts a.btn");
  leave.addEventListener("click", (event) => { event.preventDefault(); dialog.close(); });
  dialog.addEventListener("close", () => { dialog.remove(); link.focus(); });
  dialog.showModal();
  leave.focus();
}

// Keys: each is a shortcut for something that can be pressed as well. None changes the fleet.

const keysOff = document.getElementById("keys-off"), help = document.getElementById("keys");
let first = "";
if (keysOff) {
  keysOff.checked = sessionStorage.getItem("keys") === "off";
  keysOff.addEventListener("change", () => sessionStorage.setItem("keys", keysOff.checked ? "off" : "on"));
}

const lines = () => [...main.querySelectorAll("tbody tr")].map((row) => row.querySelector("a")).filter((link) => link && link.offsetParent);

function step(by) {
  const all = lines(), at = all.findIndex((link) => link.closest("tr").contains(document.activeElement));
  const next = all[at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, at + by))];
  if (next) next.focus();
}

function hold() {
  held = !held;
  if (clock.classList.contains("on")) clockText.textContent = held ? `held at ${lastAt} UTC` : `live, ${lastAt} UTC`;
  said.textContent = held ? "Live updates are held." : "Live updates go on.";
  settle();
}

const press = (selector) => { const found = document.querySelector(selector); if (found) found.click(); };
const KEYS = {
  "?": () => help && help.togglePopover(),
  "/": () => { const found = document.querySelector("form.find input"); if (found) found.focus(); else location.assign("/nodes"); },
  "j": () => step(1),
  "k": () => step(-1),
  "]": () => press("a[rel=next]"),
  "[": () => press("a[rel=prev]"),
  ".": hold,
  "s": () => document.querySelectorAll("button.moved").forEach((one) => one.click()),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || (keysOff && keysOff.checked)) return;
  if (event.target.closest("input, textarea, select, dialog")) return;
  if (first === "g") {
    first = "";
    const link = document.querySelector(`nav a[data-key="${CSS.escape(event.key)}"]`);
    if (link) { event.preventDefault(); link.click(); }
    return;
  }
  if (event.key === "g") { first = "g"; setTimeout(() => { first = ""; }, 1500); return; }
  const act = KEYS[event.key];
  if (act) { event.preventDefault(); act(); }
});

// ?wall=1: one page after another, for a screen that hangs somewhere.

if (document.body.classList.contains("wall")) {
  const pages = JSON.parse(main.dataset.wall || "[]");
  if (pages.length) setTimeout(() => location.assign(pages[(pages.indexOf(location.pathname) + 1) % pages.length] + "?wall=1"), 30000);
}

live();
