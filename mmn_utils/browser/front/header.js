// Above all parts: whose neurons these are, the address box, and the help with the keys.
import { fill, h, labelled } from "./dom.js";
import { HELP } from "./keys.js";
import { percent } from "./words.js";

export class Header {
  constructor(app) {
    this.app = app;
    const { facts } = app;
    this.field = h("input", { type: "text", spellcheck: "false", autocomplete: "off", size: 30 });
    this.trouble = h("p", { class: "note", role: "alert", hidden: true });
    this.typed = false; // somebody is writing an address
    this.field.addEventListener("input", () => (this.typed = true));
    this.field.addEventListener("keydown", (event) => event.key === "Escape" && this.rest());
    const submit = (event) => {
      event.preventDefault();
      this.typed = false;
      app.visit(this.field.value);
    };
    const copy = h("button", { type: "button", class: "tool", onclick: () => this.copy() }, "Copy");
    this.copied = h("span", { class: "quiet", role: "status" });
    const box = h("form", { "data-part": "address", onsubmit: submit },
      labelled("Address", this.field), h("button", { type: "submit", class: "tool" }, "Go"), copy, this.copied);
    this.button = h("button", { type: "button", class: "tool", "aria-expanded": "false", onclick: () => this.help() }, "Help (?)");
    this.panel = this.keys();
    const size = `${facts.layers} layers of ${facts.units.toLocaleString("en")} neurons`;
    this.element = h("header", { class: "top" },
      h("p", { class: "whose" }, h("strong", {}, facts.run), h("span", { class: "quiet" }, `system ${facts.system}, ${size}`)),
      box, this.button, this.panel, this.trouble);
  }

  keys() {
    const { live, pixels, grid, generic, k } = this.app.facts, some = HELP.filter(([, , alone]) => !alone || live);
    const key = ([name, text]) => [h("dt", {}, name.split(" ").map((one) => h("kbd", {}, one))), h("dd", {}, text)];
    return h("section", { "data-part": "help", hidden: true, "aria-label": "help" },
      h("dl", {}, some.map(key)),
      grid && h("p", {}, "On the picture itself the arrows move over the patches once it has the focus, and Enter chooses one."),
      h("p", {}, "The table ranks neurons for a noun, from 1. Attribution is what goes into the nonlinearity times the gradient " +
        "of the noun's logit, the highest at an image token; activation is the neuron's value at the step that says the noun, " +
        "and contribution what it writes of the noun there. A dash is for a neuron that is not among the first " +
        `${k} by a method. ` + (live ? "Exact ablation is how the noun's probability changes without the neuron. " : "") +
        "Heat maps and the activations on a card are those at image tokens."),
      h("p", {}, "A neuron writes its activation times its write vector. Where it was found with a positive one (+), it wrote " +
        "the tokens that it \u201cwrites\u201d; with a negative one (\u2212), it pushed against these and wrote those that it " +
        "\u201csuppresses\u201d. The table shows what was written where the method that it is sorted by found the neuron, or else " +
        "the first that did; where another method found it with the other sign, that stands at the score."),
      h("p", {}, "Interpretable is an end of a neuron with at least seven dictionary words among its ten tokens; in a noun\u2019s table " +
        "it is the end that was written, otherwise that of the write vector. " +
        `Generic are neurons that are among the first ${k} for at least ${percent(generic, 0)} of all nouns. ` +
        "A control is another unit of the same layer, drawn once for each neuron."),
      grid && h("p", {}, `Maps are scaled to the ${pixels} \u00d7 ${pixels} pixels that the system sees, and cut strictly above the ` +
        "quantile of the threshold." + (live ? "" : " This page keeps maps of the first neurons of each noun, in steps of their range.")));
  }

  help(open = this.panel.hidden) {
    this.panel.hidden = !open;
    this.button.setAttribute("aria-expanded", String(open));
  }

  // What arrives meanwhile leaves alone what somebody writes.
  follow(address) {
    this.address = address;
    const writing = this.typed && this.field.getRootNode().activeElement === this.field;
    if (!writing) this.rest();
    this.copied.textContent = "";
  }

  rest() {
    this.typed = false;
    this.field.value = this.address ?? "";
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
