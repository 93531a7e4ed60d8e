// What the interventions did: their list, caption and noun before and after, progress, errors.
import { h } from "./dom.js";
import { Part } from "./part.js";
import { number } from "./words.js";

export class OutcomePart {
  constructor(app) {
    this.app = app;
    this.part = new Part("outcome", "Interventions");
    this.part.element.hidden = true;
  }

  // state: {busy, stack, outcome, error}, as Python has it.
  show(state) {
    const { busy, stack = [], outcome, error } = state ?? {};
    this.stack = stack;
    this.part.element.hidden = !(busy || stack.length || outcome || error);
    this.part.show(
      busy && this.progress(busy), error && h("p", { class: "note error", role: "alert" }, error),
      stack.length > 0 && this.list(stack), outcome && this.effect(outcome),
      outcome?.code && h("details", {}, h("summary", {}, "As Python"), h("pre", { tabindex: 0 }, outcome.code)),
    );
    this.part.element.dataset.state = busy ? "busy" : error ? "error" : "ready";
  }

  button(text, name, args = {}) {
    const ask = () => this.app.order(name, args);
    return h("button", { type: "button", class: "tool", "data-tool": name, "data-key": `${name} ${args.id ?? ""}`, onclick: ask }, text);
  }

  progress({ what, done, total }) {
    const bar = h("progress", { max: total ?? null, value: total ? done : null, "aria-label": what });
    const count = total ? ` ${done} of ${total}` : "";
    return h("p", { class: "progress" }, bar, h("span", { role: "status" }, `${what}${count}`), this.button("Cancel", "cancel"));
  }

  list(stack) {
    const line = ({ id, text }) => {
      const button = this.button("Remove", "remove", { id });
      button.setAttribute("aria-label", `remove ${text}`);
      return h("li", {}, h("span", {}, text), button);
    };
    return h("div", {}, h("ol", { class: "stack" }, stack.map(line)), this.button("Undo (z)", "undo"));
  }

  effect({ noun, before, after, changed, receipt = [] }) {
    const row = (text, { caption, probability }) => h("tr", {},
      h("th", { scope: "row" }, text), h("td", { class: "says" }, caption),
      noun !== null && h("td", { class: "number" }, number(probability)));
    const head = h("tr", {}, h("td", {}), h("th", { scope: "col" }, "caption"),
      noun !== null && h("th", { scope: "col", class: "number" }, `p(${noun})`));
    return h("div", {},
      h("table", { class: "effect" }, h("caption", { class: "unseen" }, "Caption before and after"),
        h("thead", {}, head), h("tbody", {}, row("before", before), row("after", after))),
      h("p", { class: "quiet", role: "status" }, changed ? "The caption changed." : "The caption is the same."),
      receipt.length > 0 && h("details", { open: true }, h("summary", {}, "Receipt"),
        h("dl", { class: "receipt" }, receipt.map(([name, text]) => [h("dt", {}, name), h("dd", {}, text)]))));
  }
}
