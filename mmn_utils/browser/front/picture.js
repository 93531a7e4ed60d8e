// The picture large, its heat maps, the threshold, outlines of objects, and the patches.
import { COLOURS } from "./colours.js";
import { fill, h, labelled, select } from "./dom.js";
import { neuronButton } from "./list.js";
import { decodeRuns, meanOf, outline } from "./maps.js";
import { Part } from "./part.js";
import { python } from "./python.js";
import { Stage } from "./stage.js";
import { capital, plural } from "./words.js";

const TILES = 9; // maps side by side, at most
const STYLES = [["heat", "heat map"], ["mask", "above the threshold"], ["none", "picture alone"]];

export class PicturePart {
  constructor(app) {
    this.app = app;
    this.looks = { quantile: app.view.quantile, style: "heat", colours: "viridis" };
    this.hover = null;
    this.part = new Part("picture", "Picture", { code: () => python("picture", app) });
    this.stage = new Stage(app.facts, { "data-part": "overlay" });
    this.control = new Stage(app.facts, { "data-part": "overlay-control", role: "img" });
    this.tiles = h("div", { class: "tiles", hidden: true });
    this.controls = h("div", { class: "controls" });
    this.masks = h("fieldset", { class: "masks", hidden: true });
    this.part.body.append(
      h("div", { class: "stages" }, this.stage.element, this.control.element, this.tiles),
      this.controls, this.masks,
    );
    this.control.element.hidden = !app.facts.grid;
    if (app.facts.grid) this.patches();
    this.knobs();
  }

  knobs() {
    if (!this.app.facts.grid) {
      const text = `The image tokens of ${this.app.facts.system} have no place in the picture, ` +
        "so there is no heat map and no patch.";
      return fill(this.controls, h("p", { class: "note", "data-state": "no-grid" }, text));
    }
    const looks = (name) => (value) => ((this.looks[name] = value), this.draw());
    this.slider = h("input", {
      type: "range", min: 0, max: 1, step: 0.001, "data-part": "threshold",
      oninput: () => this.move(Number(this.slider.value)),
      onchange: () => this.app.go({ quantile: Number(this.slider.value) }, { replace: true }),
    });
    this.level = h("output", {});
    this.which = select([], null, (map) => this.app.go({ map }), { "data-part": "map" });
    fill(
      this.controls,
      labelled("Threshold", this.slider), this.level,
      labelled("Map of", this.which),
      labelled("Show", select(STYLES, "heat", looks("style"), { "data-part": "style" })),
      labelled("Colours", select(COLOURS, "viridis", looks("colours"), { "data-part": "colours" })),
    );
  }

  // Every move is drawn here; address and kernel hear of it when the slider is let go.
  move(quantile) {
    this.looks.quantile = quantile;
    this.level.textContent = `${quantile.toFixed(3)} quantile`;
    this.draw();
  }

  draw() {
    for (const stage of [this.stage, this.control, ...(this.several ?? [])]) {
      stage.heat.shapes = this.stage.heat.shapes;
      stage.draw(this.looks);
    }
  }

  show(picture) {
    this.picture = picture;
    const { words } = this.app.facts;
    this.part.title.textContent = `${picture.own ? "Picture" : capital(words.picture)} ${picture.id}`;
    for (const stage of [this.stage, this.control]) {
      stage.show(picture);
      stage.set(null);
    }
    this.several = [];
    fill(this.tiles);
    this.outlines(picture.masks);
    this.frames();
    this.draw();
    this.describe();
  }

  outlines(masks) {
    this.stage.heat.shapes = [];
    const shape = ({ size: [height, width], runs, crowd }) =>
      ({ lines: outline(decodeRuns(runs, height, width), height, width), height, width, dashed: crowd });
    const box = (one) => {
      const toggle = (event) => {
        one.shape ??= shape(one);
        const others = this.stage.heat.shapes.filter((some) => some !== one.shape);
        this.stage.heat.shapes = event.target.checked ? [...others, one.shape] : others;
        this.draw();
      };
      const text = one.crowd ? `${one.category} (crowd)` : one.category;
      return h("label", {}, h("input", { type: "checkbox", onchange: toggle }), text);
    };
    fill(this.masks, h("legend", {}, "Outlines"), masks.map(box));
    this.masks.hidden = !masks.length;
  }

  // maps: {address: numbers} as far as there are any; control: an address, for one neuron alone.
  maps(maps, view, control) {
    const some = view.map === "one" ? [view.neuron] : view.chosen;
    const held = some.filter((address) => maps[address]);
    this.several = [];
    this.tiles.hidden = view.map !== "several";
    this.stage.element.hidden = view.map === "several";
    this.control.element.hidden = view.map !== "one" || !control;
    fill(this.tiles);
    if (view.map === "several") this.spread(held, some.length, maps);
    else if (view.map === "mean") {
      const text = held.length ? `Mean of ${plural(held.length, "neuron")}` : this.none(some).replace("of it", "of them");
      this.stage.set(held.length ? meanOf(held.map((a) => maps[a])) : null, text, this.lack(some, held));
    } else {
      this.one(this.stage, view.neuron, maps, "");
      this.one(this.control, control, maps, "control: a random unit of the same layer");
    }
    this.offer(view);
    this.draw();
    this.describe();
  }

