// The page: which view the address names, its data, and drawing it. What comes from the records is
// put in as text, never as markup. Data is asked for anew whenever the server says that it changed.

import { lineChart } from "/charts.js";

const main = document.getElementById("main");
const status = document.getElementById("status");
const RETRY_MS = 3000;
const WHY_SHOWN = 3;
const DASH = "\u2013";

const state = { sort: { key: "rank", descending: false }, filter: "", open: new Set() };

function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "on") for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const number = (value, digits = 3) =>
  value === null || value === undefined ? DASH : value.toFixed(digits);
const brief = (hotkey) => `${hotkey.slice(0, 6)}\u2026${hotkey.slice(-4)}`;
const when = (seconds) => (seconds === null ? DASH : new Date(seconds * 1000).toLocaleString());
const counted = (codes) =>
  Object.entries(codes).sort(([, a], [, b]) => b - a).map(([code, n]) => `${n} \u00d7 ${code}`).join(", ") || DASH;

function minerLink(row) {
  return el("a", { href: `#/miner/${encodeURIComponent(row.hotkey)}`, title: row.hotkey },
    `uid ${row.uid}, ${brief(row.hotkey)}`);
}

function wide(label, table) {
  return el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": label }, table);
}

// columns: [{ name, key, cell(row) -> Node|string, text }]; with sort, heads are buttons.
function table(caption, columns, rows, sort = null) {
  const heads = columns.map((column) => {
    const attributes = { scope: "col", class: column.text ? "text" : null };
    if (!sort || !column.key) return el("th", attributes, column.name);
    if (state.sort.key === column.key) attributes["aria-sort"] = state.sort.descending ? "descending" : "ascending";
    return el("th", attributes, el("button", { type: "button", "data-sort": column.key,
      on: { click: () => sort(column.key) } }, column.name));
  });
  const body = rows.map((row) => el("tr", {}, ...columns.map((column, index) => {
    const content = column.cell(row);
    if (index === 0) return el("th", { scope: "row", class: column.text ? "text" : null }, content);
    const cell = el("td", { class: column.class ?? (column.text ? "text" : null) }, content);
    if (column.part) cell.style.setProperty("--part", `${Math.max(0, Math.min(1, column.part(row) ?? 0)) * 100}%`);
    return cell;
  })));
  return wide(caption, el("table", {}, el("caption", {}, caption),
    el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...body)));
}

const minerColumns = [
  { name: "rank", key: "rank", cell: (row) => String(row.rank) },
  { name: "miner", key: "uid", text: true, cell: minerLink },
  { name: "rating", key: "rating", cell: (row) => number(row.rating), class: "share", part: (row) => row.rating },
  { name: "S", key: "score", cell: (row) => number(row.score) },
  { name: "C", key: "content_recovery", cell: (row) => number(row.content_recovery) },
  { name: "R", key: "recovery", cell: (row) => number(row.recovery) },
  { name: "best baseline C", key: "best_baseline_c", cell: (row) =>
    row.best_baseline_c === null ? DASH : `${number(row.best_baseline_c)} ${row.best_baseline_name}` },
  { name: "weight", key: "weight", cell: (row) => number(row.weight, 4) },
  { name: "incentive", key: "incentive", cell: (row) => number(row.incentive, 4) },
  { name: "replies of the last round", text: true, cell: (row) => counted(row.codes) },
];

function sorted(rows) {
  const { key, descending } = state.sort;
  const worth = (row) => (row[key] === null || row[key] === undefined ? -Infinity : row[key]);
  return [...rows].sort((a, b) => (descending ? worth(b) - worth(a) : worth(a) - worth(b)) || a.rank - b.rank);
}

function sortBy(key) {
  const same = state.sort.key === key;
  state.sort = { key, descending: same ? !state.sort.descending : key !== "rank" && key !== "uid" };
  draw(false).then(() => main.querySelector(`[data-sort="${key}"]`)?.focus());
}

async function leaderboard() {
  const data = await ask("/api/overview");
  const wanted = state.filter.trim().toLowerCase();
  const parts = [el("h1", {}, "Leaderboard")];
  const filter = el("input", { id: "filter", type: "search", value: state.filter, size: "30",
    placeholder: "uid or hotkey", on: { input: (event) => { state.filter = event.target.value; draw(false); } } });
  parts.push(el("label", { for: "filter" }, "Find a miner ", filter));
  if (!data.tiers.length) parts.push(el("p", {}, "No validator has run with these records yet."));
  for (const tier of data.tiers) {
    const limits = tier.limits;
    parts.push(el("h2", {}, `Tier ${tier.name}`));
    if (limits) parts.push(el("p", { class: "muted" },
      `${Math.round(limits.incentive_share * 100)} % of the incentive; ${limits.timeout_s} s, contexts up to ` +
      `${limits.max_context_chars.toLocaleString()} characters, at most ${limits.max_condensed_tokens} tokens; ` +
      `condensed for ${limits.target_model}`));
    const found = tier.miners.filter((row) =>
      !wanted || String(row.uid) === wanted || row.hotkey.toLowerCase().includes(wanted));
    if (found.length) parts.push(table(`Miners of tier ${tier.name}, ${found.length} of ${tier.miners.length}`,
      minerColumns, sorted(found), sortBy));
    else parts.push(el("p", {}, tier.miners.length ? "No miner of this tier fits." : "No miner of this tier has been asked yet."));
  }
  if (data.last_round) parts.push(el("p", {}, "Last round: ",
    el("a", { href: `#/round/${data.last_round.id}` }, `round ${data.last_round.id}, tier ${data.last_round.tier}`),
    `, ${data.last_round.status}, ${when(data.last_round.started_at)}.`));
  if (data.last_weights) parts.push(el("p", {}, `Last weights: block ${data.last_weights.block}, ${data.last_weights.code}` +
    (data.last_weights.confirmed ? ", held by the chain." : ", not seen on the chain yet.")));
  return parts;
}

