// The rows of a table of neurons: what their cells show, and what of them is saved.
import { h } from "./dom.js";
import { signMark } from "./list.js";
import { layerUnit, signed } from "./words.js";

export function row(address, about) {
  const [layer, unit] = layerUnit(address);
  return { address, layer, unit, writes: [], suppresses: [], ...about };
}

// What a row is sorted by, of a method.
export function place(found, all) {
  return found ? (all ? found.score : found.rank) : null;
}

export function truth(value) {
  return value ? "yes" : h("span", { class: "quiet" }, "no");
}

// A score with its rank, and the sign where it is another one than the row's.
export function scoreCell(found, name, sign, k) {
  if (!found) return h("span", { class: "quiet", title: `not among the first ${k}` }, "\u2013");
  const other = found.sign && found.sign !== sign && signMark(found.sign, name);
  return [other, h("span", {}, signed(found.score)), h("span", { class: "rank", title: "rank" }, found.rank ?? "")];
}

export function changeCell(found) {
  if (!found) return h("span", { class: "quiet" }, "\u2013");
  return h("span", { title: `logit ${signed(found.logit)}` }, signed(found.probability));
}

// What is shown of a table, as rows of a CSV file with their head.
export function sheet(table) {
  const { methods } = table.app.facts, all = table.scope === "all", live = table.app.facts.live && !all;
  const head = ["neuron", "layer", "unit", ...(all ? [] : ["found_by", "sign", "wrote"]), "writes", "suppresses",
    ...methods.flatMap((m) => (all ? [`${m}_best`] : [`${m}_score`, `${m}_rank`, `${m}_sign`])),
    ...(live ? ["exact_probability", "exact_logit"] : []), ...(all ? ["peak", "negative"] : []),
    "interpretable", ...(all ? ["interpretable_suppresses"] : []), "generic", "nouns"];
  const there = ({ by, sign, end }, one) => [by, sign, one[end].join(" | ")];
  const rows = table.shown.map((one) => [
    one.address, one.layer, one.unit, ...(all ? [] : there(table.read(one), one)),
    one.writes.join(" | "), one.suppresses.join(" | "),
    ...methods.flatMap((m) => (all ? [one[m]?.score] : [one[m]?.score, one[m]?.rank, one[m]?.sign])),
    ...(live ? [table.exact[one.address]?.probability, table.exact[one.address]?.logit] : []),
    ...(all ? [one.peak, one.negative] : []), table.read(one).interpretable,
    ...(all ? [one.interpretable_suppresses] : []), one.generic, one.nouns,
  ]);
  return [head, ...rows];
}
