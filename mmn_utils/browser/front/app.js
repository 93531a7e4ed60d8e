// The browser: one view, the questions that it needs, and the parts that draw the answers.
import { EMPTY, readAddress, writeAddress } from "./address.js";
import { Asking, ROWS } from "./asking.js";
import { CaptionPart } from "./caption.js";
import { CardPart } from "./card.js";
import { fill, h } from "./dom.js";
import { GridPart } from "./grid.js";
import { Header } from "./header.js";
import { keys } from "./keys.js";
import { OutcomePart } from "./outcome.js";
import { PatchPart } from "./patch.js";
import { PicturePart } from "./picture.js";
import { Questions, Thumbs } from "./questions.js";
import { SearchPart } from "./search.js";
import { ElsewherePart, SimilarPart } from "./similar.js";
import { TablePart } from "./table.js";
import { haveExperts, layerUnit } from "./words.js";

// source: {ask(name, args), tell(view, options), view(callback)?, state(callback)?,
// pictures(callback)?}; a callback of view takes a view and, where it came from an address, what
// was not understood of it; that of pictures hears that there are others.
export function mount(root, source) {
  const app = new Browser(root, source);
  app.start();
  return { go: (view) => app.go(view), unmount: () => app.close() };
}

class Browser {
  constructor(root, source) {
    Object.assign(this, { root, source, view: { ...EMPTY }, followed: true, closing: [] });
    this.questions = new Questions(source);
    this.thumbs = new Thumbs(this.questions);
    this.asking = new Asking(this);
    root.classList.add("mmn");
    root.tabIndex = -1;
    root.setAttribute("role", "region");
    root.setAttribute("aria-label", "neuron browser");
    root.setAttribute("data-lm-suppress-shortcuts", "true");
  }

  async start() {
    fill(this.root, h("p", { class: "note opening", role: "status" }, "Opening the atlas \u2026"));
    try {
      this.facts = await this.questions.ask("facts");
      haveExperts(this.facts.experts);
    } catch (error) {
      return fill(this.root, h("p", { class: "note error", role: "alert" }, error.message));
    }
    this.build();
    this.source.view?.((view, trouble = []) => this.arrive(view, trouble));
    this.source.state?.((state) => this.outcome.show(state));
    this.source.pictures?.(() => this.others());
    if (this.view.image === null) this.go({}, { replace: true });
  }

  build() {
    this.header = new Header(this);
    this.grid = new GridPart(this);
    this.picture = new PicturePart(this);
    this.caption = new CaptionPart(this);
    this.table = new TablePart(this);
    this.patch = new PatchPart(this);
    this.control = new CardPart(this, "control", "Control");
    this.card = new CardPart(this, "card", "Neuron", this.control);
    this.similar = new SimilarPart(this);
    this.elsewhere = new ElsewherePart(this);
    this.search = new SearchPart(this);
    this.outcome = new OutcomePart(this);
    const area = (name, ...parts) => h("div", { class: `area ${name}` }, parts.map(({ part }) => part.element));
    fill(this.root, h("div", { class: "whole" },
      this.header.element,
      h("div", { class: "left" }, area("pictures", this.grid), area("searching", this.search)),
      h("div", { class: "middle" }, area("looking", this.picture, this.caption, this.outcome, this.patch),
        area("listing-area", this.table), area("others", this.similar, this.elsewhere)),
      area("knowing", this.card, this.control)));
    this.closing.push(keys(this.root, this.actions()));
  }

  actions() {
    const step = (by) => {
      const to = this.grid.beside(this.view.image, by);
      if (to !== null) this.open(to);
    };
    const line = (by) => {
      const to = this.table.beside(this.view.neuron, by);
      if (to) this.pick(to);
    };
    const undo = () => this.outcome.stack?.length && this.order("undo");
    return {
      before: () => step(-1), next: () => step(1), above: () => line(-1), below: () => line(1),
      search: () => this.search.focus(), help: () => this.header.help(), escape: () => this.escape(),
      ...(this.facts.live ? { undo } : {}),
    };
  }

  escape() {
    if (!this.header.panel.hidden) this.header.help(false);
    else if (this.view.patch !== null) this.go({ patch: null });
  }

  // --- going somewhere ------------------------------------------------------------------------

  // Another picture; its first noun, and the neuron of before only if somebody chose it.
  open(image, neuron = this.followed ? null : this.view.neuron) {
    this.go({ image, noun: null, patch: null, neuron });
  }

  ask(noun) {
    this.go({ noun, neuron: null });
  }

  pick(neuron) {
    this.go({ neuron });
  }

  choose(addresses, on) {
    const others = this.view.chosen.filter((one) => !addresses.includes(one));
    const chosen = on ? [...others, ...addresses] : others;
    this.go({ chosen, ...(chosen.length ? {} : { map: "one" }) }, { replace: true });
  }

