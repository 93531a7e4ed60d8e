// Short tables of neurons: what a search, a patch or a neighbourhood found.
import { h } from "./dom.js";
import { token } from "./words.js";

// The button that goes to a neuron.
export function neuronButton(address, pick) {
  return h("button", {
    type: "button", class: "neuron", "data-key": `neuron ${address}`,
    onclick: (event) => (event.stopPropagation(), pick(address)),
  }, address);
}

export function writes(about, count = 3) {
  return h("span", { class: "tokens" }, (about?.writes ?? []).slice(0, count).map(token));
}

// columns: [[heading, function of a row that gives a cell's content, kind] ..], kind "number",
// "tokens" or none; rows: [[address, ..] ..]. A click anywhere in a row goes to its neuron.
export function neuronTable(caption, columns, rows, { pick, current }) {
  const head = h("tr", {}, columns.map(([name, , kind]) => h("th", { scope: "col", class: kind }, name)));
  const lines = rows.map((row) =>
    h(
      "tr",
      {
        "data-address": row[0], "aria-current": row[0] === current ? "true" : null,
        onclick: () => pick(row[0]),
      },
      columns.map(([, cell, kind]) => h("td", { class: kind }, cell(row))),
    ));
  return h(
    "div", { class: "scroll", tabindex: 0, role: "group", "aria-label": caption },
    h("table", {}, h("caption", { class: "unseen" }, caption), h("thead", {}, head), h("tbody", {}, lines)),
  );
}

// Show which row is the neuron's, without a new drawing.
export function mark(element, address) {
  for (const row of element.querySelectorAll("[data-address]")) {
    if (row.dataset.address === address) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
}
