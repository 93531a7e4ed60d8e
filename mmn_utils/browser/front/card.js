// The card of a neuron: what it writes, how active it is, for what it fires, and where.
import { h, labelled, select } from "./dom.js";
import { Part } from "./part.js";
import { python } from "./python.js";
import { cell } from "./stage.js";
import { brief, number, percent, plural, token } from "./words.js";

const WITH_NORM = [["", "without"], ["_final", "with"]];
const KINDS = [["strongest", "Strongest pictures"], ["middle", "From the middle"], ["random", "Drawn at random"]];
const NOUNS = 12; // of a method, before the others are folded away

const share = (part) => `${(100 * part).toFixed(2)}%`;

export class CardPart {
  // control: the other card, which is read with the same norm.
  constructor(app, name, title, control = null) {
    Object.assign(this, { app, control, heading: title, norm: "" });
    if (control) control.control = this;
    this.part = new Part(name, title, { code: () => python(name, app) });
  }

  // Both cards are read with the same norm.
  choice() {
    const set = (norm) => {
      for (const one of [this.control, this]) (one.norm = norm), one.draw();
    };
    return labelled("final norm", select(WITH_NORM, this.norm, set, { "data-part": "card-norm", "data-key": `norm ${this.part.name}` }));
  }

  show(card) {
    this.card = card;
    this.draw();
  }

  clear(address, text = "") {
    this.card = null;
    this.part.title.textContent = address ? `${this.heading} ${address}` : this.heading;
    this.part.empty(text);
  }

  draw() {
    const { card } = this;
    if (!card) return;
    this.part.title.textContent = `${this.heading} ${card.address}`;
    this.part.show(
      this.about(card), this.ends(card), this.histogram(card),
      card.overlaps.length > 0 && this.overlaps(card.overlaps),
      KINDS.map(([kind, text]) => card.sights[kind].length > 0 && this.sights(text, kind, card.sights[kind])),
      this.nouns(card),
    );
  }

  about(card) {
    const { generic, k } = this.app.facts, share = percent(generic, 0);
    const often = `generic: among the top for at least ${share} of all nouns`;
    const first = `among the first ${k} for a noun, by at least one method`;
    return h("p", { class: "chips" },
      h("span", { class: `chip ${card.interpretable ? "yes" : ""}` }, `${card.interpretable ? "" : "not "}interpretable`),
      h("span", { class: "chip", title: often }, `${card.generic ? "" : "not "}generic`),
      h("span", { class: "chip", title: first }, `among the top ${k} for ${plural(card.nouns, "noun")}`));
  }

  ends(card) {
    const end = (text, name) => {
      const tokens = card.tokens[name + this.norm];
      const most = Math.max(...tokens.map(([, logit]) => Math.abs(logit)), 1e-9);
      const line = ([text, logit]) => h("li", { style: { "--share": share(Math.abs(logit) / most) } },
        token(text), h("span", { class: "number" }, number(logit)));
      return h("div", { class: `end ${name}` }, h("h3", {}, text), h("ol", {}, tokens.map(line)));
    };
    return h("div", { class: "ends" }, this.choice(), end("Writes", "writes"), end("Suppresses", "suppresses"));
  }

  histogram({ histogram, edges, negative }) {
    const most = Math.log1p(Math.max(...histogram)) || 1, last = edges.length - 1;
    const from = (i) => {
      if (i === 0) return `below ${number(edges[0])}`;
      return i > last ? `from ${number(edges[last])}` : `${number(edges[i - 1])} to ${number(edges[i])}`;
    };
    const zero = edges.indexOf(0);
    const bar = (count, i) => h("i", {
      class: i > zero ? "above" : "below", title: `${from(i)}: ${count.toLocaleString("en")}`,
      style: { height: share(Math.log1p(count) / most) },
    });
    const tick = (i) => h("span", { style: { left: share((i + 1) / histogram.length) } }, number(edges[i]));
    const text = `Activations, ${percent(negative)} negative`, title = "at image tokens; the heights are logarithms of counts";
    const often = from(histogram.indexOf(Math.max(...histogram)));
    return h("div", {}, h("h3", { title }, text, h("span", { class: "quiet" }, " (log)")),
      h("div", { class: "histogram", role: "img", "aria-label": `${text}; most of them ${often}` }, histogram.map(bar)),
      h("div", { class: "ticks", "aria-hidden": "true" }, [0, zero, last].map(tick)));
  }

  overlaps(rows) {
    const line = ([category, iou]) => h("li", { style: { "--share": share(iou) } },
      h("span", {}, category), h("span", { class: "number" }, number(iou, 2)));
    const list = (some) => h("ol", { class: "overlaps" }, some.map(line));
    return h("div", {}, h("h3", {}, "Overlap with objects (IoU)"), list(rows.slice(0, 4)),
      rows.length > 4 && h("details", {}, h("summary", {}, `${rows.length - 4} more`), list(rows.slice(4))));
  }

  sights(text, kind, sights) {
    const style = { "--across": sights.length % 6 ? 5 : 6 }; // no last row of one
    return h("div", {}, h("h3", {}, text),
      h("div", { class: "sights", "data-kind": kind, style }, sights.map((one) => this.sight(...one))));
  }

  sight(image, value, patch) {
    const { app } = this, img = h("img", { alt: "" });
    app.thumbs.show(img, image);
    const place = app.facts.grid && patch >= 0 && h("i", { class: "cell peak", style: cell(patch, app.facts.grid) });
    return h("button", {
      type: "button", class: "sight", "data-image": image, "aria-label": `picture ${image}, activation ${number(value)}`,
      title: `picture ${image}`, onclick: () => app.open(image, this.card.address),
    }, h("span", { class: "frame" }, img, place), h("span", { class: "number" }, brief(value)));
  }

  // {method: nouns with their best rank}, each a button to the picture where it has it.
  nouns({ places, address, nouns: all }) {
    const methods = {};
    for (const [method, image, noun, rank] of [...places].sort((a, b) => a[3] - b[3])) {
      const nouns = (methods[method] ??= new Map());
      if (!nouns.has(noun)) nouns.set(noun, { image, rank });
    }
    const chip = ([noun, { image, rank }]) => h("button", {
      type: "button", class: "chip", title: `rank ${rank + 1} on picture ${image}`,
      onclick: () => this.app.go({ image, noun, neuron: address, patch: null }),
    }, `${noun} `, h("span", { class: "rank" }, rank + 1));
    const line = (method) => {
      const nouns = [...(methods[method] ?? [])];
      return nouns.length > 0 && [h("dt", {}, method), h("dd", {}, nouns.slice(0, NOUNS).map(chip),
        nouns.length > NOUNS && h("details", {}, h("summary", {}, `${nouns.length - NOUNS} more`), nouns.slice(NOUNS).map(chip)))];
    };
    if (!all) return h("p", { class: "quiet" }, `It is among the top ${this.app.facts.k} of no noun.`);
    const held = new Set(places.map(([, , noun]) => noun.toLowerCase())).size;
    const rest = held < all && h("p", { class: "quiet" }, `This page lists ${held} of its ${plural(all, "noun")}.`);
    const title = `Among the top ${this.app.facts.k} for, with its rank`;
    return h("div", {}, h("h3", {}, title), h("dl", {}, this.app.facts.methods.map(line)), rest);
  }
}
