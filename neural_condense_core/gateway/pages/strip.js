// The strip that shows what condensed tokens kept of a text, piece by piece; its legend, its table,
// and one line about the piece that is pointed at or reached with the arrow keys.

import { el } from "/elements.js";

const EASY_NATS = Math.LN2;
const KEPT = 2 / 3;
const PARTLY = 0.2;

export const KINDS = {
  kept: ["kept", "at least two thirds of what it costs without context are gone"],
  partly: ["partly", "a fifth to two thirds are gone"],
  lost: ["lost", "hardly expected better than without any context"],
  misled: ["misled", "expected worse than without any context"],
  easy: ["easy anyway", "expected at one in two or better without any context"],
};

export function kindOf(piece) {
  if (piece.none < EASY_NATS * piece.n_tokens) {
    return piece.condensed > piece.none + EASY_NATS * piece.n_tokens ? "misled" : "easy";
  }
  const share = 1 - piece.condensed / piece.none;
  if (share >= KEPT) return "kept";
  if (share >= PARTLY) return "partly";
  return share > -PARTLY ? "lost" : "misled";
}

const chance = (nats) => {
  const percent = Math.exp(-nats) * 100;
  return percent >= 99.95 ? "100 %" : percent >= 0.1 ? `${percent.toFixed(1)} %` : "under 0.1 %";
};
const shown = (text) => text.replaceAll("\n", "\u21b5").replaceAll("\t", "\u21e5");
const told = (piece) =>
  `\u201c${shown(piece.text)}\u201d: ${KINDS[kindOf(piece)][0]}; expected at ${chance(piece.condensed)} ` +
  `behind the condensed tokens, at ${chance(piece.none)} without context`;

export class Strip {
  constructor({ strip, legend, meanings, sum, one, table }) {
    Object.assign(this, { strip, legend, sum, one, table });
    meanings.append(...Object.values(KINDS).map(([name, meaning]) => el("li", {}, el("b", {}, name), `: ${meaning}`)));
    this.pieces = [];
    this.at = -1;
    strip.addEventListener("pointerover", (event) => this.point(event.target));
    strip.addEventListener("click", (event) => this.point(event.target));
    strip.addEventListener("focus", () => this.go(Math.max(this.at, 0)));
    strip.addEventListener("keydown", (event) => this.press(event));
    table.addEventListener("toggle", () => this.tabulate());
  }

  show(found) {
    this.pieces = found.pieces;
    this.at = -1;
    this.strip.removeAttribute("aria-activedescendant");
    this.strip.replaceChildren(...found.pieces.map((piece, index) => {
      const span = document.createElement("span");
      span.id = `piece-${index}`;
      span.className = `piece ${kindOf(piece)}`;
      span.setAttribute("role", "option");
      span.setAttribute("aria-selected", "false");
      span.setAttribute("aria-label", told(piece));
      span.textContent = piece.text;
      return span;
    }));
    this.strip.scrollTop = 0;
    this.one.textContent = "Point at a piece, or go through them with the arrow keys.";
    this.sumUp(found);
    this.explain();
    this.tabulate();
  }

  sumUp({ n_tokens: total, start, pieces }) {
    const add = (key) => pieces.reduce((sum, piece) => sum + piece[key], 0);
    const [n, condensed, none] = [add("n_tokens"), add("condensed"), add("none")];
    const share = none > 0 ? Math.round((1 - condensed / none) * 100) : 0;
    this.sum.textContent = n
      ? `Tokens ${start + 1} to ${start + n} of ${total}. Without context they cost the model ` +
        `${none.toFixed(0)} nats, behind the condensed tokens ${condensed.toFixed(0)}: ${share} % less.`
      : "No token stands here.";
  }

  explain() {
    const counts = Object.fromEntries(Object.keys(KINDS).map((kind) => [kind, 0]));
    for (const piece of this.pieces) counts[kindOf(piece)] += 1;
    this.legend.replaceChildren(...Object.entries(KINDS).map(([kind, [name]]) => {
      const item = document.createElement("li");
      const mark = document.createElement("span");
      mark.className = `piece ${kind}`;
      mark.textContent = name;
      item.append(mark, ` ${counts[kind]}`);
      return item;
    }));
  }

  tabulate() {
    this.table.querySelector(".wide")?.remove();
    if (!this.table.open) return;
    const row = (name, cells) => {
      const line = document.createElement("tr");
      line.append(...cells.map((text, index) => {
        const cell = document.createElement(name);
        if (name === "th") cell.scope = "col";
        if (index === 0 || index === 3) cell.className = "text";
        cell.textContent = text;
        return cell;
      }));
      return line;
    };
    const table = document.createElement("table");
    const [head, body] = ["thead", "tbody"].map((name) => document.createElement(name));
    head.append(row("th", ["piece", "condensed", "no context", "so it is"]));
    body.append(...this.pieces.map((piece) =>
      row("td", [shown(piece.text), chance(piece.condensed), chance(piece.none), KINDS[kindOf(piece)][0]])));
    table.append(head, body);
    const wide = document.createElement("div");
    wide.className = "wide";
    wide.tabIndex = 0;
    wide.setAttribute("role", "region");
    wide.setAttribute("aria-label", "How much each piece is expected");
    wide.append(table);
    this.table.append(wide);
  }

  point(element) {
    const index = [...this.strip.children].indexOf(element);
    if (index >= 0) this.go(index);
  }

  press(event) {
    const last = this.pieces.length - 1;
    const to = { ArrowRight: this.at + 1, ArrowDown: this.at + 1, ArrowLeft: this.at - 1, ArrowUp: this.at - 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.go(Math.min(Math.max(to, 0), last), true);
  }

  go(index, scrolls = false) {
    const next = this.strip.children[index];
    if (!next) return;
    this.strip.children[this.at]?.setAttribute("aria-selected", "false");
    next.setAttribute("aria-selected", "true");
    this.strip.setAttribute("aria-activedescendant", next.id);
    if (scrolls) next.scrollIntoView({ block: "nearest" });
    this.at = index;
    this.one.textContent = told(this.pieces[index]);
  }
}