async function miner(hotkey) {
  const data = await ask(`/api/miners/${encodeURIComponent(hotkey)}`);
  const tiers = [...new Set(data.series.map((point) => point.tier))];
  const line = (name, key, tier) => ({ name, points: data.series.filter((p) => p.tier === tier).map((p) => [p.round, p[key]]) });
  const parts = [el("h1", {}, `Miner uid ${data.uid}`), el("p", {}, el("code", {}, data.hotkey)),
    el("p", {}, Object.entries(data.ratings).map(([tier, rating]) => `rating in ${tier}: ${number(rating)}`).join("; "),
      data.weight ? `; weight ${number(data.weight.weight, 4)} at block ${data.weight.block}` : "; no weight yet"),
    el("h2", {}, "Why this score"), reasons(data.why.slice(0, WHY_SHOWN))];
  if (data.why.length > WHY_SHOWN) parts.push(folded("why", "Earlier rounds", reasons(data.why.slice(WHY_SHOWN))));
  const panels = tiers.flatMap((tier) => [
    lineChart(`Rating and S, tier ${tier}, by round`, [line("rating", "rating", tier), line("S", "score", tier)], { from: 0 }),
    lineChart(`C and the best baseline's, tier ${tier}`, [line("C", "content_recovery", tier), line("best baseline", "best_baseline_c", tier)], { from: 0 }),
  ]);
  panels.push(lineChart("Seconds to reply, by round", [
    { name: "mean", points: data.latency.map((point) => [point.round, point.mean_s]) },
    { name: "slowest", points: data.latency.map((point) => [point.round, point.slowest_s]) }], { unit: " s", from: 0 }),
    lineChart("Weight, by block", [{ name: "weight", points: data.weights }], { from: 0 }),
    lineChart("Incentive, by block", [{ name: "incentive", points: data.incentives }], { from: 0 }));
  parts.push(el("h2", {}, "Over time"), el("div", { class: "panels" }, ...panels));
  const tasks = Object.entries(data.tasks).map(([name, task]) => ({ name, ...task }));
  if (tasks.length) parts.push(el("h2", {}, "By task, last round"), table("What each task found", [
    { name: "task", text: true, cell: (row) => row.name },
    { name: "C", cell: (row) => number(row.content_recovery) },
    { name: "R", cell: (row) => number(row.recovery) },
    { name: "items", cell: (row) => String(row.n) },
    { name: "loss, own tokens", cell: (row) => number(row.loss_own) },
    { name: "other text's tokens", cell: (row) => number(row.loss_other) },
    { name: "no text", cell: (row) => number(row.loss_none) },
    { name: "full text", cell: (row) => number(row.loss_full) },
  ], tasks));
  parts.push(el("h2", {}, "Replies"), el("p", {}, `All rounds kept: ${counted(data.codes)}.`));
  if (Object.keys(data.organic).length) parts.push(el("p", {}, `Users' requests: ${counted(data.organic)}.`));
  for (const round of data.rounds) parts.push(replies(round));
  return parts;
}

const reasons = (sentences) => el("ul", {}, ...sentences.map((sentence) => el("li", {}, sentence)));

function folded(name, title, content) {
  return el("details", { open: state.open.has(name), on: { toggle: (event) =>
    (event.target.open ? state.open.add(name) : state.open.delete(name)) } }, el("summary", {}, title), content);
}

function replies(round) {
  const title = `Round ${round.round}, tier ${round.tier}: S ${number(round.score)}`;
  return folded(`round ${round.round}`, title, table(`Replies of round ${round.round}`, [
    { name: "context", text: true, cell: (row) => row.challenge },
    { name: "kind", text: true, cell: (row) => row.kind },
    { name: "ended", text: true, cell: (row) => row.status },
    { name: "code", text: true, cell: (row) => row.code },
    { name: "seconds", cell: (row) => number(row.elapsed_s) },
    { name: "condensed tokens", cell: (row) => (row.n_condensed === null ? DASH : String(row.n_condensed)) },
  ], round.replies));
}

