// The page: asks the server after each look, shows it, and keeps what the reader chose in the address.

import { openChange, setUpChange } from "./change.js";
import { Picture, colour, duration } from "./picture.js";

const MAX_ROWS = 200, MAX_EVENTS = 100, MAX_WORKERS = 200;
const URGENCY = ["ended", "ok", "waiting", "paused", "undecided", "catching-up", "falling-behind", "rewound", "unowned", "stopped", "stuck"];
const $ = (id) => document.getElementById(id);
const picture = new Picture($("picture"));
let state = null, past = null;

// ---- What the reader chose: all of it is in the address.

const chosen = () => new URLSearchParams(location.hash.slice(1));

function choose(changes, isStep) {
  const now = chosen();
  for (const [name, value] of Object.entries(changes)) if (value) now.set(name, value); else now.delete(name);
  const address = now.toString() ? `#${now}` : location.pathname;
  if (isStep) history.pushState(null, "", address); else history.replaceState(null, "", address);
  show();
}

function isDark() {
  const theme = chosen().get("theme");
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

// ---- Elements from text alone: names come from a table that anyone may write.

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function fact(name, value) {
  const pair = element("div");
  pair.append(element("dt", name), element("dd", value));
  return pair;
}

function swatch(worker) {
  const mark = element("span", undefined, "swatch");
  mark.style.background = colour(past.workers.indexOf(worker), isDark()) || "var(--none)";
  return mark;
}

const words = (verdict) => verdict.replace("-", " ");
const millis = (value) => value === null || value === undefined ? "?" : duration(value / 1000);
const short = (id) => id.replace(/^shardId-0*(?=\d)/, "");

function clock(time) {
  const made = element("time", new Date(time).toLocaleTimeString());
  made.dateTime = new Date(time).toISOString();
  return made;
}

// ---- What is shown.

function show() {
  document.documentElement.dataset.theme = isDark() ? "dark" : "light";
  if (!state || !past) return;
  const selected = chosen().get("shard");
  const order = chosen().get("order") || "urgency", filter = chosen().get("filter") || "";
  if ($("filter").value !== filter) $("filter").value = filter;
  $("order").value = order;
  head();
  picture.draw(state, past, selected, isDark());
  const listed = rows(order, filter);
  $("picture").setAttribute("aria-label", `${state.shards.length} shards, ${words(state.verdict)}${selected ? `; ${selected} is selected` : ""}`);
  table(listed, selected);
  own(selected);
  lists();
}

function head() {
  document.title = `${state.application}: ${words(state.verdict)}`;
  $("application").textContent = state.application;
  $("verdict").textContent = words(state.verdict);
  $("verdict").className = `verdict ${state.verdict}${URGENCY.indexOf(state.verdict) >= 7 ? " alarm" : ""}`;
  const facts = [fact("behind", millis(state.behind))];
  if (state.first_loss) facts.push(fact("records lost in", `${millis(state.first_loss[1])} (${short(state.first_loss[0])})`));
  if (state.stream) facts.push(fact("stream", `${state.stream}, ${state.status}, keeps ${millis(state.retention)}`));
  facts.push(fact("workers", `${state.load.workers}, ${state.load.wantedWorkers} wanted`));
  facts.push(fact("looked at", new Date(state.taken_at).toLocaleTimeString()));
  $("facts").replaceChildren(...facts);
}

function rows(order, filter) {
  const wanted = filter.toLowerCase().split(" ").filter(Boolean);
  const listed = state.shards.filter((shard) => {
    const text = `${shard.id} ${shard.owner || "no owner"} ${words(shard.verdict)} ${shard.state}`.toLowerCase();
    return wanted.every((word) => text.includes(word));
  });
  const by = {
    urgency: (a, b) => URGENCY.indexOf(b.verdict) - URGENCY.indexOf(a.verdict) || (b.behind ?? -1) - (a.behind ?? -1),
    lag: (a, b) => (b.behind ?? -1) - (a.behind ?? -1),
    keys: (a, b) => (a.keys ? a.keys[0] : 2) - (b.keys ? b.keys[0] : 2),
    name: () => 0,
  }[order] || (() => 0);
  return listed.sort((a, b) => by(a, b) || (a.id < b.id ? -1 : 1));
}

function table(listed, selected) {
  $("shown").textContent = listed.length > MAX_ROWS ? `the first ${MAX_ROWS} of ${listed.length}` : `${listed.length}`;
  // A row remains the same element from look to look, so that a click or the focus on it is not lost.
  const before = [...$("rows").children], byId = new Map(before.map((row) => [row.dataset.shard, row]));
  const rows = listed.slice(0, MAX_ROWS).map((shard) => {
    const row = byId.get(shard.id) || newRow(shard.id);
    if (shard.id === selected) row.setAttribute("aria-current", "true"); else row.removeAttribute("aria-current");
    const verdict = element("td", words(shard.verdict) + (shard.reason ? `, ${shard.reason}` : ""), shard.verdict);
    const worker = element("td", shard.owner || "–");
    if (shard.owner) worker.prepend(swatch(shard.owner));
    const loss = shard.loss_at_pace === null ? "–" : millis(shard.loss_at_pace);
    while (row.children.length > 1) row.lastChild.remove();
    row.append(verdict, element("td", millis(shard.behind)), element("td", loss), worker);
    return row;
  });
  const isSame = rows.length === before.length && rows.every((row, index) => row === before[index]);
  if (!isSame) $("rows").replaceChildren(...rows);
}

function newRow(id) {
  const row = element("tr"), name = element("td"), open = element("button", id);
  row.dataset.shard = id;
  open.type = "button";
  name.append(open);
  row.append(name);
  return row;
}

function own(selected) {
  const shard = state.shards.find((shard) => shard.id === selected), isOpen = Boolean(shard) && chosen().get("view") === "shard";
  $("shard").hidden = !isOpen;
  if (!isOpen) return;
  $("shard-title").textContent = shard.id;
  const facts = [
    fact("verdict", words(shard.verdict) + (shard.reason ? `, ${shard.reason}` : "")),
    fact("since", new Date(shard.since).toLocaleString()), fact("state", words(shard.state)),
    fact("behind", millis(shard.behind)), fact("worker", shard.owner || "none"),
    fact("position", shard.position || "no row"), fact("lease counter", shard.counter ?? "no row"),
  ];
  if (shard.hand_over_to) facts.push(fact("is handed over to", shard.hand_over_to));
  if (shard.still !== null) facts.push(fact("records wait without progress for", millis(shard.still)));
  if (shard.silent !== null) facts.push(fact("last renewal seen", `${millis(shard.silent)} ago`));
  if (shard.loss_at_rest !== null) facts.push(fact("lost if nothing is read", `in ${millis(shard.loss_at_rest)}`));
  if (shard.loss_at_pace !== null) facts.push(fact("lost at this pace", `in ${millis(shard.loss_at_pace)}`));
  if (shard.parents.length) facts.push(fact("parents", shard.parents.join(", ")));
  const children = state.shards.filter((other) => other.parents.includes(shard.id)).map((other) => other.id);
  if (children.length) facts.push(fact("children", children.join(", ")));
  if (shard.keys) facts.push(fact("hash keys", `${(shard.keys[0] * 100).toFixed(2)} % to ${(shard.keys[1] * 100).toFixed(2)} %`));
  $("shard-facts").replaceChildren(...facts);
  $("shard-events").replaceChildren(...eventItems(past.events.filter((event) => event.shard === shard.id)));
}

function eventItems(events) {
  return events.slice(-MAX_EVENTS).reverse().map((event) => {
    const item = element("li");
    item.append(clock(event.at), event.text);
    return item;
  });
}

function lists() {
  $("events").replaceChildren(...(past.events.length ? eventItems(past.events) : [element("li", "none since this server started")]));
  const workers = [...state.workers].sort((a, b) => b.shards - a.shards);
  const items = workers.slice(0, MAX_WORKERS).map((worker) => {
    const item = element("li");
    const notes = [`${worker.shards}`];
    if (worker.processes > 1) notes.push(`${worker.processes} processes`);
    if (worker.failing) notes.push("cannot measure its load");
    item.append(swatch(worker.id), `${worker.id} `, element("span", notes.join(", "), worker.failing ? "error" : ""));
    return item;
  });
  if (workers.length > MAX_WORKERS) items.push(element("li", `and ${workers.length - MAX_WORKERS} more`));
  $("workers").replaceChildren(...(items.length ? items : [element("li", "none")]));
  $("findings-section").hidden = !state.findings.length;
  $("findings").replaceChildren(...state.findings.map((finding) => element("li", finding.text, finding.error ? "error" : "")));
}

// ---- What the reader does.

function step(by) {
  if (!state) return;
  const listed = rows("keys", chosen().get("filter") || "").filter((shard) => shard.state !== "ended");
  if (!listed.length) return;
  const now = listed.findIndex((shard) => shard.id === chosen().get("shard"));
  let next = now < 0 ? (by < 0 ? listed.length - 1 : 0) : now + by;
  if (by === -Infinity) next = 0;
  if (by === Infinity) next = listed.length - 1;
  choose({ shard: listed[Math.min(Math.max(next, 0), listed.length - 1)].id });
}

function nextAlarm() {
  const alarms = rows("urgency", "").filter((shard) => shard.alarm);
  if (!alarms.length) return;
  const now = alarms.findIndex((shard) => shard.id === chosen().get("shard"));
  choose({ shard: alarms[(now + 1) % alarms.length].id });
}

function theme() {
  const next = { "": "dark", "dark": "light", "light": "" };
  choose({ theme: next[chosen().get("theme") || ""] });
}

function help() {
  $("keys").hidden = !$("keys").hidden;
  $("help").setAttribute("aria-expanded", String(!$("keys").hidden));
}

const KEYS = {
  "ArrowDown": () => step(1), "j": () => step(1), "ArrowUp": () => step(-1), "k": () => step(-1),
  "Home": () => step(-Infinity), "End": () => step(Infinity), "n": nextAlarm, "t": theme, "?": help,
  "Enter": () => choose({ view: "shard" }, true), "Escape": () => choose({ view: "", shard: "" }, true),
  "/": () => $("filter").focus(), "c": openChange,
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("dialog")) return;
  if (event.target.matches("input, select")) {
    if (event.key === "Escape") $("picture").focus();
    return;
  }
  // A button and a page that scrolls keep their own keys.
  if (event.key === "Enter" && event.target.matches("button, a")) return;
  if (["ArrowDown", "ArrowUp", "Home", "End"].includes(event.key) && event.target !== $("picture") && event.target !== document.body) return;
  const act = KEYS[event.key];
  if (!act || (event.key === "Enter" && !chosen().get("shard"))) return;
  event.preventDefault();
  act();
});

