// The page: read a text, have it condensed, ask three ways, look at what was kept, take it along.
// Whatever comes from a text, a file or a model is put in as text, never as markup.

import { el, facts, skipTo } from "/elements.js";
import { WantsKey, answer, ask, json, post, useKey } from "/playground-asking.js";
import { NOTES, asked, content, snippet } from "/playground-snippets.js";
import { Strip } from "/playground-strip.js";

const POLL_MS = 1000;
const FAILED_POLL_MS = 10_000;
const TRACE_TOKENS = 256;
const WAYS = [
  { name: "No context", key: "none" },
  { name: "Condensed tokens", key: "condensed" },
  { name: "Full text", key: "full" },
];

const at = (id) => document.getElementById(id);
const bytes = new TextEncoder();
const seconds = (ms) => `${(ms / 1000).toFixed(ms < 9950 ? 2 : 1)} s`;
const count = (value) => value.toLocaleString("en");
const size = (n) => (n < 1000 ? `${n} B` : n < 1e6 ? `${(n / 1000).toFixed(1)} kB` : `${(n / 1e6).toFixed(2)} MB`);

// info: what the gateway offers; made: the context in hand, with the text that it was made of.
const state = { info: null, made: null, needsKey: false, start: 0 };

const strip = new Strip({
  strip: at("strip"), legend: at("legend"), meanings: at("meanings"), sum: at("kept-sum"), one: at("kept-one"), table: at("kept-table"),
});

function say(text) { at("status").textContent = text; }

// One piece of work of a kind at a time; its Stop button ends it, its fault line says what went wrong.
async function work(name, doing, action) {
  const [begin, stop, fault] = [at(name), at(`${name}-stop`), at(`${name}-fault`)];
  if (begin.disabled) return;
  const controller = new AbortController();
  const end = () => controller.abort();
  begin.disabled = true;
  if (stop) { stop.hidden = false; stop.addEventListener("click", end); }
  if (fault) fault.textContent = "";
  say(doing);
  try {
    await action(controller.signal);
    say("done");
  } catch (error) {
    const isStopped = error.name === "AbortError";
    if (error instanceof WantsKey) wantKey(error.message);
    if (!isStopped && fault) fault.textContent = error.message;
    say(isStopped ? "stopped" : "that did not work");
  } finally {
    const hadFocus = document.activeElement === stop;
    begin.disabled = false;
    if (stop) { stop.removeEventListener("click", end); stop.hidden = true; }
    if (hadFocus) begin.focus();
  }
}

// What the gateway offers

async function begin() {
  for (;;) {
    try {
      state.info = await json("/playground/info");
    } catch (error) {
      say(error.message);
      if (error instanceof WantsKey) { wantKey(""); return; }
    }
    if (state.info) {
      at("key-form").hidden = true;
      offer();
      if (state.info.state === "ready" && state.info.condensers.every((each) => each.is_ready)) break;
      say(state.info.state === "failed" ? "the model could not be loaded; the gateway's log says why" : "the model is loading");
    }
    await new Promise((resolve) => setTimeout(resolve, state.info?.state === "failed" ? FAILED_POLL_MS : POLL_MS));
  }
  say("ready");
}

function wantKey(message) {
  state.needsKey = true;
  at("key-form").hidden = false;
  at("key-fault").textContent = message;
  say("an API key is wanted");
}

function offer() {
  const { model, engine, window: rows, condensers } = state.info;
  at("served").textContent = `${model} by ${engine}${rows ? `, window of ${count(rows)} tokens` : ""}`;
  const before = at("condenser").value;
  const names = condensers.map((each) => each.name);
  if (at("condenser").dataset.shown === JSON.stringify(condensers)) return;
  at("condenser").dataset.shown = JSON.stringify(condensers);
  at("condenser").replaceChildren(...names.map((name) => el("option", { value: name }, name)));
  at("condenser").value = names.includes(before) ? before : names[0];
  offerRatios();
}

function offerRatios() {
  const { ratios, default_ratio: usual } = state.info.condensers.find((each) => each.name === at("condenser").value);
  const limit = Math.max(state.info.max_ratio, usual);
  const field = ratios
    ? el("select", { id: "ratio" }, ...ratios.filter((each) => each <= limit).map((each) => el("option", { value: each }, `${each} to 1`)))
    : el("input", { id: "ratio", type: "number", min: 1, max: limit, step: "any", required: "" });
  field.value = usual;
  field.addEventListener("input", compare);
  at("ratio-box").replaceChildren(field);
  compare();
}

