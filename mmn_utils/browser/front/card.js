// The card of a neuron: what it writes, how active it is, for what it fires, and where.
import { fill, h, labelled, select } from "./dom.js";
import { meaning, signMark } from "./list.js";
import { Part } from "./part.js";
import { python } from "./python.js";
import { cell } from "./stage.js";
import { brief, capital, endOf, number, percent, plural, token } from "./words.js";

const WITH_NORM = [["", "without"], ["_final", "with"]];
const KINDS = [["strongest", "Strongest"], ["middle", "From the middle"], ["random", "Drawn at random"]];
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
    const { card } = this, { pictures } = this.app.facts.words;
    if (!card) return;
    this.part.title.textContent = `${this.heading} ${card.address}`;
    this.part.show(
      this.about(card), this.ends(card), this.histogram(card),
      card.overlaps.length > 0 && this.overlaps(card.overlaps),
      KINDS.map(([kind, text]) => card.sights[kind].length > 0
        && this.sights(kind === "strongest" ? `${text} ${pictures}` : text, kind, card.sights[kind])),
      this.nouns(card),
    );
    this.mark();
  }

  about(card) {
    const { generic, k } = this.app.facts, share = percent(generic, 0);
    const often = `generic: among the top for at least ${share} of all nouns`;
    const first = `among the first ${k} for a noun, by at least one method`;
    return h("p", { class: "chips" },
      h("span", { class: "chip", title: often }, `${card.generic ? "" : "not "}generic`),
      h("span", { class: "chip", title: first }, `among the top ${k} for ${plural(card.nouns, "noun")}`));
  }

  ends(card) {
    const end = (text, name) => {
      const tokens = card.tokens[name + this.norm];
      const most = Math.max(...tokens.map(([, logit]) => Math.abs(logit)), 1e-9);
      const line = ([text, logit]) => h("li", { style: { "--share": share(Math.abs(logit) / most) } },
        token(text), h("span", { class: "number" }, number(logit)));
      const readable = card[name === "writes" ? "interpretable" : `interpretable_${name}`];
      this.badges[name] = h("span", { class: "written" });
      return h("div", { class: `end ${name}` }, h("h3", {}, `${text} `, this.badges[name]), h("ol", {}, tokens.map(line)),
        h("p", { class: "chips" }, h("span", { class: `chip ${readable ? "yes" : ""}` }, `${readable ? "" : "not "}interpretable`)));
    };
    this.badges = {};
    this.said = h("p", { class: "there" });
    return h("div", {}, this.said,
      h("div", { class: "ends" }, this.choice(), end("Writes", "writes"), end("Suppresses", "suppresses")));
  }

  // [[method, sign] ..] where the neuron was found for the view's noun; null where that is not known.
  signs({ address, places }) {
    const { image, noun } = this.app.view, key = noun?.toLowerCase();
    if (noun === null) return null;
    const known = this.app.table.signs(address);
    if (known?.length) return known;
    const here = places.filter(([, where, word]) => where === image && word.toLowerCase() === key);
    return here.length ? here.map(([method, , , , , , sign]) => [method, sign]) : known;
  }

  // Say which end was written for the view's noun.
  mark() {
    const { card } = this, { image, noun } = this.app.view;
    if (!card) return;
    const found = this.signs(card);
    const by = (sign) => (found ?? []).filter((one) => one[1] === sign).map(([method]) => method);
    const say = (sign) => by(sign).length > 0 && [
      signMark(sign, by(sign).join(" and ")), ` ${sign < 0 ? "Negative" : "Positive"} where ${by(sign).join(" and ")} found it: ` +
      `it wrote what stands under \u201c${capital(endOf(sign))}\u201d. `];
    for (const sign of [1, -1]) fill(this.badges[endOf(sign)], by(sign).length > 0 && h("span", { class: "chip yes" }, "written here"));
    const none = found && !found.length && this.part.name === "card"
      && "not among the neurons found, so which end it wrote there is not known.";
    const where = h("span", { class: "quiet" }, `On ${image}, \u201c${noun}\u201d: `);
    fill(this.said, (none || found?.length > 0) && [where, none || [say(1), say(-1)]]);
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
    for (const [method, image, noun, rank, , , sign] of [...places].sort((a, b) => a[3] - b[3])) {
      const nouns = (methods[method] ??= new Map());
      if (!nouns.has(noun)) nouns.set(noun, { image, rank, sign });
    }
    const chip = ([noun, { image, rank, sign }]) => h("button", {
      type: "button", class: "chip", title: `rank ${rank} on picture ${image}, ${meaning(sign)}`,
      onclick: () => this.app.go({ image, noun, neuron: address, patch: null }),
    }, `${noun} `, sign < 0 && signMark(sign), h("span", { class: "rank" }, rank));
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
