// The table of a noun's top neurons, the methods side by side, or of all neurons by filters.
import { download, fill, h, labelled, select } from "./dom.js";
import { mark, neuronButton, signMark, words } from "./list.js";
import { pager, Part } from "./part.js";
import { python } from "./python.js";
import { changeCell, place, row, scoreCell, sheet, truth } from "./rows.js";
import { csv, endOf, number } from "./words.js";

const PAGE = 20;
const MANY = 500; // neurons that a filter of all gives at most
const WHICH = [["", "any"], ["yes", "yes"], ["no", "no"]];
const TRUTH = { yes: true, no: false };
const ORDERS = { address: "neuron", peak: "peak" }; // of all neurons, by the column
const ALONE = "change of the noun's probability without this neuron";
const PEAK = "highest activation at an image token of any picture";
const SIGN = "sign of the activation where the neuron was found; what it wrote there goes by it";
// Where the table is narrow.
const SHORT = { attribution: "attrib.", contribution: "contrib.", activation: "activ.", "exact ablation": "exact" };

export class TablePart {
  constructor(app) {
    this.app = app;
    this.rows = [];
    this.exact = {};
    this.page = 0;
    this.scope = "noun";
    this.filters = { layer: "", interpretable: "", generic: "", least: "" };
    this.lead(app.view.method);
    const save = h("button", { type: "button", class: "tool", "data-tool": "csv", onclick: () => this.save() }, "CSV");
    this.ablate = h("button", {
      type: "button", class: "tool", "data-tool": "exact", hidden: true, onclick: () => this.measure(),
    }, "Ablate each shown");
    this.part = new Part("table", "Top neurons", { code: () => python("table", app), tools: [this.ablate, save] });
    this.filter = h("div", { class: "controls" });
    this.content = h("div", {});
    this.part.body.append(this.filter, this.content);
    this.knobs();
  }

  knobs() {
    const { facts } = this.app;
    const layers = [["", "all"], ...Array.from({ length: facts.layers }, (_, i) => [String(i), `L${i}`])];
    const set = (name) => (value) => {
      this.filters[name] = value;
      this.page = 0;
      if (this.scope === "all") this.app.asking.table();
      else this.draw();
    };
    const scope = (value) => {
      Object.assign(this, { scope: value, page: 0 });
      this.lead(this.app.view.method);
      this.app.asking.table();
    };
    const least = h("input", {
      type: "number", step: "any", size: 6, "data-filter": "least", title: "by the method that the table is sorted by",
      onchange: (event) => set("least")(event.target.value),
    });
    fill(
      this.filter,
      labelled("Of", select([["noun", "this noun"], ["all", "all neurons"]], "noun", scope, { "data-part": "scope" })),
      labelled("Layer", select(layers, "", set("layer"), { "data-filter": "layer" })),
      labelled("Interpretable", select(WHICH, "", set("interpretable"), { "data-filter": "interpretable" })),
      labelled("Generic", select(WHICH, "", set("generic"), { "data-filter": "generic" })),
      labelled("Least score", least),
    );
  }

  // Sort by a column, scores without a rank from the highest; of all neurons it says which come.
  lead(key, down = this.falling(key)) {
    const { methods } = this.app.facts, method = methods.includes(key);
    this.sort = { key, down };
    if (method || ORDERS[key]) this.led = { by: method ? key : null, order: ORDERS[key] ?? null };
  }

  // The view's method is another one: by an address, say.
  follow(method) {
    if (this.sort.key === method) return;
    this.lead(method);
    this.page = 0;
    if (this.scope === "all") this.app.asking.table();
    else this.draw();
  }

  falling(key) {
    return this.scope === "all" && (key === "peak" || this.app.facts.methods.includes(key));
  }

  // What a question for all neurons takes, and what the Python of it says.
  get asked() {
    const { layer, interpretable, generic, least } = this.filters, { by, order } = this.led;
    return {
      layer: layer === "" ? null : Number(layer), interpretable: TRUTH[interpretable] ?? null,
      generic: TRUTH[generic] ?? null, least: least === "" ? null : Number(least), order, n: MANY,
      by: by ?? (least === "" ? null : this.app.view.method),
    };
  }

  // rows of `top`: {method: [[address, score, patch, sign, rank if it is not the place] ..]}
  show({ rows, about }) {
    const found = new Map();
    for (const [method, some] of Object.entries(rows)) {
      some.forEach(([address, score, patch, sign, rank], place) => {
        if (!found.has(address)) found.set(address, row(address, about[address]));
        found.get(address)[method] = { score, rank: rank ?? place + 1, patch, sign };
      });
    }
    this.part.title.textContent = `Top neurons for \u201c${this.app.view.noun}\u201d`;
    const { image, noun } = this.app.view;
    this.known = { image, noun, found };
    this.take([...found.values()]);
    this.app.written();
  }

