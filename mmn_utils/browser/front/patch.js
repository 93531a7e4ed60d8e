// Which neurons wrote at a patch.
import { h } from "./dom.js";
import { mark, neuronButton, neuronTable, signMark, wrote } from "./list.js";
import { Part } from "./part.js";
import { python } from "./python.js";
import { signed } from "./words.js";

export class PatchPart {
  constructor(app) {
    this.app = app;
    this.part = new Part("patch", "Patch", { code: () => python("patch", app), tools: [this.close(app)] });
    this.part.element.hidden = true;
  }

  close(app) {
    return h("button", { type: "button", class: "tool", onclick: () => app.go({ patch: null }) }, "Close");
  }

  hide() {
    this.part.element.hidden = true;
  }

  name(patch, noun) {
    const columns = this.app.facts.grid[1];
    const where = `row ${Math.floor(patch / columns) + 1}, column ${(patch % columns) + 1}`;
    this.part.title.textContent = `Patch in ${where}` + (noun ? `, \u201c${noun}\u201d` : "");
    this.part.element.hidden = false;
  }

  show({ by, rows, about }) {
    if (!rows.length) {
      const held = this.app.facts.live ? "" : " that this page has";
      return this.part.empty(`None of this noun's top neurons${held} has its highest attribution at this patch; ` +
        "dots on the picture show where some have.");
    }
    const columns = [
      ["Neuron", ([address]) => neuronButton(address, (to) => this.app.pick(to))],
      ["Sign", ([, , sign]) => signMark(sign), "flag"],
      ["Wrote there", ([address, , sign]) => wrote(about[address], sign, 4), "tokens"],
      [by, ([, score]) => signed(score), "number"],
    ];
    this.part.show(neuronTable("Neurons that wrote at the patch", columns, rows, {
      pick: (to) => this.app.pick(to), current: this.app.view.neuron,
    }));
  }

  mark(view) {
    mark(this.part.body, view.neuron);
  }
}