setUpChange(() => chosen().get("shard"));
$("filter").addEventListener("input", () => choose({ filter: $("filter").value }));
$("order").addEventListener("change", () => choose({ order: $("order").value === "urgency" ? "" : $("order").value }));
$("theme").addEventListener("click", theme);
$("help").addEventListener("click", help);
$("close").addEventListener("click", () => choose({ view: "" }, true));
$("rows").addEventListener("click", (event) => {
  const row = event.target.closest("tr");
  if (row) choose({ shard: row.dataset.shard, view: "shard" }, true);
});
$("picture").addEventListener("click", (event) => {
  const found = picture.at(event.offsetX, event.offsetY);
  if (found?.shard) choose({ shard: found.shard, view: "shard" }, true);
});
$("picture").addEventListener("pointermove", (event) => {
  const found = picture.at(event.offsetX, event.offsetY), tip = $("tip");
  tip.hidden = !found;
  if (!found) return;
  const shard = found.shard && state.shards.find((shard) => shard.id === found.shard);
  tip.textContent = shard
    ? `${shard.id}\n${words(shard.verdict)}, ${millis(shard.behind)} behind\n${shard.owner || "no owner"}`
    : found.events.map((event) => event.text).join("\n");
  tip.style.left = `${Math.min(event.offsetX + 12, $("picture").clientWidth - 260)}px`;
  tip.style.top = `${event.offsetY + 14}px`;
});
$("picture").addEventListener("pointerleave", () => { $("tip").hidden = true; });
addEventListener("hashchange", show);
addEventListener("popstate", show);
addEventListener("resize", show);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);

// ---- What the server says.

function fault(text) {
  $("fault").hidden = !text;
  $("fault").textContent = text || "";
}

let isAsking = false, isAskedAgain = false;

async function ask() {
  if (isAsking) { isAskedAgain = true; return; }
  isAsking = true;
  try {
    const [newState, newPast] = await Promise.all(["api/state", "api/past"].map(async (path) => {
      const answer = await fetch(path);
      if (!answer.ok) throw new Error((await answer.text()).trim());
      return answer.json();
    }));
    state = newState;
    past = newPast;
    fault("");
    show();
    document.documentElement.dataset.look = String(state.looks);
  } catch (error) {
    fault(`no data: ${error.message}`);
  }
  isAsking = false;
  if (isAskedAgain) { isAskedAgain = false; ask(); }
}

const looks = new EventSource("api/looks");
looks.addEventListener("look", (event) => { if (event.data !== "0") ask(); });
looks.addEventListener("fault", (event) => fault(`the last look failed, this is the one before it: ${event.data}`));
looks.onerror = () => fault("the server does not answer; this is the last look");
show();