  // With what sign each method found a neuron for the view's noun: [[method, sign] ..]; null where
  // the table has not been asked for this noun.
  signs(address) {
    const { image, noun } = this.app.view, { known } = this;
    if (known?.image !== image || known.noun !== noun) return null;
    const one = known.found.get(address);
    return this.app.facts.methods.filter((name) => one?.[name]).map((name) => [name, one[name].sign]);
  }

  // How a row is read: with the sign of its activation where the view's method found it, or else
  // the first that did. Without an activation, as its write vector is.
  read(one) {
    const { methods } = this.app.facts;
    const by = [this.app.view.method, ...methods].find((name) => one[name]?.sign);
    const sign = by ? one[by].sign : 1, end = endOf(sign);
    return { by, sign, end, interpretable: sign < 0 ? one.interpretable_suppresses : one.interpretable };
  }

  // rows of `filter`
  showAll(rows, about) {
    this.part.title.textContent = "All neurons";
    this.take(rows.map((one) => {
      const scores = Object.entries(one.best).map(([name, score]) => [name, score === null ? null : { score }]);
      const { peak, negative } = one;
      return { ...row(one.address, { ...about[one.address], ...one }), peak, negative, ...Object.fromEntries(scores) };
    }));
  }

  take(rows) {
    Object.assign(this, { rows, page: 0 });
    this.part.settle("ready", "");
    this.draw();
    this.app.picture.frames();
  }

  // Where the noun's top neurons wrote.
  get patches() {
    const some = this.scope === "noun" ? this.rows.map((one) => one.attribution?.patch) : [];
    return [...new Set(some.filter((patch) => patch >= 0))];
  }

  clear(text) {
    this.part.title.textContent = "Top neurons";
    this.rows = [];
    this.known = null;
    this.draw();
    this.part.settle("empty", text);
    this.app.written();
  }

  // [key, heading, content of a cell, what it is sorted by, class, what the heading means]
  get columns() {
    const { facts } = this.app, all = this.scope === "all", live = facts.live && !all;
    const alone = ({ address }) => this.exact[address]?.probability;
    const cell = (one, name) => scoreCell(one[name], name, this.read(one).sign, facts.k);
    const score = (name) => [name, name, (one) => cell(one, name), (one) => place(one[name], all), "number"];
    const end = (name, text) => [name, text, (one) => words(one, name), (one) => one[name][0] ?? "", "tokens"];
    const there = [
      ["sign", "Sign", (one) => this.sign(one), (one) => -this.read(one).sign, "sign-of", SIGN],
      ["wrote", "Wrote there", (one) => words(one, this.read(one).end), (one) => one[this.read(one).end][0] ?? "", "tokens"],
    ];
    const flag = (name, short, is) => [name, short, (one) => truth(is(one)), (one) => (is(one) ? 0 : 1), "flag", name];
    return [
      ["address", "Neuron", (one) => neuronButton(one.address, (to) => this.app.pick(to)), (one) => one.layer * facts.units + one.unit],
      ...(all ? [end("writes", "Writes"), end("suppresses", "Suppresses")] : there),
      ...facts.methods.map(score),
      ...(live ? [["exact", "exact ablation", (one) => changeCell(this.exact[one.address]), alone, "number", ALONE]] : []),
      ...(all ? [["peak", "peak", (one) => number(one.peak), (one) => one.peak, "number", PEAK]] : []),
      flag("interpretable", "int.", (one) => this.read(one).interpretable), flag("generic", "gen.", (one) => one.generic),
    ];
  }

  sign(one) {
    const { by, sign } = this.read(one);
    return signMark(sign, by === this.app.view.method ? "" : by);
  }

  // What is shown: filtered and in order; those without a value come last, either way round.
  get shown() {
    const { layer, interpretable, generic, least } = this.asked, { method } = this.app.view;
    const some = this.rows.filter((one) =>
      (layer === null || one.layer === layer) &&
      (least === null || this.scope === "all" || one[method]?.score >= least) &&
      (interpretable === null || this.read(one).interpretable === interpretable) &&
      (generic === null || one.generic === generic));
    const value = (this.columns.find(([key]) => key === this.sort.key) ?? this.columns[0])[3];
    const none = (v) => v === null || v === undefined;
    return some.map((one) => [value(one), one]).sort(([a], [b]) => {
      if (none(a) || none(b)) return none(a) - none(b);
      return (this.sort.down ? -1 : 1) * (a < b ? -1 : a > b ? 1 : 0);
    }).map(([, one]) => one);
  }