  visit(address) {
    this.arrive(...readAddress(address));
  }

  // From outside: an address, the way back, Python. A picture that is not known may be new.
  async arrive(view, trouble) {
    const { live, pictures } = this.facts;
    const known = !view.image || pictures.some(({ id }) => id === view.image);
    const current = this.questions.turn("arrival");
    if (live && !known) await this.others();
    if (!current()) return;
    this.followed = true;
    const more = this.go({ ...EMPTY, ...view }, { quiet: !trouble.length, replace: true });
    this.header.complain([...trouble, ...more]);
  }

  // There are other pictures; those that are drawn stay as they are.
  async others() {
    try {
      this.facts.pictures = (await this.questions.ask("facts")).pictures;
      this.grid.turn(this.grid.page);
    } catch (error) {
      this.header.complain([error.message]);
    }
  }

  // replace: no new step for the way back; quiet: outside knows already.
  // keep: what was complained of stays. Returns what there is not, in words.
  go(change, { replace = false, quiet = false, keep = false } = {}) {
    const before = this.view, view = { ...before, ...change };
    const trouble = this.check(view);
    this.view = view;
    if (change.neuron !== undefined) this.followed = change.neuron === null;
    if (!keep) this.header.complain(trouble);
    const different = (...names) => names.some((name) => JSON.stringify(before[name]) !== JSON.stringify(view[name]));
    const settled = JSON.stringify(view) !== JSON.stringify({ ...before, ...change });
    if (!quiet || settled) this.source.tell(view, { replace });
    this.header.follow(writeAddress(view));
    this.load(different);
    return trouble;
  }

  // Let go of what there is not; say so.
  check(view) {
    const { facts } = this, trouble = [];
    const known = facts.pictures.some(({ id }) => id === view.image);
    if (!known) {
      if (view.image !== null) trouble.push(`there is no picture ${JSON.stringify(view.image)}`);
      Object.assign(view, { image: facts.pictures[0]?.id ?? null, noun: null, patch: null });
    }
    if (!facts.methods.includes(view.method)) {
      trouble.push(`the method ${JSON.stringify(view.method)} is none of ${facts.methods.join(", ")}`);
      view.method = EMPTY.method;
    }
    const [rows, columns] = facts.grid ?? [0, 0];
    if (view.patch !== null && view.patch >= rows * columns) {
      trouble.push(facts.grid ? `the patch ${view.patch} is not among ${rows * columns}` : "this system's picture has no patches");
      view.patch = null;
    }
    const here = (address) => {
      const found = layerUnit(address);
      return found && found[0] < facts.layers && found[1] < facts.units;
    };
    for (const one of [view.neuron, ...view.chosen]) {
      if (one !== null && !here(one)) trouble.push(`there is no neuron ${one} in ${facts.layers} layers of ${facts.units}`);
    }
    if (!here(view.neuron)) view.neuron = null;
    view.chosen = [...new Set(view.chosen)].filter(here);
    return trouble;
  }

  // What follows from a view without anybody's doing: a first noun, a first neuron.
  settle(change) {
    const followed = this.followed;
    this.go(change, { replace: true, keep: true });
    this.followed = followed;
  }

  // --- asking ---------------------------------------------------------------------------------

  load(different) {
    const { view } = this;
    this.search.follow(view);
    if (different("method")) this.table.follow(view.method);
    this.picture.frames();
    if (different("image", "noun")) this.written();
    if (different("image")) this.asking.picture();
    else if (different("noun")) this.asking.table();
    else if (view.neuron === null && this.table.rows.length && different("neuron")) this.asking.first();
    if (different("neuron", "chosen", "method")) this.marks();
    if (different("neuron")) this.asking.card();
    if (different("neuron", "image", "chosen", "map")) this.asking.maps();
    if (different("quantile")) this.picture.offer(view);
    if (different("patch", "noun", "image")) this.asking.patch();
    if (different("search")) this.asking.search();
  }

  marks() {
    for (const part of [this.table, this.patch, this.search, this.similar, this.caption]) part.mark(this.view);
  }

  // Which end was written for the view's noun, on both cards.
  written() {
    for (const part of [this.card, this.control]) part.mark();
  }

  // Something to do, not to show: undo, remove, cancel.
  async order(name, args = {}) {
    try {
      await this.questions.ask(name, args);
    } catch (error) {
      this.header.complain([error.message]);
    }
  }

  // What is shown and is not in the address, for the Python of it.
  get shown() {
    const { asked, scope } = this.table;
    return { ...asked, scope, norm: this.search.norm, nouns: this.shownPicture?.nouns ?? [], k: ROWS };
  }

  close() {
    for (const act of this.closing) act();
    this.root.replaceChildren();
  }
}
