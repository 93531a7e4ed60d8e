// Short tables of neurons: what a search, a patch or a neighbourhood found.
import { h } from "./dom.js";
import { endOf, token } from "./words.js";

// The button that goes to a neuron.
export function neuronButton(address, pick) {
  return h("button", {
    type: "button", class: "neuron", "data-key": `neuron ${address}`,
    onclick: (event) => (event.stopPropagation(), pick(address)),
  }, address);
}

// The first words of an end, or of the end that was written where the activation had a sign.
export function words(about, end, count = 3) {
  return h("span", { class: "tokens" }, (about?.[end] ?? []).slice(0, count).map(token));
}

export function wrote(about, sign, count = 3) {
  return words(about, endOf(sign), count);
}

// What the sign of an activation means for what was written, in words.
export function meaning(sign) {
  return sign < 0 ? "negative activation: pushes against its write vector" : "positive activation: pushes along its write vector";
}

// The sign of a neuron's activation where it was found; more: by what, if that is to be said.
export function signMark(sign, more = "") {
  const text = [more, meaning(sign)].filter(Boolean).join(", ");
  return h("span", { class: sign < 0 ? "sign negative" : "sign", role: "img", "aria-label": text, title: text },
    sign < 0 ? "\u2212" : "+");
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
