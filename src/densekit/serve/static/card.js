// One picture: its answer, why, and what went wrong.

import { ask, Failure, TRIES } from "./client.js";
import { element, refill } from "./dom.js";
import { has, number, percent, text } from "./language.js";
import { Picture } from "./picture.js";
import { blockDiagram, pointsTable } from "./reuse.js";

export const TOP = 5; // classes of an answer
const NOTICES = [
  [/^light background/, "light"],
  [/^dark background/, "dark"],
  [/^animated/, "frames"],
  [/^several pages/, "pages"],
  [/fully transparent$/, "transparent"],
  [/normalised is unknown/, "unknown"],
];
// The same bytes will not do better next time.
const LASTING = /^(empty_file|not_an_image|no_reader|truncated|corrupt|too_many_pixels|unsupported_\w+|body_too_large|unreadable)$/;

export class Card {
  // `name` gives the file's name in the current language; `told` is called with what a screen reader should say.
  constructor(file, name, model, { told, removed, again }) {
    Object.assign(this, { file, name, model, told, again });
    this.state = "waiting";
    this.inverted = false;
    this.round = 0; // of asking: an explanation of an earlier one comes too late
    this.url = URL.createObjectURL(file);
    this.diagrams = [];
    this.heading = element("h3", { tabindex: "-1" });
    this.remove = element("button", { type: "button", class: "remove", click: () => removed(this) }, "×");
    this.status = element("div", { class: "status" });
    this.picture = new Picture(this.url, model.input);
    this.answer = element("div", { class: "answer" });
    this.why = element("div", { class: "why" });
    // Stays, whatever is told anew within it: a click is never for one that has just been replaced.
    this.summary = element("summary", { "data-key": "why" });
    this.details = element("details", { hidden: true, toggle: () => this.fit() }, this.summary, this.why);
    this.node = element("article", { class: "card panel" },
      element("header", { class: "row" }, this.heading, this.remove),
      this.status,
      element("div", { class: "body" }, this.picture.node, this.answer),
      this.details);
    this.widths = new ResizeObserver(() => this.fit());
    this.widths.observe(this.node);
    this.render();
  }

  get done() {
    return ["answered", "failed", "stopped"].includes(this.state);
  }

  // Whether an explanation is still to be asked for.
  get wantsWhy() {
    return this.state === "answered" && !this.reasons && !this.explaining && !this.unexplained;
  }

  forget() {
    this.widths.disconnect();
    URL.revokeObjectURL(this.url);
  }

  async predict(signal) {
    Object.assign(this, { state: "asking", reasons: null, unexplained: null, explaining: false, failure: null, seconds: 0 });
    this.round += 1;
    this.render();
    const begun = performance.now();
    try {
      this.prediction = await this.ask("v1/predict", { top: TOP }, signal, (seconds) => {
        this.seconds = seconds;
        this.renderStatus();
      });
      this.trip = performance.now() - begun;
      this.chosen = this.prediction.top[0].index;
      this.state = "answered";
      this.told(text("card.answer", { file: this.name(), class: this.headline()[0], percent: this.headline()[1] }));
    } catch (error) {
      this.state = signal.aborted ? "stopped" : "failed";
      this.failure = error;
      if (!signal.aborted) this.told(text("card.failed", { file: this.name(), reason: reasonOf(error, this) }));
    }
    this.render();
  }

  async explain(signal) {
    const { round } = this;
    this.explaining = true;
    this.renderAnswer();
    let reasons = null;
    let trouble = null;
    try {
      reasons = await this.ask("v1/explain", this.prediction.top.map((row) => ["class", row.index]), signal);
    } catch (error) {
      if (!signal.aborted) trouble = error;
    }
    if (round !== this.round) return;
    Object.assign(this, { explaining: false, reasons, unexplained: trouble });
    this.render();
  }

  async ask(path, query, signal, onBusy) {
    // Not sent in vain: a server that refuses while a body still comes may be heard no more.
    if (this.file.size > this.model.limits.body_bytes) throw new Failure("body_too_large");
    const parameters = new URLSearchParams(query);
    if (this.inverted) parameters.append("invert", "true");
    return ask(`${path}?${parameters}`, { file: this.file, signal, onBusy });
  }

  render() {
    this.heading.textContent = this.name();
    this.remove.setAttribute("aria-label", text("card.remove", { file: this.name() }));
    this.node.setAttribute("aria-label", this.name());
    this.node.dataset.state = this.state;
    this.renderStatus();
    this.renderPicture();
    this.renderAnswer();
    this.renderWhy();
  }

  renderStatus() {
    const said = [];
    if (this.state === "waiting") said.push(element("p", { class: "soft" }, text("card.waiting")));
    if (this.state === "asking") {
      const words = this.seconds ? text("card.busy", { seconds: number(this.seconds) }) : text("card.asking");
      said.push(element("p", { class: this.seconds ? "busy" : "soft" }, words));
    }
    if (this.state === "stopped") said.push(element("p", { class: "soft" }, text("card.stopped")));
    if (this.state === "failed") said.push(element("p", { class: "problem" }, reasonOf(this.failure, this)));
    if (this.state === "stopped" || (this.state === "failed" && !LASTING.test(this.failure.code))) {
      said.push(element("button", { type: "button", "data-key": "again", click: () => this.again(this) }, text("retry")));
    }
    refill(this.status, ...said);
    this.node.setAttribute("aria-busy", String(this.state === "asking" || Boolean(this.explaining)));
  }