  draw() {
    const rows = this.shown, { view } = this.app;
    this.page = Math.max(0, Math.min(this.page, Math.ceil(rows.length / PAGE) - 1));
    const some = rows.slice(this.page * PAGE, (this.page + 1) * PAGE);
    this.ablate.hidden = !(this.app.facts.live && this.scope === "noun" && rows.length);
    if (this.rows.length && !rows.length) return fill(this.content, h("p", { class: "note" }, "No neuron fits these filters."));
    if (!rows.length) return fill(this.content);
    const turn = (page) => ((this.page = page), this.draw());
    fill(
      this.content,
      h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "table of neurons" },
        h("table", {}, h("caption", { class: "unseen" }, this.part.title.textContent), this.head(some),
          h("tbody", {}, some.map((one) => this.line(one, view))))),
      pager("neurons", rows.length, PAGE, this.page, turn),
      this.scope === "all" && this.rows.length === MANY &&
        h("p", { class: "quiet" }, `These are the first ${MANY}; the filters lead to others.`),
    );
  }

  head(some) {
    const all = some.every((one) => this.app.view.chosen.includes(one.address));
    const box = h("input", {
      type: "checkbox", "aria-label": "choose all shown", "data-key": "choose all", checked: all,
      onchange: (event) => this.app.choose(some.map((one) => one.address), event.target.checked),
    });
    const name = ([key, text, , , kind, title]) => {
      const on = this.sort.key === key, order = this.sort.down ? "descending" : "ascending";
      const click = () => this.order(key, on ? !this.sort.down : this.falling(key));
      const button = h("button", {
        type: "button", class: "sort", "data-sort": key, "data-key": `sort ${key}`, onclick: click,
        title: title ?? null, "aria-label": title && title !== key ? `${text}: ${title}` : title ?? text,
      }, SHORT[text] ? [h("span", { class: "long" }, text), h("span", { class: "short", "aria-hidden": "true" }, SHORT[text])] : text,
      h("span", { class: "arrow", "aria-hidden": "true" }, on ? (this.sort.down ? "\u2193" : "\u2191") : ""));
      return h("th", { scope: "col", class: kind, "aria-sort": on ? order : "none" }, button);
    };
    return h("thead", {}, h("tr", {}, h("th", { scope: "col" }, box), this.columns.map(name)));
  }

  order(key, down) {
    const before = JSON.stringify(this.led);
    this.lead(key, down);
    this.page = 0;
    if (this.app.facts.methods.includes(key) && key !== this.app.view.method) this.app.go({ method: key });
    if (this.scope === "all" && JSON.stringify(this.led) !== before) this.app.asking.table();
    else this.draw();
  }

  line(one, view) {
    const box = h("input", {
      type: "checkbox", "aria-label": `choose ${one.address}`, "data-key": `choose ${one.address}`,
      checked: view.chosen.includes(one.address), onclick: (event) => event.stopPropagation(),
      onchange: (event) => this.app.choose([one.address], event.target.checked),
    });
    return h("tr", {
      "data-address": one.address, "aria-current": one.address === view.neuron ? "true" : null,
      onclick: () => this.app.pick(one.address),
    }, h("td", {}, box), this.columns.map(([, , cell, , kind]) => h("td", { class: kind }, cell(one))));
  }

  mark(view) {
    mark(this.content, view.neuron);
    for (const box of this.content.querySelectorAll("td > [type=checkbox]")) {
      box.checked = view.chosen.includes(box.closest("tr").dataset.address);
    }
  }

  // The neuron that is `by` lines from one; its page is turned to.
  beside(address, by) {
    const rows = this.shown, at = rows.findIndex((one) => one.address === address);
    const to = at < 0 ? 0 : Math.min(rows.length - 1, Math.max(0, at + by));
    if (!rows.length) return null;
    if (Math.floor(to / PAGE) !== this.page) (this.page = Math.floor(to / PAGE)), this.draw();
    return rows[to].address;
  }

  async measure() {
    const { image, noun } = this.app.view;
    const neurons = this.shown.slice(this.page * PAGE, (this.page + 1) * PAGE).map((one) => one.address);
    await this.app.questions.into(this.part, async (current) => {
      const found = await this.app.questions.ask("exact", { image, noun, neurons });
      if (!current()) return;
      Object.assign(this.exact, found);
      this.draw();
    });
  }

  save() {
    const name = this.scope === "all" ? "neurons" : `${this.app.view.image}-${this.app.view.noun}`;
    download(`${name.replace(/[^\w.-]+/g, "_")}.csv`, csv(sheet(this)));
  }
}
