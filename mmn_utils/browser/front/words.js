// Numbers and tokens as words on the page.
import { h } from "./dom.js";

const MINUS = "\u2212";

// Three digits that count; a dash where there is none.
export function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return "\u2013";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e5) return (value < 0 ? MINUS : "") + size;
  const text = size >= 1e5 || size < 1e-4 ? size.toExponential(1) : plain(size, digits);
  return (value < 0 ? MINUS : "") + text.replace("e-", `e${MINUS}`).replace("e+", "e");
}

function plain(size, digits) {
  return size.toFixed(Math.max(0, digits - 1 - Math.floor(Math.log10(size))));
}

export function signed(value, digits = 3) {
  return value > 0 ? `+${number(value, digits)}` : number(value, digits);
}

// Short enough to stand under a small picture.
export function brief(value) {
  const size = Math.abs(value);
  if (size >= 0.1 || size === 0) return number(value, 2);
  return (size >= 0.01 ? value.toFixed(2) : value.toExponential(0)).replaceAll("-", MINUS);
}

export function percent(share, digits = 1) {
  return `${(100 * share).toFixed(digits)} %`;
}

export function plural(count, one, many = `${one}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

const ESCAPES = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };

// Only what cannot be seen is written otherwise: "<b>" stays "<b>".
export function visible(text) {
  if (text === "") return "(empty)";
  return text.replace(/[\u0000-\u001f\u007f]/g, (c) => ESCAPES[c] ?? `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`);
}

export function token(text) {
  return h("span", { class: "token", title: JSON.stringify(text) }, visible(text));
}

// The end of its vector that a neuron writes where its activation has a sign.
export function endOf(sign) {
  return sign < 0 ? "suppresses" : "writes";
}

export function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

// How units belong to experts: {count, units, shared}; null without any.
let experts = null;
export function haveExperts(some) {
  experts = some ?? experts;
}

// A neuron's address apart: [layer, unit among all of the layer]; null for what is none.
export function layerUnit(address) {
  const found = ADDRESS.exec(address ?? "");
  if (!found) return null;
  const [layer, expert, unit] = [found[1], found[2] ?? 0, found[4]].map(Number);
  if (!found[2] && !found[3]) return [layer, unit];
  const limit = found[3] ? experts?.shared : expert < experts?.count && experts.units;
  return unit < limit ? [layer, (found[3] ? experts.count : expert) * experts.units + unit] : null;
}

const ADDRESS = /^L(\d+)\.(?:(?:e(\d+)|(shared))\.)?u(\d+)$/;

// An address without leading zeros; null for what is none.
export function tidied(address) {
  return layerUnit(address) && address.replace(/\d+/g, (digits) => String(Number(digits)));
}

// Rows as a table of RFC 4180; numbers as they are, texts in quotes where they need them.
export function csv(rows) {
  const cell = (value) => {
    const text = value === null || value === undefined ? "" : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}
