// The page: what is served, pictures in, cards out.

import { Card, reasonOf } from "./card.js";
import { ask, Failure, useToken } from "./client.js";
import { element } from "./dom.js";
import { choose, number, onChange, percent, speak, text } from "./language.js";

const AT_ONCE = 2; // pictures under way: the server makes a batch of what several people ask
const $ = (id) => document.getElementById(id);
const cards = [];
const waiting = [];
let model = null;
let trouble = null;
let note = null; // the key of what there is to say about what was added
let running = 0;
let explaining = false;
let batch = { count: 0, done: 0, failed: 0 };
let control = new AbortController();
let pasted = 0;

// Whoever has scrolled to an answer wants to know why; the others cost the server nothing.
const sight = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const card = cards.find((each) => each.node === entry.target);
    if (!card) continue;
    card.visible = entry.isIntersecting;
    explainNext();
  }
}, { rootMargin: "200px" });

async function meet() {
  trouble = null;
  render();
  try {
    model = await ask("v1/model");
    $("token-form").hidden = true;
  } catch (error) {
    const locked = error instanceof Failure && error.code === "unauthorized";
    // The first time the form says it all; later it has to be said that this was not it.
    if (!locked || !$("token-form").hidden) trouble = error;
    if (locked) wantToken();
  }
  render();
}

function wantToken() {
  $("token-form").hidden = false;
  $("token").focus();
}

function render() {
  const problem = $("problem");
  problem.hidden = !trouble;
  problem.replaceChildren(...(trouble
    ? [element("p", {}, reasonOf(trouble)), element("button", { type: "button", click: meet }, text("retry"))]
    : []));
  $("intake").hidden = $("about").hidden = !model;
  renderProgress();
  renderNote();
  if (!model) return;
  const values = { model: model.name, classes: number(model.classes.length), colours: colours(), ...model.input };
  document.title = text("page.title", values);
  $("title").textContent = text("page.heading");
  $("summary").textContent = text("page.summary", values);
  $("unexplained").hidden = model.capabilities.class_map;
  $("facts").replaceChildren(...facts(values).flatMap(([name, words]) => [
    element("dt", {}, text(`about.${name}`)),
    // What scrolls must be reachable by keys.
    element("dd", { tabindex: name === "classes" && model.classes.length > 30 ? "0" : null }, words),
  ]));
  for (const card of cards) card.render();
}

function renderNote() {
  $("note").hidden = !note;
  $("note").textContent = note ? text(note) : "";
}

function colours() {
  const { channels } = model.input;
  return text([1, 3, 4].includes(channels) ? `colours.${channels}` : "colours.n", { channels });
}

function facts(values) {
  const { capabilities, metrics, preprocessing } = model;
  const found = [
    ["network", model.name],
    ["classes", `${values.classes}: ${model.classes.join(text("list"))}`],
    ["input", text("about.input.text", { ...values, resize: preprocessing.resize })],
    ["answers", text(model.task === "multi-label" ? "about.answers.multi" : "about.answers.single")],
  ];
  if (metrics.count && typeof metrics.top1 === "number") {
    found.push(["accuracy", text("about.accuracy.top1", { percent: percent(metrics.top1), count: number(metrics.count) })]);
  } else if (metrics.count && typeof metrics.auroc === "number") {
    found.push(["accuracy", text("about.accuracy.auroc", { value: number(metrics.auroc, 3), count: number(metrics.count) })]);
  }
  const explains = capabilities.reuse ? "both" : capabilities.class_map ? "map" : "none";
  return [...found, ["explains", text(`about.explains.${explains}`)]];
}

// Pictures in.

function add(files) {
  if (!model) return;
  note = files.length ? null : "intake.none";
  renderNote();
  if (!files.length) return;
  const fresh = [...files].map((file) => {
    const number = file.name === "image.png" || !file.name ? (pasted += 1) : 0;
    const name = () => (number ? text("card.pasted", { number }) : file.name);
    return new Card(file, name, model, { told: tell, removed: discard, again });
  });
  cards.unshift(...fresh);
  $("results").prepend(...fresh.map((card) => card.node));
  for (const card of fresh) sight.observe(card.node);
  if (!busy()) batch = { count: 0, done: 0, failed: 0 };
  tell(text("intake.added", { count: number(fresh.length) }));
  for (const card of fresh) enqueue(card);
  fresh[0].heading.focus({ preventScroll: true });
  $("progress").scrollIntoView({ block: "start", behavior: "auto" });
}

