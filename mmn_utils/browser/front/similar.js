// Neurons like one, and the other pictures and nouns for which it is among the top.
import { h } from "./dom.js";
import { mark, neuronButton, neuronTable, signMark, words } from "./list.js";
import { Part } from "./part.js";
import { python } from "./python.js";
import { number, plural, signed } from "./words.js";

const PLACES = 24;

export class SimilarPart {
  constructor(app) {
    this.app = app;
    this.part = new Part("similar", "Similar neurons", { code: () => python("similar", app) });
  }

  show({ exact, vectors, pictures, about }) {
    const held = (address) => about[address]?.held !== false; // else a page only names it
    const pick = (to) => held(to) && this.app.pick(to);
    const options = { pick, current: this.app.view.neuron };
    const some = [...vectors, ...pictures].some(([address]) => !held(address));
    const table = (caption, name, rows, cell) => {
      if (!rows.length) return h("p", { class: "quiet" }, "None.");
      const columns = [
        ["Neuron", ([address]) => (held(address) ? neuronButton(address, options.pick) : address)],
        ["Writes", ([address]) => words(about[address], "writes"), "tokens"],
        ["Suppresses", ([address]) => words(about[address], "suppresses"), "tokens"], [name, cell, "number"],
      ];
      return neuronTable(caption, columns, rows, options);
    };
    const shown = this.app.facts.words.pictures;
    const near = `Nearest write vectors${exact ? "" : " (approximate)"}`;
    this.part.show(h("div", { class: "pair" },
      h("div", {}, h("h3", {}, near), table(near, "cosine", vectors, ([, cosine]) => signed(cosine))),
      h("div", {}, h("h3", {}, `Same strongest ${shown}`),
        table(`Neurons with the same strongest ${shown}`, "shared", pictures, ([, shared]) => number(shared)))),
      some && h("p", { class: "quiet" }, "Those without a link have no card on this page; \u201cmake browser\u201d has every one."));
  }

  mark(view) {
    mark(this.part.body, view.neuron);
  }
}

export class ElsewherePart {
  constructor(app) {
    this.app = app;
    this.part = new Part("elsewhere", "Elsewhere", { code: () => python("elsewhere", app) });
  }

  clear(text) {
    this.part.title.textContent = "Elsewhere";
    this.part.empty(text);
  }

  show({ places, address, placed = places.length }) {
    const others = places.filter(([, image]) => image !== this.app.view.image).sort((a, b) => a[3] - b[3]);
    this.part.title.textContent = `Elsewhere: ${address} on other ${this.app.facts.words.pictures}`;
    const { facts } = this.app;
    if (!others.length) return this.part.empty(`${address} is among the top ${facts.k} on no other ${facts.words.picture}.`);
    const one = ([method, image, noun, rank, score, , sign]) => {
      const img = h("img", { alt: "" });
      this.app.thumbs.show(img, image);
      const go = () => this.app.go({ image, noun, method, neuron: address, patch: null });
      return h("li", {}, h("button", { type: "button", class: "place", "data-image": image, onclick: go },
        h("span", { class: "frame" }, img),
        h("span", {}, h("b", {}, noun), h("br"), `${method} ${rank} `, signMark(sign), h("br"), signed(score))));
    };
    const all = others.length <= PLACES && placed === places.length;
    this.part.show(h("ul", { class: "places" }, others.slice(0, PLACES).map(one)),
      !all && h("p", { class: "quiet" }, `In all it is ${plural(placed, "time")} among the top ${this.app.facts.k}; the atlas has each.`));
  }
}