// The text

function measure() {
  const text = at("text").value;
  at("text-size").textContent = text ? `${count(text.length)} characters, ${size(bytes.encode(text).length)}` : "";
  compare();
}

function compare() {
  if (!state.made) return;
  const { text, condenser, ratio } = state.made;
  at("stale").hidden = text === at("text").value && condenser === at("condenser").value && ratio === Number(at("ratio").value);
}

async function textOf(file, signal) {
  const limit = state.info?.max_file_bytes ?? Infinity;
  if (file.size > limit) throw new Error(`The file has ${size(file.size)}; at most ${size(limit)} are read.`);
  const ending = file.name.toLowerCase().split(".").at(-1);
  const type = { pdf: "application/pdf", html: "text/html", htm: "text/html", xhtml: "text/html" }[ending];
  if (type) {
    const found = await json("/playground/text", { method: "POST", body: file, type, signal });
    return { text: found.text, note: found.is_cut ? "; only its beginning, it is very long" : "" };
  }
  const body = await file.arrayBuffer();
  for (const encoding of ["utf-8", "windows-1252"]) {
    try {
      const text = new TextDecoder(encoding, { fatal: true }).decode(body);
      if (text.includes("\u0000")) break;
      return { text, note: "" };
    } catch { /* the next encoding */ }
  }
  throw new Error("This is no text. Files may be txt, md, html or pdf.");
}

function take(file) {
  if (!file) return;
  work("condense", `reading ${file.name}`, async (signal) => {
    const { text, note } = await textOf(file, signal);
    at("text").value = text;
    measure();
    at("text-size").textContent += ` from ${file.name}${note}`;
  });
}

function condense() {
  work("condense", "condensing", async (signal) => {
    const text = at("text").value;
    if (!text.trim()) throw new Error("There is no text yet: paste one, or choose a file.");
    const [condenser, ratio] = [at("condenser").value, Number(at("ratio").value)];
    const begun = performance.now();
    const about = await post("/v1/condense", { context: text, condenser, ratio }, signal);
    state.made = { about, text, condenser, ratio, ms: performance.now() - begun };
    at("condensed").hidden = false;
    show();
  });
}

function show() {
  const { about, text, ms } = state.made;
  for (const id of ["ask-stop", "trace-stop"]) if (!at(id).hidden) at(id).click();
  const [before, after] = [about.n_context_tokens, about.n_condensed_tokens];
  const short = el("div", { class: "after" });
  short.style.setProperty("--part", `${Math.min(100, (after / before) * 100)}%`);
  at("bars").replaceChildren(
    el("span", {}, `text, ${count(before)} tokens`), el("div", { class: "before" }),
    el("span", {}, `condensed, ${count(after)} tokens`), short);
  const found = [
    ["Tokens before", count(before)], ["Condensed tokens", count(after)],
    ["Ratio", `${(before / after).toFixed(2)} to 1`],
    ["Text", size(bytes.encode(text).length)], ["Matrix", `${size(about.nbytes)}, ${after} × ${about.hidden_size}`],
    ["Time", `${seconds(ms)}${about.from_store ? ", from the store" : ""}`],
    ["Estimated recovery", about.recovery === null ? "not known" : about.recovery.toFixed(2)],
    ["Condenser", about.condenser],
  ];
  at("kept-as").textContent = about.id;
  at("sizes").replaceChildren(...facts(found));
  at("answers").replaceChildren(...WAYS.map(card));
  state.start = 0;
  at("kept").hidden = true;
  at("trace-before").disabled = at("trace-after").disabled = true;
  compare();
  write();
}

function download() {
  work("download", "fetching the matrix", async (signal) => {
    const { id } = state.made.about;
    const response = await ask(`/v1/contexts/${id}`, { accept: "application/vnd.safetensors", signal });
    const url = URL.createObjectURL(await response.blob());
    const link = el("a", { href: url, download: `${id}.safetensors` });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  });
}

// Questions

function card({ name, key }) {
  return el("article", { id: `answer-${key}`, class: "panel", "aria-label": name }, el("h3", {}, name),
    el("p", { class: "answer" }), el("p", { class: "took" }), el("p", { class: "fault", role: "alert" }));
}