function discard(card) {
  const place = cards.indexOf(card);
  cards.splice(place, 1);
  const queued = waiting.indexOf(card);
  if (queued >= 0) waiting.splice(queued, 1);
  card.gone = true;
  card.forget();
  sight.unobserve(card.node);
  card.node.remove();
  (cards[Math.min(place, cards.length - 1)]?.heading ?? $("choose")).focus();
  renderProgress();
}

function again(card) {
  if (waiting.includes(card) || card.state === "asking") return;
  if (!busy()) batch = { count: 0, done: 0, failed: 0 };
  enqueue(card);
}

function enqueue(card) {
  card.state = "waiting";
  card.render();
  batch.count += 1;
  waiting.push(card);
  next();
}

const busy = () => running > 0 || waiting.length > 0;

function next() {
  while (running < AT_ONCE && waiting.length) work(waiting.shift());
  renderProgress();
}

async function work(card) {
  running += 1;
  await card.predict(control.signal);
  running -= 1;
  batch.done += 1;
  if (card.state !== "answered") batch.failed += 1;
  if (card.failure?.code === "unauthorized") wantToken();
  next();
  explainNext();
}

async function explainNext() {
  // Answers come first; of explanations the server makes few at once.
  if (explaining || busy()) return;
  const card = cards.find((each) => each.visible && each.wantsWhy);
  if (!card) return;
  explaining = true;
  await card.explain(control.signal);
  explaining = false;
  explainNext();
}

function stop() {
  for (const card of waiting.splice(0)) {
    card.state = "stopped";
    card.render();
  }
  control.abort();
  control = new AbortController();
  renderProgress();
}

function renderProgress() {
  $("progress").hidden = !cards.length;
  $("stop").hidden = !busy();
  $("bar").hidden = !busy();
  $("bar").max = Math.max(1, batch.count);
  $("bar").value = batch.done;
  const key = batch.failed ? "progress.failed" : "progress.text";
  $("progress-text").textContent = text(key, {
    done: number(batch.done), count: number(batch.count), failed: number(batch.failed),
  });
}

function tell(words) {
  $("live").textContent = words;
}

// Wiring.

for (const button of document.querySelectorAll(".languages button")) {
  button.addEventListener("click", () => choose(button.value));
}
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useToken($("token").value);
  meet();
});
for (const id of ["choose", "photograph"]) {
  $(id).addEventListener("change", (event) => {
    const files = [...event.target.files];
    event.target.value = ""; // so that the same file may be chosen again
    if (files.length) add(files);
  });
}
document.addEventListener("paste", (event) => {
  if (event.target instanceof HTMLInputElement && event.target.type === "password") return;
  event.preventDefault();
  add(event.clipboardData?.files ?? []);
});
let depth = 0; // entering a child comes before leaving its parent
const hover = (change) => {
  depth = Math.max(0, depth + change);
  const dropping = depth > 0 && Boolean(model);
  document.body.classList.toggle("dropping", dropping);
  $("intake-title").textContent = text(dropping ? "intake.drop" : "intake.title");
};
document.addEventListener("dragenter", (event) => {
  event.preventDefault();
  hover(1);
});
document.addEventListener("dragleave", () => hover(-1));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  hover(0);
  add(event.dataTransfer?.files ?? []);
});
$("stop").addEventListener("click", stop);
$("clear").addEventListener("click", () => {
  stop();
  for (const card of [...cards]) discard(card);
});
// Where there are fingers there is a camera; elsewhere the button would open the same choice of files again.
const touches = navigator.maxTouchPoints > 0 || matchMedia("(any-pointer: coarse)").matches;
document.body.classList.toggle("touches", touches);
if (touches && !matchMedia("(any-pointer: fine)").matches) $("intake-hint").dataset.text = "intake.hint.touch";
onChange(() => {
  tell(""); // it would be read in the wrong language
  render();
});
speak();
meet();
