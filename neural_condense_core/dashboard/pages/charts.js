// Line charts as SVG elements. Every chart has a table of the same numbers beside it or a text
// alternative; nothing here knows what is drawn.

const NS = "http://www.w3.org/2000/svg";
const WIDTH = 360;
const HEIGHT = 180;
const LEFT = 44;
const BOTTOM = 22;
const TOP = 8;
const RIGHT = 8;

function svg(name, attributes, text) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function extent(values) {
  let low = Math.min(...values);
  let high = Math.max(...values);
  if (low === high) {
    low -= Math.abs(low) * 0.1 || 0.5;
    high += Math.abs(high) * 0.1 || 0.5;
  }
  return [low, high];
}

const short = (value) => (Math.abs(value) >= 1000 ? value.toFixed(0) : String(+value.toPrecision(2 + (Math.abs(value) >= 0.1))));

// lines: [{ name, points: [[x, y], ...] }], at most two; from: least upper bound of the axis.
export function lineChart(title, lines, { unit = "", from = null } = {}) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  caption.textContent = title;
  figure.append(caption);
  const shown = lines.map((line) => ({ ...line, points: line.points.filter(([, y]) => y !== null) }));
  const all = shown.flatMap((line) => line.points);
  if (all.length === 0) {
    const none = document.createElement("p");
    none.className = "muted";
    none.textContent = "nothing measured yet";
    figure.append(none);
    return figure;
  }
  const [x0, x1] = extent(all.map(([x]) => x));
  const [y0, y1] = extent([...all.map(([, y]) => y), ...(from === null ? [] : [from])]);
  const px = (x) => LEFT + ((x - x0) / (x1 - x0)) * (WIDTH - LEFT - RIGHT);
  const py = (y) => HEIGHT - BOTTOM - ((y - y0) / (y1 - y0)) * (HEIGHT - BOTTOM - TOP);
  const last = shown.map((line) =>
    line.points.length ? `${line.name} ${short(line.points.at(-1)[1])}${unit}` : `${line.name} none`);
  const picture = svg("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}; last: ${last.join(", ")}`,
  });
  for (const y of [y0, (y0 + y1) / 2, y1]) {
    picture.append(svg("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: py(y), y2: py(y) }));
    picture.append(svg("text", { x: LEFT - 6, y: py(y) + 4, "text-anchor": "end" }, short(y) + unit));
  }
  for (const [x, anchor] of [[x0, "start"], [x1, "end"]]) {
    if (all.some(([found]) => found === x)) {
      picture.append(svg("text", { x: px(x), y: HEIGHT - 6, "text-anchor": anchor }, short(x)));
    }
  }
  shown.forEach((line, index) => {
    const d = line.points.map(([x, y], at) => `${at ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`);
    if (d.length > 1) picture.append(svg("path", { class: `s${index}`, d: d.join("") }));
    if (line.points.length <= 60) {
      for (const [x, y] of line.points) {
        const dot = svg("circle", { class: `s${index}`, cx: px(x), cy: py(y), r: 2.5 });
        dot.append(svg("title", {}, `${line.name}: ${short(y)}${unit} at ${short(x)}`));
        picture.append(dot);
      }
    }
  });
  figure.append(picture);
  if (lines.length > 1) figure.append(key(lines));
  return figure;
}

function key(lines) {
  const list = document.createElement("ul");
  list.className = "key";
  lines.forEach((line, index) => {
    const item = document.createElement("li");
    const mark = document.createElement("span");
    if (index) mark.className = "second";
    item.append(mark, line.name);
    list.append(item);
  });
  return list;
}
