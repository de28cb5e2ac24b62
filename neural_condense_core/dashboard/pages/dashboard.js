// The page: which view the address names, its data, and drawing it. What comes from the records is
// put in as text, never as markup. Data is asked for anew whenever the server says that it changed.

import { lineChart } from "/charts.js";
import { el, facts, skipTo } from "/elements.js";

const main = document.getElementById("main");
const status = document.getElementById("status");
const RETRY_MS = 3000;
const CHART_ROWS = 50;
const DASH = "\u2013";

const state = { sort: { key: "rank", descending: false }, filter: "", open: new Set() };

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
  { name: "score S", key: "score", cell: (row) => number(row.score) },
  { name: "content C", key: "content_recovery", cell: (row) => number(row.content_recovery) },
  { name: "recovery R", key: "recovery", cell: (row) => number(row.recovery) },
  { name: "best baseline's C", key: "best_baseline_c", cell: (row) =>
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
  draw(false);
}

async function leaderboard() {
  const data = await ask("/api/overview");
  const wanted = state.filter.trim().toLowerCase();
  const parts = [el("h1", {}, "Leaderboard")];
  const filter = el("input", { id: "filter", type: "search", value: state.filter, size: "30",
    placeholder: "uid or hotkey", autocomplete: "off", on: { input: (event) => { state.filter = event.target.value; draw(false); } } });
  parts.push(el("label", { for: "filter", class: "find" }, "Find a miner", filter));
  if (!data.tiers.length) parts.push(el("p", { class: "note" }, "No validator has run with these records yet. ",
    "As soon as one does, its miners appear here by themselves."));
  for (const tier of data.tiers) {
    const limits = tier.limits;
    parts.push(el("h2", {}, `Tier ${tier.name}`));
    if (limits) parts.push(el("p", { class: "muted" },
      `${Math.round(limits.incentive_share * 100)} % of the incentive. A reply may take ${limits.timeout_s} s; texts have up to ` +
      `${limits.max_context_chars.toLocaleString("en")} characters and may become ${limits.max_condensed_tokens} condensed tokens, ` +
      `for ${limits.target_model}.`));
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
  const parts = [el("h1", {}, `Miner uid ${data.uid}`), el("p", { class: "hotkey" }, el("code", {}, data.hotkey)),
    el("dl", { class: "facts" }, ...facts(standing(data))),
    el("h2", {}, "Why this score"), ...Object.values(data.reasons).map((reasons) => el("div", { class: "note why-now" }, listed(reasons)))];
  parts.push(folded("why", `The last ${data.why.length} rounds in words`, listed(data.why)));
  parts.push(el("h2", {}, "Over time"), el("div", { class: "panels" }, ...charts(data)));
  const tasks = Object.entries(data.tasks).map(([name, task]) => ({ name, ...task }));
  if (tasks.length) parts.push(el("h2", {}, "By task, last round"), table("What each task found", [
    { name: "task", text: true, cell: (row) => row.name },
    { name: "content C", cell: (row) => number(row.content_recovery) },
    { name: "recovery R", cell: (row) => number(row.recovery) },
    { name: "questions", cell: (row) => String(row.n) },
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

const listed = (texts) => el("ul", {}, ...texts.map((text) => el("li", {}, text)));

function standing(data) {
  const counts = Object.values(data.codes).reduce((sum, n) => sum + n, 0);
  const paid = data.incentives.at(-1);
  return [
    ...Object.entries(data.ratings).map(([tier, rating]) => [`Rating, tier ${tier}`, number(rating)]),
    ["Weight", data.weight ? `${number(data.weight.weight, 4)} at block ${data.weight.block}` : "none yet"],
    ["Incentive", paid ? `${number(paid[1], 4)} at block ${paid[0]}` : "not read yet"],
    ["Replies that could be judged", `${data.codes.ok ?? 0} of ${counts}`],
  ];
}

function charts(data) {
  const line = (name, key, tier) => ({ name, points: data.series.filter((p) => p.tier === tier).map((p) => [p.round, p[key]]) });
  const tiers = [...new Set(data.series.map((point) => point.tier))];
  const tierOf = new Map(data.series.map((point) => [point.round, point.tier]));
  const time = (name, key, tier) => ({ name, points: data.latency.filter((p) => tierOf.get(p.round) === tier).map((p) => [p.round, p[key]]) });
  return [
    ...tiers.flatMap((tier) => [
      chart(`Rating and score S, ${tier}`, "round", [line("rating", "rating", tier), line("S", "score", tier)]),
      chart(`Content C, ${tier}`, "round", [line("C", "content_recovery", tier), line("best baseline", "best_baseline_c", tier)]),
      chart(`Seconds to reply, ${tier}`, "round", [time("mean", "mean_s", tier), time("slowest", "slowest_s", tier)], " s"),
    ]),
    chart("Weight", "block", [{ name: "weight", points: data.weights }]),
    chart("Incentive", "block", [{ name: "incentive", points: data.incentives }]),
  ];
}

// A picture, and the newest of its numbers as a table.
function chart(title, by, lines, unit = "") {
  const figure = lineChart(title, by, lines, { unit, from: 0 });
  const at = new Map();
  lines.forEach((line, index) => line.points.forEach(([x, y]) => at.set(x, { ...at.get(x), [index]: y })));
  if (!at.size) return figure;
  const rows = [...at].sort(([a], [b]) => b - a).slice(0, CHART_ROWS);
  figure.append(folded(title, "As a table", table(`${title}, newest first`, [
    { name: by, cell: ([x]) => String(x) },
    ...lines.map((line, index) => ({ name: line.name, cell: ([, found]) => number(found[index]) })),
  ], rows)));
  return figure;
}

function folded(name, title, content) {
  return el("details", { "data-keep": name, open: state.open.has(name), on: { toggle: (event) =>
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
      { name: "score S", cell: (row) => number(row.score), class: "share", part: (row) => row.score },
      { name: "content C", cell: (row) => number(row.content_recovery) },
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
  const error = new Error(said.error?.message ?? `the server answered ${response.status}`);
  error.isAnswer = response.status < 500 && response.status !== 429;
  throw error;
}

let drawing = 0;
let shown = null;

async function draw(isNewPage) {
  const mine = ++drawing;
  const place = location.hash;
  main.setAttribute("aria-busy", "true");
  let parts;
  try {
    parts = await view()();
    if (mine === drawing) say("live", ` at ${new Date().toLocaleTimeString()}`);
  } catch (error) {
    // What is shown already stays where only the newest figures are missing.
    if (shown === place && !error.isAnswer) parts = null;
    else parts = [el("h1", {}, "Nothing to show"), el("p", { class: "bad" }, String(error.message))];
    if (mine === drawing && !error.isAnswer) say("not connected; trying again", "", true);
  }
  if (mine !== drawing) return;
  main.setAttribute("aria-busy", "false");
  if (!parts) return;
  const back = isNewPage ? null : held();
  main.replaceChildren(...parts);
  shown = place;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === (place || "#/")) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${main.querySelector("h1")?.textContent ?? ""} \u00b7 Neural Condense`;
  if (isNewPage) { main.focus(); scrollTo(0, 0); } else back();
}

// Drawn anew, the page has the keyboard's focus, the caret and what was scrolled where they were.
function held() {
  const [active, caret] = [document.activeElement, document.activeElement?.selectionStart];
  const name = (each) => [each.tagName, each.id, each.getAttribute("href"), each.dataset.sort, each.getAttribute("aria-label"),
    each.parentElement?.dataset?.keep].join(" ");
  const alike = (wanted) => [...main.querySelectorAll("a, button, input, summary, .wide")].filter((each) => name(each) === wanted);
  const wanted = main.contains(active) && active !== main ? name(active) : null;
  const index = wanted === null ? 0 : alike(wanted).indexOf(active);
  const scrolled = [...main.querySelectorAll(".wide")].map((each) => [name(each), each.scrollLeft, each.scrollTop]);
  return () => {
    for (const [which, left, top] of scrolled) alike(which)[0]?.scrollTo(left, top);
    if (wanted === null) return;
    const found = alike(wanted)[index] ?? alike(wanted)[0] ?? main;
    found.focus({ preventScroll: true });
    if (caret !== undefined && caret !== null) found.setSelectionRange?.(caret, caret);
  };
}

// The word is spoken where it changes, the time is not.
function say(text, time, isBad = false) {
  if (status.textContent !== text) status.textContent = text;
  document.getElementById("read-at").textContent = time;
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
    say("not connected; trying again", "", true);
    events.close();
    setTimeout(() => { listen(); draw(false); }, RETRY_MS);
  };
}

skipTo(main);
addEventListener("hashchange", () => draw(true));
draw(false);
listen();
