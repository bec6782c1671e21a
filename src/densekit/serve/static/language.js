// Which language the page speaks: the one chosen here before, else the browser's first that it knows.

import { STRINGS } from "./strings.js";

const KEPT = "densekit.language";
const listeners = [];
let current = chosen() ?? preferred(navigator.languages ?? [navigator.language]);

export const language = () => current;

export function preferred(wanted) {
  for (const tag of wanted) {
    const family = tag.toLowerCase().split("-")[0];
    const found = Object.keys(STRINGS).find((known) => known.split("-")[0] === family);
    if (found) return found;
  }
  return "en";
}

// The text of a key, with its {places} filled in.
export function text(key, values = {}) {
  return STRINGS[current][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

export const has = (key) => Object.hasOwn(STRINGS[current], key);

export function choose(tag) {
  current = tag;
  try {
    localStorage.setItem(KEPT, tag);
  } catch {
    // A browser that keeps nothing asks again next time.
  }
  speak();
}

export function onChange(listener) {
  listeners.push(listener);
}

// Everything on the page, in the current language.
export function speak() {
  document.documentElement.lang = current;
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = text(node.dataset.text);
  for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", text(node.dataset.label));
  for (const button of document.querySelectorAll(".languages button")) {
    button.setAttribute("aria-pressed", String(button.value === current));
  }
  for (const listener of listeners) listener();
}

export const number = (value, digits = 0) =>
  value.toLocaleString(current, { minimumFractionDigits: digits, maximumFractionDigits: digits });

// A class that is hardly likely is not impossible.
export function percent(share) {
  const tiny = share > 0 && share < 0.0005;
  const shown = (tiny ? 0.001 : share).toLocaleString(current, { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });
  return tiny ? text("card.tiny", { percent: shown }) : shown;
}

export const wholePercent = (share) => share.toLocaleString(current, { style: "percent", maximumFractionDigits: 0 });

// "layer 5" and its like, as the server calls sources and readers, in the reader's language.
export function layerName(name) {
  const [, kind, count] = /^(\w+)(?: (\d+))?$/.exec(name) ?? [];
  return has(`name.${kind}`) ? text(`name.${kind}`, { number: count }) : name;
}

function chosen() {
  try {
    const kept = localStorage.getItem(KEPT);
    return Object.hasOwn(STRINGS, kept ?? "") ? kept : null;
  } catch {
    return null;
  }
}
