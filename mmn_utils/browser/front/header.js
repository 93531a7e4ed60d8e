// Above all parts: whose neurons these are, the address box, and the help with the keys.
import { fill, h, labelled } from "./dom.js";
import { HELP } from "./keys.js";

export class Header {
  constructor(app) {
    this.app = app;
    const { facts } = app;
    this.field = h("input", { type: "text", spellcheck: "false", autocomplete: "off", size: 30 });
    this.trouble = h("p", { class: "note", role: "alert", hidden: true });
    const submit = (event) => (event.preventDefault(), app.visit(this.field.value));
    const copy = h("button", { type: "button", class: "tool", onclick: () => this.copy() }, "Copy");
    this.copied = h("span", { class: "quiet", role: "status" });
    const box = h("form", { "data-part": "address", onsubmit: submit },
      labelled("Address", this.field), h("button", { type: "submit", class: "tool" }, "Go"), copy, this.copied);
    this.button = h("button", { type: "button", class: "tool", "aria-expanded": "false", onclick: () => this.help() }, "Help (?)");
    this.panel = this.keys();
    const size = `${facts.layers} layers of ${facts.units.toLocaleString("en")} neurons`;
    this.element = h("header", { class: "top" },
      h("p", { class: "whose" }, h("strong", {}, facts.run), h("span", { class: "quiet" }, `${facts.system}, ${size}`)),
      box, this.button, this.panel, this.trouble);
  }

  keys() {
    const { live, pixels } = this.app.facts, some = HELP.filter(([, , alone]) => !alone || live);
    const key = ([name, text]) => [h("dt", {}, name.split(" ").map((one) => h("kbd", {}, one))), h("dd", {}, text)];
    return h("section", { "data-part": "help", hidden: true, "aria-label": "help" },
      h("dl", {}, some.map(key)),
      h("p", {}, "On the picture itself the arrows move over the patches once it has the focus, and Enter chooses one."),
      h("p", {}, "Attribution is the activation before the nonlinearity times its gradient at the image tokens; contribution " +
        "what a neuron writes of the noun at the last token; activation its highest value at an image token. " +
        "Exact ablation is how the noun's probability changes without the neuron. A control is another unit of the " +
        "same layer, always the same one for a neuron."),
      h("p", {}, `Maps are scaled to the ${pixels} \u00d7 ${pixels} pixels that the system sees, and cut strictly above the ` +
        "quantile of the threshold." + (live ? "" : " This page keeps maps in steps of their range.")));
  }

  help(open = this.panel.hidden) {
    this.panel.hidden = !open;
    this.button.setAttribute("aria-expanded", String(open));
  }

  follow(address) {
    this.field.value = address;
    this.copied.textContent = "";
  }

  complain(texts) {
    fill(this.trouble, texts.join("; "));
    this.trouble.hidden = !texts.length;
  }

  async copy() {
    this.field.select();
    const done = await Promise.resolve(navigator.clipboard?.writeText(this.field.value)).then(
      () => Boolean(navigator.clipboard), () => false,
    );
    this.copied.textContent = done ? "Copied." : "Selected.";
  }
}
