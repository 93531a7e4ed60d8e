// Answers from what a page holds: the atlas's, for its pictures and their top neurons.
import { layerUnit } from "./words.js";

// base64 of gzip of JSON, with or without JSON's quotes around it.
export async function unpack(text) {
  const code = text.trim().replace(/^"|"$/g, "");
  const bytes = Uint8Array.from(atob(code), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// An error that is none of anybody's: what was asked for has been left out of the page.
const lack = (text) => Object.assign(new Error(text), { lacking: true });

export class Packed {
  constructor(data) {
    this.data = data;
    this.places = new Map(data.neurons.map((address, i) => [address, i]));
    this.ids = data.facts.pictures.map(({ id }) => id);
  }

  ask(name, args) {
    if (!Object.hasOwn(ANSWERS, name)) throw new Error(`a page without a kernel has no answer to ${JSON.stringify(name)}`);
    return ANSWERS[name](this, args);
  }

  address(one) {
    return typeof one === "number" ? this.data.neurons[one] : one;
  }

  picture(one) {
    return typeof one === "number" ? this.ids[one] : one;
  }

  place(neuron) {
    const place = this.places.get(neuron);
    if (place !== undefined) return place;
    throw lack(this.lacking(neuron));
  }

  lacking(neuron) {
    const { layers, units } = this.data.facts, count = (number) => number.toLocaleString("en");
    return `${neuron} is not among the ${count(carded(this.data.cards))} of ${count(layers * units)} neurons ` +
      "that this page holds; notebook 07_neuron_browser and \u201cmake browser\u201d show every one";
  }

  about(addresses) {
    const found = {};
    for (const address of addresses) {
      const place = this.places.get(address);
      if (place === undefined) continue;
      found[address] = { ...this.brief(place), held: Boolean(this.data.cards[place]) };
    }
    return found;
  }

  // What the page says in short of a neuron; the words of one with a card are its card's first.
  brief(place) {
    const [one, other, generic, nouns, ...words] = this.data.about[place], tokens = this.data.cards[place]?.tokens;
    const first = (end) => tokens[end].slice(0, 5).map(([text]) => text);
    const [writes, suppresses] = tokens ? [first("writes"), first("suppresses")] : words;
    return {
      writes, suppresses, interpretable: Boolean(one), interpretable_suppresses: Boolean(other),
      generic: Boolean(generic), nouns,
    };
  }

  tops(image, noun) {
    const found = this.data.tops[image]?.[noun];
    if (!found) throw new Error(`this page holds no neurons for ${JSON.stringify(noun)} on picture ${image}`);
    return found;
  }

  // Every card with its place; those that the page lacks are left out.
  *cards() {
    for (let i = 0; i < this.data.neurons.length; i++) {
      if (this.data.cards[i]) yield [this.data.neurons[i], this.data.cards[i], i];
    }
  }
}

const ANSWERS = {
  facts({ data }) {
    return { ...data.facts, live: false, held: carded(data.cards) };
  },
  thumbs({ data }, { images }) {
    const url = (id) => data.thumbs?.[id] ?? data.src?.[id] ?? data.pictures[id]?.src;
    return Object.fromEntries(images.map((id) => [id, url(id)]).filter(([, found]) => found));
  },
  picture({ data }, { image }) {
    if (!Object.hasOwn(data.pictures, image)) throw new Error(`this page does not hold picture ${image}`);
    const found = data.pictures[image];
    return { own: false, human: [], masks: [], ...found, src: found.src ?? data.src[image], id: image };
  },
  top(packed, { image, noun, k }) {
    const rows = Object.fromEntries(Object.entries(packed.tops(image, noun)).map(([method, some]) =>
      [method, some.slice(0, k).map(([one, ...rest]) => [packed.address(one), ...rest])]));
    return { rows, about: packed.about(Object.values(rows).flat().map(([address]) => address)) };
  },
  patch(packed, { image, noun, patch, k }) {
    if (noun === null) throw new Error("this caption has no noun that a neuron could have written of");
    const some = (packed.tops(image, noun).attribution ?? []).filter((row) => row[2] === patch).slice(0, k);
    const rows = some.map(([one, score, , sign]) => [packed.address(one), score, sign]);
    return { by: "attribution", rows, about: packed.about(rows.map(([address]) => address)) };
  },
  maps({ data }, { image, neurons }) {
    const found = {};
    for (const [one, low, high, bytes] of data.maps[image] ?? []) {
      const address = typeof one === "number" ? data.neurons[one] : one;
      if (!neurons.includes(address)) continue;
      found[address] = levels(bytes, data.facts.grid).map((share) => low + share * (high - low));
    }
    return found;
  },
  card(packed, { neuron }) {
    const place = packed.place(neuron), card = packed.data.cards[place];
    if (!card) throw lack(packed.lacking(neuron));
    const sights = Object.fromEntries(Object.entries(card.sights).map(([kind, some]) =>
      [kind, some.map(([image, ...rest]) => [packed.picture(image), ...rest])]));
    const places = card.places.map(([method, image, ...rest]) => [method, packed.picture(image), ...rest]);
    const { edges } = packed.data.facts;
    return { edges, ...packed.about([neuron])[neuron], ...card, sights, places, address: neuron };
  },
  control(packed, { neuron }) {
    const found = packed.data.controls[packed.place(neuron)];
    if (found === null || found === undefined) throw lack(packed.lacking(neuron));
    return { address: packed.address(found) };
  },
  similar(packed, { neuron }) {
    const found = packed.data.similar[packed.place(neuron)];
    if (!found) throw lack(`This page does not say which neurons are like ${neuron}; \u201cmake browser\u201d does.`);
    const [vectors, pictures] = found.map((some) => some.map(([one, value]) => [packed.address(one), value]));
    const about = packed.about([...vectors, ...pictures].map(([address]) => address));
    return { exact: packed.data.exact ?? true, vectors, pictures, about };
  },
  about(packed, { neurons }) {
    return packed.about(neurons);
  },
  search(packed, { word, end, norm }) {
    const wanted = word.trim().toLowerCase(), rows = [];
    const name = norm === "final" ? `${end}_final` : end;
    for (const [address, card] of packed.cards()) {
      // The first of its ten that reads as the word is the highest.
      const rank = card.tokens[name].findIndex(([text]) => text.trim().toLowerCase() === wanted);
      if (rank >= 0) rows.push([address, card.tokens[name][rank][0], rank + 1, card.tokens[name][rank][1]]);
    }
    rows.sort((a, b) => b[3] - a[3] || order(a[0], b[0]));
    return { rows, about: packed.about(rows.map(([address]) => address)) };
  },
  filter(packed, { layers, method, least, interpretable, generic, order: by, n }) {
    const rows = [];
    for (const [address, card, i] of packed.cards()) {
      const { writes, suppresses, ...brief } = packed.brief(i);
      if (layers && !layers.includes(layerUnit(address)[0])) continue;
      if (interpretable !== null && brief.interpretable !== interpretable) continue;
      if (generic !== null && brief.generic !== generic) continue;
      const score = (method) => card.best?.[method] ?? highest(card.places, method);
      const best = Object.fromEntries(packed.data.facts.methods.map((method) => [method, score(method)]));
      if (method && (best[method] === null || best[method] < (least ?? -Infinity))) continue;
      rows.push({
        address, ...brief,
        peak: card.sights.strongest[0]?.[1] ?? null, negative: card.negative, best,
      });
    }
    const falls = { nouns: (one) => one.nouns, peak: (one) => one.peak }[by] ?? (method && !by && ((one) => one.best[method]));
    rows.sort((a, b) => (falls ? falls(b) - falls(a) : 0) || order(a.address, b.address));
    return { rows: rows.slice(0, n) };
  },
};

// Shares of a map's range, of one byte each or of two, the lower first.
function levels(text, [rows, columns]) {
  const bytes = Array.from(atob(text), (c) => c.charCodeAt(0)), count = rows * columns;
  if (bytes.length < 2 * count) return bytes.map((byte) => byte / 255);
  return Array.from({ length: count }, (_, i) => (bytes[2 * i] + 256 * bytes[2 * i + 1]) / 65535);
}

function carded(cards) {
  return cards.filter(Boolean).length;
}

function highest(places, method) {
  const scores = places.filter(([name]) => name === method).map(([, , , , score]) => score);
  return scores.length ? Math.max(...scores) : null;
}

function order(a, b) {
  const [layer, unit] = layerUnit(a), [otherLayer, otherUnit] = layerUnit(b);
  return layer - otherLayer || unit - otherUnit;
}
