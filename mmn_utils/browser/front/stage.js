// A picture with a heat map over it, a frame around a patch, and a line that says what is seen.
import { gradient, ends } from "./colours.js";
import { fill, h } from "./dom.js";
import { Heat } from "./heat.js";
import { number, percent } from "./words.js";

const TALLEST = 640; // pixels; a picture of the shape of a ribbon would fill several windows

// Where a patch lies in the picture, as parts of its size.
export function cell(patch, [rows, columns]) {
  const part = (place, count) => `${(100 * place) / count}%`;
  return {
    left: part(patch % columns, columns), top: part(Math.floor(patch / columns), rows),
    width: part(1, columns), height: part(1, rows),
  };
}

export class Stage {
  constructor(facts, attributes = {}) {
    this.facts = facts;
    this.image = h("img", { alt: "" });
    this.canvas = h("canvas", attributes);
    this.heat = new Heat(this.canvas);
    this.cells = h("div", { class: "cells", "aria-hidden": "true" });
    this.frame = h("div", { class: "frame" }, this.image, this.canvas, this.cells);
    this.legend = h("div", { class: "legend" });
    this.title = h("figcaption", {});
    this.element = h("figure", { class: "stage" }, this.frame, this.legend, this.title);
  }

  show(picture) {
    this.image.src = picture.src;
    const shape = picture.width / picture.height;
    Object.assign(this.frame.style, { aspectRatio: shape, maxWidth: `${Math.max(24, TALLEST * shape)}px` });
    this.heat.fit(picture.width, picture.height);
  }

  // map: numbers, or null with the reason in `title`.
  set(map, ...title) {
    this.heat.set(map, this.facts.grid ?? [1, 1], this.facts.pixels);
    fill(this.title, ...title);
    this.legend.hidden = !map;
  }

  draw(looks) {
    this.heat.draw(looks);
    if (!this.heat.values) return;
    const [lowest, highest] = this.heat.range, [low, high] = ends(looks.colours, lowest, highest);
    if (this.drawn !== looks.colours || this.of !== this.heat.values) this.scale(looks.colours, low, high);
    const place = high > low ? (this.heat.threshold - low) / (high - low) : 0;
    this.needle.style.left = `${100 * place}%`;
    const share = this.heat.count / this.heat.values.length;
    this.reading.textContent = `above ${number(this.heat.threshold)}: ${percent(share)} of the picture`;
    this.legend.hidden = looks.style === "none";
  }

  scale(colours, low, high) {
    Object.assign(this, { drawn: colours, of: this.heat.values });
    this.needle = h("i", { class: "needle" });
    this.reading = h("span", { class: "reading" });
    fill(
      this.legend, h("span", {}, number(low)),
      h("span", { class: "scale", title: "activation", style: { background: gradient(colours) } }, this.needle),
      h("span", {}, number(high)), this.reading,
    );
  }

  // frames: [[class, patch or null] ..]
  mark(frames) {
    if (!this.facts.grid) return;
    const some = frames.filter(([, patch]) => patch !== null && patch >= 0);
    fill(this.cells, some.map(([name, patch]) => h("i", { class: `cell ${name}`, style: cell(patch, this.facts.grid) })));
  }
}