  one(stage, address, maps, text) {
    const why = maps[address] ? "" : text ? this.less : this.none([address]);
    const said = [text, why].filter(Boolean).join(". ");
    stage.set(maps[address] ?? null, address && neuronButton(address, (to) => this.app.pick(to)), said);
    stage.canvas.setAttribute("aria-label", `heat map of ${address}`);
  }

  none(some) {
    if (!this.app.facts.grid) return "";
    if (!some.filter(Boolean).length) return "Choose neurons in the table.";
    return this.less && `${this.less} on this picture; \u201cmake browser\u201d draws every one`;
  }

  get less() {
    return this.app.facts.live ? "" : "This page keeps no map of it";
  }

  lack(some, held) {
    return held.length && held.length < some.length
      ? ` (the page keeps no map of ${plural(some.length - held.length, "other")})` : "";
  }

  spread(held, count, maps) {
    this.several = held.slice(0, TILES).map((address) => {
      const stage = new Stage(this.app.facts, { role: "img" });
      stage.show(this.picture);
      this.one(stage, address, maps, "");
      return stage;
    });
    const missing = count - this.several.length;
    const text = !count ? this.none([])
      : missing ? `${missing} more chosen ${missing === 1 ? "is" : "are"} not shown.` : "";
    fill(this.tiles, this.several.map((stage) => stage.element), text && h("p", { class: "quiet" }, text));
  }

  offer(view) {
    if (!this.which) return;
    const count = view.chosen.length;
    const options = [["one", "the neuron"], ["several", `each of ${count} chosen`], ["mean", `mean of ${count} chosen`]];
    fill(this.which, options.map(([value, text]) => h("option", { value, selected: value === view.map }, text)));
    this.slider.value = view.quantile;
    this.move(view.quantile);
  }

  // --- patches: by pointer, or by the arrow keys once the picture has the focus ---------------

  patches() {
    const { canvas } = this.stage, [rows, columns] = this.app.facts.grid;
    const under = (event) => {
      const box = canvas.getBoundingClientRect();
      const y = Math.floor(((event.clientY - box.top) / box.height) * rows);
      const x = Math.floor(((event.clientX - box.left) / box.width) * columns);
      return Math.min(rows - 1, Math.max(0, y)) * columns + Math.min(columns - 1, Math.max(0, x));
    };
    Object.assign(canvas, { tabIndex: 0 });
    canvas.setAttribute("role", "application");
    canvas.addEventListener("pointermove", (event) => this.over(under(event)));
    canvas.addEventListener("pointerleave", () => this.over(null));
    canvas.addEventListener("blur", () => this.over(null));
    canvas.addEventListener("click", (event) => this.app.go({ patch: under(event) }));
    canvas.addEventListener("keydown", (event) => this.step(event, rows, columns));
  }

  step(event, rows, columns) {
    const at = this.hover ?? this.app.view.patch ?? 0;
    let y = Math.floor(at / columns), x = at % columns;
    if (event.key === "ArrowUp") y -= 1;
    else if (event.key === "ArrowDown") y += 1;
    else if (event.key === "ArrowLeft") x -= 1;
    else if (event.key === "ArrowRight") x += 1;
    else if (event.key === "Enter" || event.key === " ") this.app.go({ patch: at });
    else return;
    event.preventDefault(); // so the keys of the whole browser leave it alone
    y = Math.min(rows - 1, Math.max(0, y));
    x = Math.min(columns - 1, Math.max(0, x));
    this.over(this.hover === null && this.app.view.patch === null ? at : y * columns + x);
  }

  over(patch) {
    this.hover = patch;
    this.frames();
    this.describe();
  }

  frames() {
    const wrote = this.app.table.patches.map((patch) => ["wrote", patch]);
    this.stage.mark([...wrote, ["chosen", this.app.view.patch], ["hover", this.hover]]);
  }

  describe() {
    const { view, facts } = this.app, at = this.hover ?? view.patch;
    const what = `Picture ${view.image}` + (view.neuron ? `, heat map of ${view.neuron}` : "");
    if (!facts.grid) return this.stage.canvas.setAttribute("aria-label", what);
    const where = at === null ? "" : `; row ${Math.floor(at / facts.grid[1]) + 1}, column ${(at % facts.grid[1]) + 1}`;
    const text = `${what}. Arrow keys move over the patches, Enter shows which neurons wrote there${where}`;
    this.stage.canvas.setAttribute("aria-label", text);
  }
}