  renderPicture() {
    if (this.state === "failed" && !this.prediction) {
      this.picture.clear();
      return;
    }
    const { inverted, reasons } = this;
    this.picture.render({ seen: reasons?.seen ?? null, row: this.evidence() ?? null, inverted, name: this.name() });
  }

  renderAnswer() {
    if (this.state !== "answered") {
      refill(this.answer);
      return;
    }
    const [name, share] = this.headline();
    const choosable = Boolean(this.reasons?.classes.some((row) => row.map));
    const latency = text(choosable ? "card.explained" : "card.latency", {
      server: number(this.prediction.milliseconds, 1),
      trip: number(this.trip),
      explained: number(this.reasons?.milliseconds ?? 0, 1),
    });
    refill(this.answer,
      element("p", { class: "headline" }, element("b", {}, name), " ", element("span", {}, share)),
      element("p", { class: "soft small" }, text(choosable ? "card.classes.choose" : "card.classes")),
      element("ul", { class: "classes" }, ...this.prediction.top.map((row) => this.classRow(row, choosable))),
      ...this.notices(),
      element("p", { class: "soft small latency" }, latency),
      this.explaining ? element("p", { class: "soft small" }, text("card.explaining")) : null,
      this.unexplained
        ? element("p", { class: "small" }, text("card.unexplained", { reason: reasonOf(this.unexplained, this) }))
        : null);
  }

  classRow(row, choosable) {
    const share = element("i", { "aria-hidden": "true" }, element("i", {}));
    share.firstChild.style.width = `${100 * row.probability}%`;
    const parts = [
      element("span", { class: "class" }, row.class),
      share,
      element("span", { class: "number" }, percent(row.probability)),
    ];
    if ("present" in row) {
      const verdict = text(row.present ? "card.present" : "card.absent");
      parts.push(element("span", { class: row.present ? "verdict present" : "verdict" }, (row.present ? "✓ " : "") + verdict));
    }
    if (!choosable) return element("li", {}, element("div", { class: "line" }, ...parts));
    const pick = () => {
      this.chosen = row.index;
      this.renderPicture();
      this.renderAnswer();
      this.renderWhy();
    };
    return element("li", {}, element("button", {
      type: "button", class: "line", "data-key": `class-${row.index}`, "aria-pressed": String(row.index === this.chosen), click: pick,
    }, ...parts));
  }

  notices() {
    const said = this.inverted ? [text("card.inverted")] : [];
    for (const notice of this.reasons?.notices ?? this.prediction.notices ?? []) {
      const known = NOTICES.find(([pattern]) => pattern.test(notice));
      said.push(known ? text(`notice.${known[1]}`) : notice);
    }
    if (!said.length) return [];
    const swappable = this.model.preprocessing.background !== null;
    const swap = () => {
      this.inverted = !this.inverted;
      this.again(this);
    };
    return [element("div", { class: "notice" },
      ...said.map((words) => element("p", {}, words)),
      swappable
        ? element("button", { type: "button", "data-key": "invert", click: swap }, text(this.inverted ? "card.upright" : "card.invert"))
        : null)];
  }

  renderWhy() {
    this.diagrams = [];
    const row = this.evidence();
    this.details.hidden = !row?.parts || !this.reasons.reuse;
    if (this.details.hidden) {
      refill(this.why);
      return;
    }
    const blocks = this.reasons.reuse;
    this.diagrams = blocks.map((block) => blockDiagram(block, blocks.length));
    this.summary.textContent = text("why.title");
    refill(this.why,
      pointsTable(row, this.reasons.sources, this.model.task),
      element("h4", {}, text("why.reuse")),
      element("p", { class: "soft" }, text("why.reuse.text")),
      element("div", { class: "blocks" }, ...this.diagrams.map((diagram) => diagram.node)),
      element("p", { class: "soft small" }, text("why.reuse.note")));
    this.fit();
  }

  fit() {
    this.picture.fit();
    for (const diagram of this.diagrams) diagram.fit();
  }

  // What there is to say about the class that is looked at.
  evidence() {
    return this.reasons?.classes.find((row) => row.index === this.chosen);
  }

  headline() {
    const [first] = this.prediction.top;
    const nothing = this.prediction.top.every((row) => row.present === false);
    return nothing ? [text("card.nothing"), ""] : [first.class, percent(first.probability)];
  }
}

export function reasonOf(error, card = null) {
  if (!(error instanceof Failure)) {
    console.warn(error);
    return text("error.strange");
  }
  const limit = card?.model.limits.body_bytes;
  if (error.code === "body_too_large" && card?.file.size > limit) {
    return text("error.body_too_large.limit", { size: number(card.file.size / 1e6, 1), limit: number(limit / 1e6, 1) });
  }
  const key = `error.${error.code}`;
  return text(has(key) ? key : "error.other", { message: error.message, tries: number(TRIES) });
}
