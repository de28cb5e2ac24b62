// What every page needs: elements whose content is text and never markup, and the skip link.

// attributes: null, undefined and false are left out, true is an empty one; on: { type: listener }.
export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "on") for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// A list of facts: [[name, value], ...].
export function facts(pairs) {
  return pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)));
}

// The address may name a view, so the skip link must not change it.
export function skipTo(main) {
  document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
}
