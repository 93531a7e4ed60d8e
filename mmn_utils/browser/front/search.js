// Which neurons write a word, and which suppress it.
import { download, fill, h, labelled, select } from "./dom.js";
import { mark, neuronButton, neuronTable } from "./list.js";
import { Part } from "./part.js";
import { python } from "./python.js";
import { csv, number, plural, token } from "./words.js";

const ENDS = [["writes", "writes"], ["suppresses", "suppresses"]];
const NORMS = [["none", "without"], ["final", "with"]];

export class SearchPart {
  constructor(app) {
    this.app = app;
    this.norm = "none";
    this.found = [];
    const save = h("button", { type: "button", class: "tool", "data-tool": "csv", onclick: () => this.save() }, "CSV");
    this.part = new Part("search", "Search", { code: () => python("search", app), tools: [save] });
    this.field = h("input", { type: "search", size: 12, autocomplete: "off", "data-part": "query" });
    this.end = select(ENDS, "writes", () => this.go(), { "data-part": "end" });
    const norm = select(NORMS, "none", (value) => ((this.norm = value), this.again()), { "data-part": "norm" });
    const submit = (event) => (event.preventDefault(), this.go());
    const form = h("form", { role: "search", onsubmit: submit },
      labelled("Word", this.field), labelled("that a neuron", this.end), labelled("final norm", norm),
      h("button", { type: "submit", class: "tool" }, "Find"));
    this.content = h("div", {});
    this.part.body.append(form, this.content);
  }

  go() {
    const word = this.field.value.trim();
    this.app.go({ search: word ? { word, end: this.end.value } : null });
  }

  again() {
    if (this.app.view.search) this.app.asking.search();
  }

  focus() {
    this.field.focus();
    this.field.select();
  }

  // Field and end follow the view, unless somebody is writing.
  follow({ search }) {
    if (search) Object.assign(this.end, { value: search.end });
    if (this.field.getRootNode().activeElement !== this.field || search) this.field.value = search?.word ?? "";
  }

  clear() {
    this.found = [];
    fill(this.content);
    this.part.settle("ready", "");
  }

  show({ rows, about }) {
    const { search, neuron } = this.app.view, { held } = this.app.facts;
    this.found = rows;
    const caption = `Neurons that ${search.end === "writes" ? "write" : "suppress"} \u201c${search.word}\u201d`;
    const columns = [
      ["Neuron", ([address]) => neuronButton(address, (to) => this.app.pick(to))],
      ["Token", ([, text]) => token(text), "tokens"],
      ["Rank", ([, , rank]) => rank, "number"],
      ["Logit", ([, , , logit]) => number(logit), "number"],
    ];
    const among = held ? ` of the ${held.toLocaleString("en")} on this page` : "";
    const said = `${plural(rows.length, "neuron")}${among} ${rows.length === 1 ? "has" : "have"} it among the first ten`;
    const table = rows.length > 0 && neuronTable(caption, columns, rows, {
      pick: (to) => this.app.pick(to), current: neuron,
    });
    fill(this.content, h("p", { class: "quiet", role: "status" }, `${said}.`), table);
    this.about = about;
    this.part.settle("ready", "");
  }

  mark(view) {
    mark(this.content, view.neuron);
  }

  save() {
    const rows = this.found.map(([address, text, rank, logit]) => [address, text, rank, logit]);
    download("search.csv", csv([["neuron", "token", "rank", "logit"], ...rows]));
  }
}