async function rounds() {
  const data = await ask("/api/rounds");
  return [el("h1", {}, "Rounds"), data.rounds.length ? table("The newest rounds", [
    { name: "round", cell: (row) => el("a", { href: `#/round/${row.id}` }, String(row.id)) },
    { name: "tier", text: true, cell: (row) => row.tier },
    { name: "block", cell: (row) => String(row.block) },
    { name: "started", text: true, cell: (row) => when(row.started_at) },
    { name: "seconds", cell: (row) => (row.finished_at === null ? DASH : number(row.finished_at - row.started_at, 1)) },
    { name: "state", text: true, cell: (row) => el("span", { class: row.status === "abandoned" ? "bad" : null },
      row.reason ? `${row.status}: ${row.reason}` : row.status) },
    { name: "replies", text: true, cell: (row) => counted(row.codes) },
  ], data.rounds) : el("p", {}, "No round has been played yet.")];
}

async function round(id) {
  const data = await ask(`/api/rounds/${encodeURIComponent(id)}`);
  return [el("h1", {}, `Round ${data.id}, tier ${data.tier}`),
    el("p", {}, `${data.status}${data.reason ? `: ${data.reason}` : ""}; block ${data.block}, ${when(data.started_at)}`),
    data.miners.length ? table("Miners of this round, best first", [
      { name: "miner", text: true, cell: minerLink },
      { name: "S", cell: (row) => number(row.score), class: "share", part: (row) => row.score },
      { name: "C", cell: (row) => number(row.content_recovery) },
      { name: "rating after", cell: (row) => number(row.rating) },
      { name: "why", class: "why", cell: (row) => row.why },
    ], data.miners) : el("p", {}, "This round has scored nobody.")];
}

async function weights() {
  const data = await ask("/api/weights");
  const held = data.sets[0];
  const parts = [el("h1", {}, "Weights and incentive")];
  if (!held) return [...parts, el("p", {}, "No weights have been set yet.")];
  parts.push(table(`Last submission, block ${held.block}`, [
    { name: "uid", cell: (row) => el("a", { href: `#/miner/${encodeURIComponent(row.hotkey)}` }, String(row.uid)) },
    { name: "hotkey", text: true, cell: (row) => el("code", {}, brief(row.hotkey)) },
    { name: "weight", cell: (row) => number(row.weight, 4), class: "share", part: (row) => row.weight },
    { name: "incentive", cell: (row) => number(data.incentives[row.hotkey] ?? null, 4) },
  ], [...data.weights].sort((a, b) => b.weight - a.weight)));
  parts.push(el("h2", {}, "Submissions"), table("Newest first", [
    { name: "block", cell: (row) => String(row.block) },
    { name: "at", text: true, cell: (row) => when(row.at) },
    { name: "the chain said", text: true, cell: (row) => (row.message ? `${row.code}: ${row.message}` : row.code) },
    { name: "read back", text: true, cell: (row) => (row.is_dry_run ? "dry run" : row.confirmed ? "yes" : "not yet") },
  ], data.sets));
  return parts;
}

const views = [
  [/^\/miner\/([^/]+)$/, miner], [/^\/rounds$/, rounds], [/^\/round\/(\d+)$/, round], [/^\/weights$/, weights],
];

function view() {
  const path = location.hash.startsWith("#/") ? location.hash.slice(1) : "/";
  for (const [pattern, show] of views) {
    const found = path.match(pattern);
    if (found) return () => show(...found.slice(1).map(decodeURIComponent));
  }
  return leaderboard;
}

async function ask(path) {
  const response = await fetch(path, { headers: { Accept: "application/json" } });
  if (response.ok) return response.json();
  const said = await response.json().catch(() => ({}));
  throw new Error(said.error?.message ?? `the server answered ${response.status}`);
}

let drawing = 0;

async function draw(isNewPage) {
  const mine = ++drawing;
  main.setAttribute("aria-busy", "true");
  let parts;
  try {
    parts = await view()();
    say("live, read " + new Date().toLocaleTimeString());
  } catch (error) {
    parts = [el("h1", {}, "Nothing to show"), el("p", { class: "bad" }, String(error.message))];
  }
  if (mine !== drawing) return;
  const focused = document.activeElement?.id;
  const caret = document.activeElement?.selectionStart;
  main.replaceChildren(...parts);
  main.setAttribute("aria-busy", "false");
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === (location.hash || "#/")) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${main.querySelector("h1")?.textContent ?? ""} \u00b7 Neural Condense`;
  if (isNewPage) { main.focus(); scrollTo(0, 0); }
  else if (focused === "filter") {
    const filter = document.getElementById("filter");
    filter.focus();
    filter.setSelectionRange(caret, caret);
  }
}

function say(text, isBad = false) {
  status.textContent = text;
  status.classList.toggle("bad", isBad);
}

function listen() {
  const events = new EventSource("/api/events");
  let isFirst = true;
  events.addEventListener("change", () => {
    if (!isFirst) draw(false);
    isFirst = false;
  });
  events.onerror = () => {
    say("not connected; trying again", true);
    events.close();
    setTimeout(() => { listen(); draw(false); }, RETRY_MS);
  };
}

// The address names the view, so the skip link must not change it.
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
addEventListener("hashchange", () => draw(true));
draw(false);
listen();
