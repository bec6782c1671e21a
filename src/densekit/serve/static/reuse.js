// Which layers an answer drew on: points by layer, and who used whose work, for one picture.

import { drawn, element } from "./dom.js";
import { layerName, number, text, wholePercent } from "./language.js";

const MOST = 6; // layers with a row of their own
const LARGEST = 30; // pixels of a cell
const SMALLEST = 4;
const MARGIN = 30; // for the names at the left and the top
const EDGE = 8; // at the right, where the last name may be wider than its column
const NAME = 18; // pixels that a name needs
const NAMED = 3; // sources in words

// A table of points: the layers that gave or took most, the rest together, the constant, the score.
export function pointsTable(row, sources, task) {
  const order = row.parts.map((_, index) => index).sort((a, b) => Math.abs(row.parts[b]) - Math.abs(row.parts[a]));
  const shown = order.slice(0, order.length > MOST + 1 ? MOST : order.length);
  const rest = order.slice(shown.length);
  const lines = shown.map((index) => [layerName(sources[index]), row.parts[index]]);
  if (rest.length) {
    lines.push([text("why.rest", { count: number(rest.length) }), rest.reduce((sum, index) => sum + row.parts[index], 0)]);
  }
  lines.push([text("why.constant"), row.bias]);
  const largest = Math.max(...lines.map(([, points]) => Math.abs(points)), Number.MIN_VALUE);
  return element("div", {},
    element("h4", {}, text("why.parts", { class: row.class })),
    element("p", { class: "soft" }, text(task === "multi-label" ? "why.parts.sigmoid" : "why.parts.text", { class: row.class })),
    element("table", { class: "points" },
      element("thead", {}, element("tr", {},
        element("th", { scope: "col" }, text("why.layer")),
        element("td", { class: "balance" }),
        element("th", { scope: "col", class: "number" }, text("why.points")))),
      element("tbody", {}, ...lines.map(([name, points]) => pointsRow(name, points, largest))),
      element("tfoot", {}, element("tr", {},
        element("th", { scope: "row" }, text("why.score")),
        element("td", {}),
        element("td", { class: "number" }, number(row.logit, 2))))));
}

function pointsRow(name, points, largest) {
  const bar = element("i", { class: points < 0 ? "minus" : "plus" });
  bar.style.width = `${(50 * Math.abs(points)) / largest}%`;
  return element("tr", {},
    element("th", { scope: "row" }, name),
    element("td", { class: "balance" }, element("div", { "aria-hidden": "true" }, bar)),
    element("td", { class: "number" }, signed(points)));
}

function signed(points) {
  const size = number(Math.abs(points), 2);
  if (size === number(0, 2)) return size;
  return points < 0 ? `−${size}` : `+${size}`;
}

// The diagram of one block, with a choice of its columns that puts each in words. Call `fit` when its width may be
// another: its names stay readable only if it is drawn pixel by pixel.
export function blockDiagram(block, count) {
  const last = block.readers.length - 1;
  const picture = element("div", { class: "diagram" });
  const readout = element("p", { class: "readout", "aria-live": "polite" });
  const identity = `reader-${crypto.getRandomValues(new Uint32Array(1))[0]}`;
  const choice = element("select", { id: identity, change: () => choose(Number(choice.value)) },
    ...block.readers.map((reader, index) => element("option", { value: index, selected: index === last }, layerName(reader))));
  let chosen = last;
  let unit = LARGEST;

  function choose(reader) {
    chosen = reader;
    choice.value = String(reader);
    readout.replaceChildren(inWords(block, reader));
    draw();
  }
  function draw() {
    picture.replaceChildren(squares(block, count, unit, chosen, choose));
  }
  function fit() {
    const width = node.clientWidth;
    if (!width) return; // not shown
    const fitting = Math.floor((width - MARGIN - EDGE) / (last + 1));
    const wanted = Math.min(LARGEST, Math.max(SMALLEST, fitting));
    if (wanted === unit && picture.firstChild) return;
    unit = wanted;
    draw();
  }
  choose(last);
  const node = element("div", { class: "block" },
    element("h5", {}, text("why.block", { block: number(block.block), count: number(count) })),
    picture,
    element("p", { class: "row small" }, element("label", { for: identity }, text("why.reader")), choice),
    readout);
  return { node, fit };
}

function squares(block, count, unit, chosen, choose) {
  const size = block.readers.length;
  const side = MARGIN + size * unit;
  const step = Math.ceil(NAME / unit);
  const shape = drawn("svg", {
    width: side + EDGE, height: side, viewBox: `0 0 ${side + EDGE} ${side}`, role: "img",
    "aria-label": text("why.diagram", { block: number(block.block), layers: number(size - 1) }),
  });
  shape.append(drawn("rect", { class: "column", x: MARGIN + chosen * unit, y: MARGIN, width: unit, height: side - MARGIN }));
  for (let place = 0; place < size; place += 1) {
    if (place % step && place !== size - 1) continue;
    // The last name may have another so close before it that both would be unreadable.
    if (place !== size - 1 && place && place + step > size - 1) continue;
    const middle = MARGIN + (place + 0.5) * unit;
    shape.append(
      drawn("text", { x: MARGIN - 5, y: middle, class: "source" }, place ? number(place) : text("why.in")),
      drawn("text", { x: middle, y: MARGIN - 7, class: "reader" }, place < size - 1 ? number(place + 1) : text("why.out")));
  }
  for (let reader = 0; reader < size; reader += 1) {
    const most = strongestOf(block, reader);
    for (let source = 0; source < size; source += 1) {
      const value = block.values[source][reader];
      if (value === null) continue;
      const [x, y] = [MARGIN + reader * unit, MARGIN + source * unit];
      if (unit > 7) shape.append(drawn("rect", { class: "cell", x, y, width: unit, height: unit }));
      const edge = (unit - (unit > 7 ? 2 : 0.5)) * Math.sqrt(most > 0 ? value / most : 0);
      shape.append(drawn("rect", {
        class: reader === size - 1 ? "square out" : "square",
        x: x + (unit - edge) / 2, y: y + (unit - edge) / 2, width: edge, height: edge,
      }));
    }
  }
  shape.addEventListener("click", (event) => {
    const box = shape.getBoundingClientRect();
    const reader = Math.floor(((event.clientX - box.left) * (side + EDGE) / box.width - MARGIN) / unit);
    if (reader >= 0 && reader < size) choose(reader);
  });
  return shape;
}

function strongestOf(block, reader) {
  return Math.max(...block.values.map((row) => row[reader] ?? 0));
}

function inWords(block, reader) {
  const most = strongestOf(block, reader);
  const order = block.sources.map((name, source) => [name, block.values[source][reader]])
    .filter(([, value]) => value !== null)
    .sort((a, b) => b[1] - a[1])
    .slice(0, NAMED);
  const sources = order.map(([name, value], place) => {
    const source = layerName(name);
    return place ? text("why.share", { source, percent: wholePercent(most > 0 ? value / most : 0) }) : source;
  });
  const name = layerName(block.readers[reader]);
  return text("why.readout", { reader: name[0].toUpperCase() + name.slice(1), sources: sources.join(text("list")) });
}
