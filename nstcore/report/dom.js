// Elements, numbers and words. Text goes in as text, never as markup: a file may be called anything.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const make = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
const draw = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);
// A name from outside, which may run from right to left without taking its neighbours along
const named = (text) => make("bdi", { text });

const digits = (value, count = 5) => String(value == null ? "none" : Number(value.toPrecision(count)));

function bytes(count) {
  const unit = count >= 1e9 ? [1e9, "GB"] : count >= 1e6 ? [1e6, "MB"] : [1e3, "kB"];
  return `${(count / unit[0]).toFixed(count / unit[0] < 10 ? 1 : 0)} ${unit[1]}`;
}

function duration(seconds) {
  if (seconds < 90) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 90) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

// The size that the evaluation belongs to; null where nobody knows (before a resumption)
function sizeAt(evaluation) {
  let found = null;
  for (const size of data.sizes) if (size.evaluation <= evaluation) found = size;
  return found;
}
