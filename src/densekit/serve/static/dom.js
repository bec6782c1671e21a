// Elements from names and attributes. Text is only ever set as text: a class may be called anything.

const SVG = "http://www.w3.org/2000/svg";

export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function drawn(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

// New children for a node; the focus stays where it was if what had it is there again, known by data-key.
export function refill(node, ...children) {
  const active = document.activeElement;
  const key = node.contains(active) ? active.dataset?.key : undefined;
  node.replaceChildren(...children.filter((child) => child !== null));
  if (key) node.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}
