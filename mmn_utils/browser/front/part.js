// A part of the browser: heading, tools, what it shows, and its state in words.
import { fill, fresh, h } from "./dom.js";

export class Part {
  // code: a function that gives the Python of what is shown; tools: further elements.
  constructor(name, title, { code = null, tools = [], level = "h2" } = {}) {
    this.name = name;
    const id = fresh(name);
    this.title = h(level, { id }, title);
    this.note = h("p", { class: "note", hidden: true });
    this.body = h("div", { class: "body" });
    this.listing = h("div", { class: "listing", hidden: true });
    this.tools = h("div", { class: "tools" }, tools, code && this.copier(code));
    this.element = h(
      "section", { "data-part": name, "data-state": "ready", "aria-labelledby": id },
      h("header", {}, this.title, this.tools), this.listing, this.note, this.body,
    );
  }

  // What was shown stays, dimmed, until the answer is there.
  wait() {
    this.element.dataset.state = "busy";
    this.element.setAttribute("aria-busy", "true");
  }

  rest() {
    if (this.element.dataset.state === "busy") this.settle("ready", "");
  }

  fail(text) {
    this.settle("error", text);
  }

  // Nothing to show, and why.
  empty(text) {
    fill(this.body);
    this.settle("empty", text);
  }

  show(...children) {
    fill(this.body, ...children);
    this.settle("ready", "");
  }

  settle(state, text) {
    this.element.dataset.state = state;
    this.element.removeAttribute("aria-busy");
    this.note.setAttribute("role", state === "error" ? "alert" : "status");
    this.note.textContent = text;
    this.note.hidden = !text;
    this.listing.hidden = true;
    this.copy?.setAttribute("aria-expanded", "false");
  }

  copier(code) {
    const pressed = async () => {
      if (!this.listing.hidden) return this.list(null);
      const text = code();
      this.list(text);
      // Pages that are neither local nor encrypted may not write to the clipboard.
      const done = await Promise.resolve(navigator.clipboard?.writeText(text)).then(
        () => Boolean(navigator.clipboard), () => false,
      );
      this.said.textContent = done ? "Copied." : "Select it and copy.";
    };
    const attributes = { type: "button", class: "tool", onclick: pressed, "aria-expanded": "false" };
    this.copy = h("button", { ...attributes, "data-tool": "python" }, "Copy as Python");
    return this.copy;
  }

  list(text) {
    this.said = h("span", { class: "quiet", role: "status" });
    const code = h("pre", { tabindex: 0, "aria-label": "Python of this view" }, text ?? "");
    fill(this.listing, code, this.said);
    this.listing.hidden = text === null;
    this.copy.setAttribute("aria-expanded", String(text !== null));
  }
}

// "1-24 of 150" between two buttons; nothing where one page holds all.
export function pager(what, total, size, page, turn) {
  const first = page * size + 1, last = Math.min(total, first + size - 1);
  if (total <= size) return null;
  const step = (by, text, label, off) =>
    h("button", {
      type: "button", class: "tool", "aria-label": label, disabled: off,
      "data-key": label, onclick: () => turn(page + by),
    }, text);
  return h(
    "div", { class: "pager", role: "group", "aria-label": `pages of ${what}` },
    step(-1, "\u2039", `earlier ${what}`, page === 0),
    h("span", { role: "status" }, `${first}\u2013${last} of ${total}`),
    step(1, "\u203a", `later ${what}`, last === total),
  );
}
