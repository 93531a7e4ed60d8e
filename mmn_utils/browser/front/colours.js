// Colours that colour-blind people can read: matplotlib's viridis and cividis, and orange to blue.

// Evenly spaced colours as six hexadecimal digits each. The diverging ones go from PuOr's orange
// through a light grey to RdBu's blue.
const TABLES = {
  viridis:
    "440154470d6048186a482374472e7c4538824241863e4a893a548c365d8d32658e2e6d8e2b758e287d8e25848e228c8d" +
    "1f948c1e9c8920a38625ab822eb37c3aba7648c16e58c7656ccd5a7fd34e93d741a8db34c0df25d5e21aeae51afde725",
  cividis:
    "00224e00285b002e6a0533711c396f293f6e33446d3c4a6c45506c4d556c555b6d5c616e6467706b6d72727274787877" +
    "807f78888578908b78979177a09875a89e73b0a571b9ab6dc2b369cbb965d3c05fdcc859e6d051efd748f8df3cfee838",
  diverging: "7f3b08e08214f7f7f74393c3053061",
};

export const COLOURS = [["viridis", "viridis"], ["cividis", "cividis"], ["diverging", "orange\u2013blue about 0"]];

const made = {};

// 256 colours of a map: Uint8Array of 768 numbers.
export function palette(name) {
  return (made[name] ??= interpolate(TABLES[name]));
}

function interpolate(text) {
  const stops = text.match(/../g).map((pair) => parseInt(pair, 16)), last = stops.length / 3 - 1;
  const found = new Uint8Array(768);
  for (let i = 0; i < 256; i++) {
    const place = (i / 255) * last, low = Math.min(Math.floor(place), last - 1);
    for (let c = 0; c < 3; c++) {
      const a = stops[3 * low + c], b = stops[3 * low + 3 + c];
      found[3 * i + c] = Math.round(a + (b - a) * (place - low));
    }
  }
  return found;
}

// The same as a gradient of CSS, for a legend.
export function gradient(name) {
  return `linear-gradient(to right, ${TABLES[name].match(/.{6}/g).map((c) => `#${c}`).join(", ")})`;
}

// Between which values a map's colours lie: its own ends, or as far on both sides of zero.
export function ends(name, low, high) {
  if (name !== "diverging") return [low, high];
  const far = Math.max(Math.abs(low), Math.abs(high));
  return [-far, far];
}