function message(key) {
  const { about, text } = state.made;
  const question = asked(at("instruction").value, at("question").value);
  if (key === "none") return question;
  if (key === "full") return `Text:\n${text}\n\n${question}`;
  return content(about.id, at("instruction").value, at("question").value);
}

async function answerOne({ key, name }, signal) {
  const [text, took, fault] = [...at(`answer-${key}`).querySelectorAll("p")];
  say(`answering: ${name.toLowerCase()}`);
  const begun = performance.now();
  let first = null;
  took.textContent = "waiting for the model";
  const wanted = {
    model: state.info.model, messages: [{ role: "user", content: message(key) }],
    temperature: 0, max_tokens: Number(at("longest").value), condense: { mode: "never" },
  };
  try {
    for await (const piece of answer(wanted, signal)) {
      if (piece.text) { first ??= performance.now() - begun; text.textContent += piece.text; }
      if (piece.usage) {
        took.textContent = `${count(piece.usage.prompt_tokens)} tokens read, ${count(piece.usage.completion_tokens)} written; ` +
          (first === null ? "" : `first after ${seconds(first)}, `) + `all after ${seconds(performance.now() - begun)}`;
        if (!text.textContent) text.textContent = "(the model ended its turn without a word)";
      }
    }
  } catch (error) {
    took.textContent = error.name === "AbortError" ? "stopped" : "";
    if (error.name === "AbortError" || error instanceof WantsKey) throw error;
    fault.textContent = error.message;
  }
}

function askThreeWays() {
  work("ask", "answering", async (signal) => {
    if (!at("question").value.trim()) throw new Error("There is no question yet.");
    at("answers").replaceChildren(...WAYS.map(card));
    for (const way of WAYS) await answerOne(way, signal);
  });
}

// What was kept

function trace(start) {
  work("trace", "looking at what was kept", async (signal) => {
    const { about, text } = state.made;
    const found = await post("/playground/trace", { id: about.id, text, start, n_tokens: TRACE_TOKENS }, signal);
    state.start = start;
    at("kept").hidden = false;
    strip.show(found);
    at("trace-before").disabled = start === 0;
    at("trace-after").disabled = start + TRACE_TOKENS >= found.n_tokens;
  });
}

// The same as code

function write() {
  const kind = document.querySelector("input[name=snippet]:checked").value;
  at("snippet-note").textContent = NOTES[kind];
  at("snippet").firstElementChild.textContent = snippet(kind, {
    origin: location.origin, model: state.info.model, id: state.made.about.id,
    instruction: at("instruction").value, question: at("question").value || "What is it about?",
    longest: Number(at("longest").value) || 1, needsKey: state.needsKey,
  });
}

async function copy() {
  try {
    await navigator.clipboard.writeText(at("snippet").textContent);
    say("copied");
  } catch {
    getSelection().selectAllChildren(at("snippet"));
    say("this browser does not let the page copy; the code is selected instead");
  }
}

const on = (id, type, listener) => at(id).addEventListener(type, listener);
const submits = (id, action) => on(id, "submit", (event) => { event.preventDefault(); action(); });

skipTo(at("main"));
submits("key-form", () => { useKey(at("key").value); at("key").value = ""; begin().then(() => {
  if (at("key-form").hidden) at("text").focus(); else at("key-fault").textContent = "This key is not known here."; }); });
submits("condense-form", condense);
submits("ask-form", askThreeWays);
on("text", "input", measure);
on("condenser", "change", offerRatios);
on("file", "change", (event) => { take(event.target.files[0]); event.target.value = ""; });
// Anywhere on the page: a file dropped beside the field would otherwise be opened in its place.
const carriesFile = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragover", (event) => {
  if (carriesFile(event)) { event.preventDefault(); at("drop").classList.add("over"); }
});
addEventListener("dragleave", (event) => { if (!event.relatedTarget) at("drop").classList.remove("over"); });
addEventListener("drop", (event) => {
  at("drop").classList.remove("over");
  if (carriesFile(event)) { event.preventDefault(); take(event.dataTransfer.files[0]); }
});
on("download", "click", download);
on("trace", "click", () => trace(state.start));
on("trace-before", "click", () => trace(Math.max(0, state.start - TRACE_TOKENS)));
on("trace-after", "click", () => trace(state.start + TRACE_TOKENS));
on("copy", "click", copy);
for (const id of ["instruction", "question", "longest"]) on(id, "input", () => state.made && write());
for (const radio of document.querySelectorAll("input[name=snippet]")) radio.addEventListener("change", write);
begin();
