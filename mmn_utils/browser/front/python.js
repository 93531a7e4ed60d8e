// What is shown as Python that gives the same. JSON's strings are Python's, whatever they hold.
import { layerUnit } from "./words.js";

const literal = (value) => JSON.stringify(value);
const literals = (values) => `[${values.map(literal).join(", ")}]`;

// An address as any Neuron.parse reads it: an expert's unit by its number in the layer.
const numbered = (address) => "L" + layerUnit(address).join(".u");

// app: {facts, view, shown}, where shown holds what the address does not say (norm, filters).
export function python(kind, app) {
  return SNIPPETS[kind](app).flat().join("\n") + "\n";
}

function atlas({ facts }) {
  return ["from mmn_utils.browser.atlas.query import Atlas", "", `atlas = Atlas.open(${literal(facts.run)})`];
}

const OWN = "own:"; // pictures that the atlas does not know

function opened({ facts, view }, imports) {
  const own = view.image.startsWith(OWN);
  return [
    own && "from pathlib import Path\n",
    "import mmn_utils as mmn",
    !own && "from mmn_utils.browser.atlas.query import Atlas",
    ...imports,
    !own && "from mmn_utils.presets import ROOT",
    "",
    `system = mmn.load(${literal(facts.model ?? facts.system)})`,
    own ? `file = Path(${literal(view.image.slice(OWN.length))})  # where the picture lies`
      : `file = ROOT / Atlas.open(${literal(facts.run)}).image(${literal(view.image)}).file`,
  ].filter((line) => line !== false);
}

// The browser's own questions, for what only the system can answer.
function session({ facts, view }) {
  const own = view.image.startsWith(OWN);
  return [
    "import mmn_utils as mmn",
    "from mmn_utils.browser.atlas.query import Atlas",
    "from mmn_utils.browser.live.session import Session",
    "",
    `system = mmn.load(${literal(facts.model ?? facts.system)})`,
    `session = Session(system, Atlas.open(${literal(facts.run)}))`,
    ...(own ? [
      `with open(${literal(view.image.slice(OWN.length))}, "rb") as file:  # where the picture lies`,
      `    session.ask("own", {"name": ${literal(view.image.slice(OWN.length))}, "buffer": file.read()})`,
    ] : []),
  ];
}

// Words that are no noun of the caption, and pictures of one's own, are scored by the system.
function scored(app) {
  const { view, shown } = app;
  if (!view.image.startsWith(OWN) && shown.nouns.includes(view.noun)) return null;
  const args = `{"image": ${literal(view.image)}, "noun": ${literal(view.noun)}, "k": ${shown.k}}`;
  return [...session(app), `answer = session.ask("top", ${args})`];
}

// Which end was written where the card is open for a noun of a picture.
function written({ image, noun }) {
  if (image === null || noun === null) return [];
  return [`print({method: place.end for method, place in card.written(${literal(image)}, ${literal(noun)}).items()})`];
}

const SNIPPETS = {
  picture(app) {
    const { view, facts } = app, mean = view.map === "mean";
    const some = view.map === "one" ? [view.neuron] : view.chosen;
    if (!facts.grid || !some.filter(Boolean).length) return SNIPPETS.caption(app);
    const imports = [
      "from mmn_utils.datasets.base import read_image",
      "from mmn_utils.neurons.receptive_fields import activation_maps, mask, upsample",
    ];
    return [
      opened(app, imports),
      `neurons = [mmn.Neuron.parse(address) for address in ${literals(some.filter(Boolean).map(numbered))}]`,
      "maps = activation_maps(system, [read_image(file)], neurons)[0]  # (neurons, rows, columns)",
      mean ? "maps = maps.mean(0, keepdim=True)" : [],
      "large = upsample(maps, system.image_tokens.pixels)",
      `masks = mask(large, ${view.quantile})  # strictly above each map's quantile`,
      "print(large.amin((1, 2)), large.amax((1, 2)), masks.float().mean((1, 2)))",
    ];
  },
  caption(app) {
    const { view } = app;
    if (view.image.startsWith(OWN)) return [opened(app, []), "print(mmn.caption(system, file).text)"];
    return [
      atlas(app), `picture = atlas.image(${literal(view.image)})`,
      "print(picture.caption)", "print([noun.noun for noun in picture.nouns])",
    ];
  },
  table(app) {
    const { view, shown } = app;
    if (shown.scope === "all") return SNIPPETS.filter(app);
    const own = scored(app);
    if (own) return [own, 'print(answer["rows"])'];
    return [
      atlas(app), `scores = atlas.image(${literal(view.image)}).scores`,
      `scores = scores[scores["target"] == ${literal(view.noun)}]`,
      'table = scores.pivot(index="address", columns="method", values=["score", "rank", "activation"])',
      `print(table.sort_values(("rank", ${literal(view.method)})))`,
    ];
  },
  filter(app) {
    const { shown } = app, say = (value) => (value ? "True" : "False");
    const options = [
      shown.layer !== null && `layers=[${shown.layer}]`,
      shown.by && `method=${literal(shown.by)}`,
      (shown.least ?? null) !== null && `least_score=${shown.least}`,
      shown.interpretable !== null && `interpretable=${say(shown.interpretable)}`,
      shown.generic !== null && `generic=${say(shown.generic)}`,
      shown.order && `order=${literal(shown.order)}`,
      `n=${shown.n}`,
    ].filter(Boolean);
    return [atlas(app), `print(atlas.neurons(${options.join(", ")}))`];
  },
  patch(app) {
    const { view, facts } = app;
    if (facts.live) {
      const args = `{"image": ${literal(view.image)}, "noun": ${literal(view.noun)}, "patch": ${view.patch}}`;
      return [session(app), `print(session.ask("patch", ${args})["rows"])`];
    }
    return [
      atlas(app), `scores = atlas.image(${literal(view.image)}).scores`,
      `scores = scores[(scores["target"] == ${literal(view.noun)}) & (scores["method"] == "attribution")]`,
      `print(scores[scores["patch"] == ${view.patch}].sort_values("rank"))`,
    ];
  },
  card(app) {
    return [
      atlas(app), `card = atlas.neuron(${literal(app.view.neuron)})`,
      "print(card.writes)", "print(card.suppresses)", 'print(card.sights["strongest"])',
      ...written(app.view),
    ];
  },
  control(app) {
    return [
      "from mmn_utils.browser.atlas.query import Atlas", "from mmn_utils.browser.views import Views", "",
      `atlas = Atlas.open(${literal(app.facts.run)})`,
      `control = Views(atlas).control(${literal(app.view.neuron)})["address"]`,
      "card = atlas.neuron(control)", "print(control, card.writes, card.suppresses)",
    ];
  },
  similar(app) {
    return [
      atlas(app), `neighbours = atlas.similar(${literal(app.view.neuron)})`,
      "print(neighbours.vectors)", "print(neighbours.pictures)",
    ];
  },
  elsewhere(app) {
    const { view } = app;
    return [atlas(app), `for place in atlas.elsewhere(${literal(view.neuron)}, image=${literal(view.image)}):`, "    print(place)"];
  },
  search(app) {
    const { word, end } = app.view.search ?? { word: "horse", end: "writes" };
    return [atlas(app), `print(atlas.search(${literal(word)}, end=${literal(end)}, norm=${literal(app.shown.norm)}))`];
  },
};
