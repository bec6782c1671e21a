// A card's pictures: the photo at its own resolution with the activation map over the part that the network sees, and
// beside it the network's input.

import { element, refill } from "./dom.js";
import { text } from "./language.js";
import { drawMap, strongest } from "./overlay.js";

const SMALL = 64; // pixels; smaller pictures are shown as squares of colour, not blurred
const LEAST = 240; // pixels that a small picture is magnified to
const TALLEST = 75; // percent of the window's height
const WHOLE = { left: 0, top: 0, width: 1, height: 1 };
let opacity = 0.6; // of the map; a new card takes what was chosen last

export class Picture {
  // `url` is the file's, `input` the network's width and height, until the photo's own are known.
  constructor(url, input) {
    Object.assign(this, { url, input, opacity });
    this.state = { seen: null, row: null, inverted: false, name: "" };
    this.unreadable = false; // by the browser
    this.photo = element("img", {
      src: url, decoding: "async",
      load: () => this.render(this.state),
      error: () => {
        this.unreadable = true;
        this.render(this.state);
      },
    });
    this.node = element("div", { class: "pictures" });
    this.slider = element("input", {
      type: "range", min: 0, max: 100, value: 100 * this.opacity, "data-key": "opacity",
      input: () => {
        opacity = this.opacity = this.slider.value / 100;
        this.canvas.style.opacity = this.opacity;
      },
    });
  }

  clear() {
    this.view = this.canvas = null;
    refill(this.node);
  }

  // `seen` is what the network saw, once that is known; `row` the class whose map is shown; `name` the file's.
  render(state) {
    this.state = state;
    const { seen, row, inverted, name } = state;
    const ownPhoto = this.showsPhoto(seen);
    const { width, height } = ownPhoto ? this.size() : (seen ?? this.input);
    const image = ownPhoto || !seen ? this.photo : element("img", { src: seen.picture });
    image.classList.toggle("pixels", Math.max(width, height) <= SMALL);
    image.classList.toggle("inverted", ownPhoto && inverted);
    const place = row?.map && strongest(row.map);
    const zone = place && text(`zone.${place.join("")}`);
    image.alt = place ? text("map.picture", { file: name, class: row.class, zone }) : text("card.preview", { file: name });
    const unseen = this.unreadable && !seen;
    const frame = element("div", { class: "frame" }, unseen ? element("span", { class: "soft" }, text("card.unseen")) : image);
    const scale = Math.max(1, Math.ceil(LEAST / Math.max(width, height)));
    const fitted = `min(${width * scale}px, ${(TALLEST * width) / height}vh)`;
    frame.style.aspectRatio = `${width} / ${height}`;
    frame.style.width = `min(100%, ${fitted})`;
    const region = ownPhoto ? (seen?.region ?? WHOLE) : WHOLE;
    this.showRegion(frame, seen && region, row?.map);
    const figure = element("figure", { class: "photo" }, frame, ...this.legend(row, zone, region, seen && !ownPhoto));
    figure.style.flexBasis = `max(16rem, ${fitted})`;
    refill(this.node,
      figure,
      seen && ownPhoto ? this.inputFigure(seen) : null);
    this.fit();
  }

  // Draws the map for the size that its part of the photo has on the screen, pixel by pixel.
  fit() {
    const map = this.state.row?.map;
    if (!map || !this.canvas?.clientWidth) return;
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight].map((side) => Math.round(side * devicePixelRatio));
    if (this.drawn === map && this.canvas.width === width && this.canvas.height === height) return;
    drawMap(this.canvas, map, width, height, devicePixelRatio);
    this.drawn = map;
  }

  // Upright, as the browser shows it; the network's size until then.
  size() {
    const { naturalWidth: width, naturalHeight: height } = this.photo;
    return width && height ? { width, height } : this.input;
  }

  // Whether the browser shows what the server read: it may not know the format, or turn the picture otherwise.
  showsPhoto(seen) {
    if (this.unreadable) return false;
    const { naturalWidth: width, naturalHeight: height } = this.photo;
    return !seen || !width || (width === seen.image.width && height === seen.image.height);
  }

  showRegion(frame, region, map) {
    this.view = this.canvas = this.drawn = null;
    if (!region) return;
    this.canvas = map ? element("canvas", { "aria-hidden": "true" }) : null;
    this.view = element("div", { class: "view" }, this.canvas);
    for (const [side, share] of Object.entries(region)) this.view.style[side] = `${100 * share}%`;
    if (this.canvas) this.canvas.style.opacity = this.opacity;
    frame.append(this.view);
  }

  legend(row, zone, region, replaced) {
    const said = [];
    if (row?.map) said.push(text(zone ? "map.caption" : "map.against", { class: row.class, zone }));
    if (row?.coarse) said.push(text("map.coarse", { rows: row.map.length, columns: row.map[0].length }));
    const end = { x: region.left + region.width, y: region.top + region.height };
    if (Math.max(region.left, region.top, 1 - end.x, 1 - end.y) > 0.005) said.push(text("map.cut"));
    if (replaced) said.push(text("map.replaced", this.state.seen));
    const slider = row?.map
      ? element("label", { class: "opacity" }, element("span", {}, text("map.opacity")), this.slider)
      : null;
    const sentences = said.map((sentence) => element("p", {}, sentence));
    return [slider, said.length ? element("figcaption", {}, ...sentences) : null];
  }

  inputFigure(seen) {
    const { width, height } = seen;
    const image = element("img", {
      src: seen.picture, alt: text("map.input.picture", { file: this.state.name }),
      class: Math.max(width, height) <= SMALL ? "pixels" : null,
    });
    const frame = element("div", { class: "frame" }, image);
    frame.style.aspectRatio = `${width} / ${height}`;
    return element("figure", { class: "input" }, frame, element("figcaption", {}, text("map.input", { width, height })));
  }
}
