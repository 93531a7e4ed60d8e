// The caption with its nouns as buttons, the captions that came with the picture, and another noun by typing.
import { fill, h, labelled } from "./dom.js";
import { Part } from "./part.js";
import { python } from "./python.js";
import { capital, token } from "./words.js";

export class CaptionPart {
  constructor(app) {
    this.app = app;
    this.part = new Part("caption", "Caption", { code: () => python("caption", app) });
  }

  show(picture) {
    this.picture = picture;
    const piece = ([text, noun]) => (noun === null ? text : this.noun(text, noun));
    const human = picture.human.length > 0 && h(
      "details", {}, h("summary", {}, capital(this.app.facts.words.references)),
      h("ul", {}, picture.human.map((text) => h("li", {}, text))),
    );
    const none = !picture.nouns.length && h("p", { class: "quiet" }, "No noun was found in this caption.");
    this.part.show(
      h("p", { class: "says" }, picture.pieces.map(piece)), none,
      this.app.facts.live && this.typing(), human,
    );
    this.mark(this.app.view);
  }

  noun(text, noun) {
    return h("button", {
      type: "button", class: "noun", "data-noun": noun, "data-key": `noun ${noun}`,
      onclick: () => this.app.ask(noun),
    }, text);
  }

  // A word is tried before it is gone to, so that one without a token is told of here.
  typing() {
    const field = h("input", { type: "text", "data-part": "word", size: 14, autocomplete: "off" });
    const trying = async (event) => {
      event.preventDefault();
      const noun = field.value.trim(), { image } = this.app.view;
      if (!noun) return;
      await this.app.questions.into(this.part, async (current) => {
        await this.app.questions.ask("word", { image, noun });
        if (current()) this.app.ask(noun);
      });
    };
    return h("form", { onsubmit: trying }, labelled("Another noun", field),
      h("button", { type: "submit", class: "tool" }, "Ask"));
  }

  mark(view) {
    const buttons = this.part.body.querySelectorAll("[data-noun]");
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.noun === view.noun));
    const typed = view.noun !== null && this.picture && !this.picture.nouns.includes(view.noun);
    this.other?.remove();
    this.other = typed && this.app.facts.live
      ? h("p", { class: "quiet" }, "Shown for another noun: ", h("span", { class: "noun" }, view.noun), this.how(view)) : null;
    if (this.other) this.part.body.querySelector(".says").after(this.other);
  }

  // What of a typed word was scored: its first token may be none of it that anybody would know.
  how({ image, noun }) {
    if (this.found?.image !== image || this.found.noun !== noun) return null;
    const { token: text, whole, behind } = this.found;
    const where = behind ? `behind \u201c${behind}\u201d` : "at the caption\u2019s first step";
    return whole ? `, asked for ${where}.`
      : [", which is no token; its first one, \u201c", token(text), "\u201d, is asked for ", where, "."];
  }

  scored({ image, noun }, found) {
    if (found.token === undefined) return;
    this.found = { image, noun, ...found };
    this.mark(this.app.view);
  }
}
