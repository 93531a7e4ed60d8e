// A view as an address, such as #L7.u15772@image&noun=horse, and back.
import { layerUnit, tidied } from "./words.js";

export const EMPTY = {
  image: null, noun: null, method: "attribution", neuron: null, chosen: [], patch: null,
  quantile: 0.95, search: null, map: "one",
};
const SEARCHED = ["writes", "suppresses"];
const MAPS = ["one", "several", "mean"];

// What is as it was in the beginning is left out.
export function writeAddress(view) {
  const text = encodeURIComponent;
  const head = `#${view.neuron ? text(view.neuron) : ""}${view.image === null ? "" : `@${text(view.image)}`}`;
  const rest = [];
  if (view.noun !== null) rest.push(`noun=${text(view.noun)}`);
  if (view.method !== EMPTY.method) rest.push(`method=${text(view.method)}`);
  if (view.quantile !== EMPTY.quantile) rest.push(`quantile=${view.quantile}`);
  if (view.chosen.length) rest.push(`chosen=${view.chosen.map(text).join(",")}`);
  if (view.map !== EMPTY.map) rest.push(`map=${view.map}`);
  if (view.patch !== null) rest.push(`patch=${view.patch}`);
  if (view.search) rest.push(`search=${view.search.end}:${text(view.search.word)}`);
  return [head, ...rest].join("&");
}

// Read an address leniently: [view, what was not understood, in words ..].
export function readAddress(address) {
  const view = { ...EMPTY, chosen: [] }, trouble = [];
  const [head, ...rest] = address.trim().replace(/^#/, "").split("&");
  const at = head.indexOf("@");
  const neuron = decoded(at < 0 ? head : head.slice(0, at), trouble);
  if (at >= 0) view.image = decoded(head.slice(at + 1), trouble) || null;
  view.neuron = tidied(neuron);
  if (neuron && !view.neuron) trouble.push(`${JSON.stringify(neuron)} is no neuron; one reads L7.u15772`);
  for (const piece of rest.filter(Boolean)) {
    const cut = piece.indexOf("=");
    const name = cut < 0 ? piece : piece.slice(0, cut), raw = cut < 0 ? "" : piece.slice(cut + 1);
    if (Object.hasOwn(READERS, name)) READERS[name](view, raw, trouble);
    else trouble.push(`${JSON.stringify(name)} is no part of an address`);
  }
  return [view, trouble];
}

function decoded(text, trouble) {
  try {
    return decodeURIComponent(text);
  } catch {
    trouble.push(`${JSON.stringify(text)} is not percent-encoded`);
    return text;
  }
}

const READERS = {
  noun: (view, raw, trouble) => (view.noun = decoded(raw, trouble) || null),
  method: (view, raw, trouble) => (view.method = decoded(raw, trouble)),
  quantile(view, raw, trouble) {
    const value = Number(raw);
    if (raw !== "" && value >= 0 && value <= 1) view.quantile = value;
    else trouble.push(`the quantile ${JSON.stringify(raw)} is no fraction from 0 to 1`);
  },
  chosen(view, raw, trouble) {
    const all = raw.split(",").filter(Boolean).map((one) => decoded(one, trouble));
    view.chosen = all.map(tidied).filter(Boolean);
    for (const one of all) if (!layerUnit(one)) trouble.push(`${JSON.stringify(one)} is no neuron`);
  },
  map(view, raw, trouble) {
    if (MAPS.includes(raw)) view.map = raw;
    else trouble.push(`the map ${JSON.stringify(raw)} is none of ${MAPS.join(", ")}`);
  },
  patch(view, raw, trouble) {
    if (/^\d+$/.test(raw)) view.patch = Number(raw);
    else trouble.push(`the patch ${JSON.stringify(raw)} is no number from 0`);
  },
  search(view, raw, trouble) {
    const cut = raw.indexOf(":");
    const end = raw.slice(0, Math.max(cut, 0)), word = decoded(raw.slice(cut + 1), trouble);
    if (SEARCHED.includes(end) && word) view.search = { word, end };
    else trouble.push(`the search ${JSON.stringify(raw)} reads writes:WORD or suppresses:WORD`);
  },
};
