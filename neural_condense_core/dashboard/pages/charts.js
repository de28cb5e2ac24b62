// Line charts as SVG elements, each with a text alternative; nothing here knows what is drawn.

const NS = "http://www.w3.org/2000/svg";
const WIDTH = 360;
const HEIGHT = 180;
const LEFT = 56;
const BOTTOM = 22;
const TOP = 10;
const RIGHT = 10;

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

// The least of some even numbers that is not below a value, so that half of it is short too.
const EVEN = [1, 1.2, 1.6, 2, 2.4, 3, 4, 5, 6, 8, 10];
function evenAbove(value) {
  if (value <= 0) return value;
  const power = 10 ** Math.floor(Math.log10(value));
  return +(EVEN.find((each) => each * power >= value * (1 - 1e-9)) * power).toPrecision(6);
}

const short = (value) => (Math.abs(value) >= 1000 ? value.toFixed(0) : String(+value.toPrecision(2 + (Math.abs(value) >= 0.1))));

// lines: [{ name, points: [[x, y], ...] }], at most two; by: what x counts; from: a value that the axis
// of y reaches to.
export function lineChart(title, by, lines, { unit = "", from = null } = {}) {
  const figure = document.createElement("figure");
  figure.className = "panel";
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
  const [y0, top] = extent([...all.map(([, y]) => y), ...(from === null ? [] : [from])]);
  const y1 = evenAbove(top);
  const px = (x) => LEFT + ((x - x0) / (x1 - x0)) * (WIDTH - LEFT - RIGHT);
  const py = (y) => HEIGHT - BOTTOM - ((y - y0) / (y1 - y0)) * (HEIGHT - BOTTOM - TOP);
  const last = shown.map((line) =>
    line.points.length ? `${line.name} ${short(line.points.at(-1)[1])}${unit}` : `${line.name} none`);
  const picture = svg("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title} by ${by}; last: ${last.join(", ")}`,
  });
  for (const y of [y0, (y0 + y1) / 2, y1]) {
    picture.append(svg("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: py(y), y2: py(y) }));
    picture.append(svg("text", { x: LEFT - 6, y: py(y) + 4, "text-anchor": "end" }, short(y) + unit));
  }
  const xs = new Set(all.map(([x]) => x));
  for (const [x, anchor] of xs.size > 1 ? [[x0, "start"], [x1, "end"]] : [[all[0][0], "middle"]]) {
    picture.append(svg("text", { x: px(x), y: HEIGHT - 6, "text-anchor": anchor }, `${by} ${x}`));
  }
  shown.forEach((line, index) => {
    const d = line.points.map(([x, y], at) => `${at ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`);
    if (d.length > 1) picture.append(svg("path", { class: `s${index}`, d: d.join("") }));
    if (line.points.length <= 60) {
      for (const [x, y] of line.points) {
        const dot = mark(index, px(x), py(y));
        dot.append(svg("title", {}, `${line.name}: ${short(y)}${unit} at ${by} ${x}`));
        picture.append(dot);
      }
    }
  });
  figure.append(picture);
  if (lines.length > 1) figure.append(key(lines));
  return figure;
}

// Two lines that meet differ in their marks too, not by colour alone.
function mark(index, x, y) {
  return index
    ? svg("rect", { class: `s${index}`, x: x - 3, y: y - 3, width: 6, height: 6 })
    : svg("circle", { class: `s${index}`, cx: x, cy: y, r: 3 });
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
