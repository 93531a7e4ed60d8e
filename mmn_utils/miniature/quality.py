"""How good the miniature is: what it names, and whether the paper's effects show in it.

Every number comes from the analyses that the notebooks use, with a bootstrap interval
over scenes. ``REQUIRED`` is the one list of what is measured and what must be reached.

``python -m mmn_utils.miniature.measured`` prints the table.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from mmn_utils.datasets.base import Photograph
from mmn_utils.interventions.ablation import sweep
from mmn_utils.measures.estimates import Interval, bootstrap_interval
from mmn_utils.miniature.world import Concept, World
from mmn_utils.models.base import Prompt
from mmn_utils.neurons.decoding import decoded_words, nearest_tokens
from mmn_utils.neurons.receptive_fields import activation_maps, iou, mask, resize_truth, upsample
from mmn_utils.neurons.table import Neuron, random_like, top_k, unique_neurons
from mmn_utils.neurons.targets import Target
from mmn_utils.neurons.text import nouns
from mmn_utils.studies.subjects import Subjects, captions_of, subjects, top_neurons

TOP = 20  # units looked at in each scene, as in paper A's Table S.1
ABLATED = 6400 / 458_752  # paper A's largest ablation, as a share of GPT-J's units
MOST = 0.6  # share of a patch that an object covers before the patch is the object's
CONTROLS = {
    "untrained encoder": "miniature/untrained-encoder",
    "untrained projection": "miniature/untrained-projection",
}
LOOKS = "looks never seen"  # scenes of glyphs that neither encoder nor projection was trained on

#: Each measure in the table's order, with what is required of it.
REQUIRED = {
    "first noun is in the scene": ">= 0.75",
    "first noun, untrained encoder": "<= 0.20",
    "first noun, untrained projection": "<= 0.20",
    "first noun, looks never seen": "",
    "objects of the scene that are named": "",
    "objects named, looks never seen": "",
    "named objects that are there": "",
    "background is named": "",
    "noun's probability left, top units ablated": "<= 0.35",
    "noun's probability left, top units by sum ablated": "",
    "noun's probability left, random units ablated": ">= 0.95",
    "the same of the mean probability, top units": "",
    "IoU of top units": "",
    "IoU of random units": "",
    "IoU, top over random": ">= 1.8",
    "top-20 overlap, same concept": "",
    "top-20 overlap, different concepts": "",
    "top-20 overlap, same over different": ">= 5",
    "layer with most top units": ">= 1",
    "layer with most top units, by sum": ">= 1",
    "top units in layer 0": "",
    "top units naming the concept": "",
    "random units naming the concept": "",
    "naming the concept, top over random": ">= 5",
    "top units naming the concept, by sum": "",
    "random units naming the concept, by sum": "",
    "naming the concept by sum, top over random": ">= 5",
    "object patches near a word of their card": "",
    "random vectors near a word of the card": "",
}
_SIGNS = {">=": operator.ge, "<=": operator.le}


@dataclass(frozen=True)
class Quality:
    """What was measured, scene by scene.

    Attributes:
        captions: by system, one row a scene, as from ``caption_quality``.
        units: one row a scene with a target, as from ``unit_quality``.
        tops: by ``rank_by`` (max, sum) the neuron table of each scene's top units.
        patches: one row a scene, as from ``patch_quality``.
        layers: layers of the language model.
    """

    captions: dict[str, pd.DataFrame]
    units: pd.DataFrame
    tops: dict[str, pd.DataFrame]
    patches: pd.DataFrame
    layers: int


# --- words --------------------------------------------------------------------------------


def concept_of(word: str, world: World) -> Concept | None:
    """Return the concept that a word names, singular or plural; None where it names none."""
    word = word.lower()
    return next((c for c in world.concepts if word in (c.name, c.plural)), None)


def card(concept: Concept) -> frozenset[str]:
    """Return the words of a concept's card: its noun, the plural and the related words."""
    return frozenset((concept.name, concept.plural, *concept.words))


def on_card(tokens: Sequence[str], concept: Concept) -> bool:
    """Say whether any of the decoded tokens is a word of the card, whole and in lower case."""
    return not card(concept).isdisjoint(token.strip() for token in tokens)


def background_of(photograph: Photograph, world: World) -> str | None:
    """Return the background that all captions of a scene name, None where they name none."""
    words = [set(_words(caption)) for caption in photograph.captions]
    return next((b.name for b in world.backgrounds if all(b.name in w for w in words)), None)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _present(photograph: Photograph) -> set[str]:
    return {one.category for one in photograph.instances}


# --- captions -----------------------------------------------------------------------------


def caption_quality(model, photographs: Sequence[Photograph], world: World) -> pd.DataFrame:
    """Caption scenes greedily and compare with what is in them, one row a scene in their order.

    Columns: image, caption, noun (the first one, "" if none), right (it is in the scene),
    recall (of the scene's objects, those named), precision (of the objects named, those
    there; NaN where none is), background (its name was said), twice (one thing is named
    more than once).
    """
    rows = []
    for photograph, caption in zip(photographs, captions_of(model, photographs), strict=True):
        found = nouns(caption, model)
        noun = found[0].word if found else ""
        rows.append({"image": photograph.id, **_caption_row(caption.text, noun, photograph, world)})
    return pd.DataFrame(rows)


def _caption_row(text: str, noun: str, photograph: Photograph, world: World) -> dict:
    """Compare one caption with its scene; see ``caption_quality``."""
    present, words = _present(photograph), _words(text)
    things = [c.name for c in (concept_of(word, world) for word in words) if c is not None]
    named = set(things)
    first = concept_of(noun, world) if noun else None
    there = len(named & present)
    return {
        "caption": text,
        "noun": noun,
        "right": first is not None and first.name in present,
        "recall": there / max(1, len(present)),
        "precision": there / len(named) if named else np.nan,
        "background": background_of(photograph, world) in words,
        "twice": len(things) > len(named),
    }


# --- units --------------------------------------------------------------------------------


def ablated_count(model) -> int:
    """Return how many of the model's units are the paper's largest share, 1.4 %."""
    return max(1, round(ABLATED * model.sizes.layers * model.sizes.units))


def unit_quality(
    model, found: Subjects, world: World, seed: int = 0
) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Test the top units of each scene against random units of the same layers.

    Columns of the first table: image, noun; probability of the noun, and without units (the
    paper's largest share): without_top, by their maximum over patches, without_top_sum, by
    their sum, without_random; iou_top and iou_random of the masks of ``TOP`` units, NaN where
    the noun is not in the scene; card_max, card_max_random, card_sum, card_sum_random: share
    of the ``TOP`` units with a word of the noun's card among their ten decoded tokens, NaN
    where the noun has no card. The second holds the
    neuron table of the ``TOP`` units by ``rank_by``.
    """
    count = ablated_count(model)
    k = max(100, count, TOP)  # 100 is what the other notebooks ask for: computed once
    ranked = {rank: top_neurons(model, found, k=k, rank_by=rank) for rank in ("max", "sum")}
    lists = {rank: _by_image(table) for rank, table in ranked.items()}
    rows = []
    for i, (photograph, target) in enumerate(zip(found.photographs, found.targets, strict=True)):
        rng = np.random.default_rng([seed, i])
        best = lists["max"][photograph.id]
        row = {"image": photograph.id, "noun": target.noun}
        prompt = model.prompt([photograph.open()])
        row |= _ablation(
            model, prompt, target, [lists[rank][photograph.id][:count] for rank in ranked], rng
        )
        row |= _fields(model, photograph, prompt, concept_of(target.noun, world), best[:TOP], rng)
        for rank in ranked:
            units = lists[rank][photograph.id][:TOP]
            row |= _named(model, concept_of(target.noun, world), units, f"card_{rank}", rng)
        rows.append(row)
    return pd.DataFrame(rows), {rank: top_k(table, TOP) for rank, table in ranked.items()}


def _by_image(table: pd.DataFrame) -> dict[str, list[Neuron]]:
    """List each image's units, best first."""
    return {image: unique_neurons(part) for image, part in table.groupby("image")}


def _ablation(model, prompt: Prompt, target: Target, units: list[list[Neuron]], rng) -> dict:
    """Read the noun's probability without the top units, by maximum and by sum, and at random.

    The random ones are as many as the first list has, in the same layers.
    """
    others = random_like(units[0], model.sizes.units, rng)
    kept = sweep(model, prompt, target, [[], *units, others], max_new_tokens=0).probability
    names = ("probability", "without_top", "without_top_sum", "without_random")
    return dict(zip(names, kept.tolist(), strict=True))


def _fields(
    model,
    photograph: Photograph,
    prompt: Prompt,
    concept: Concept | None,
    units: list[Neuron],
    rng,
) -> dict:
    """Compare the masks of top and of random units with the noun's own mask."""
    if concept is None or concept.name not in _present(photograph):
        return {"iou_top": np.nan, "iou_random": np.nan}
    side = model.image_tokens.pixels
    both = [*units, *random_like(units, model.sizes.units, rng)]
    maps = upsample(activation_maps(model, prompt, both)[0], side)
    scores = iou(mask(maps), resize_truth(photograph.mask(concept.name), side))
    halves = scores[: len(units)].mean(), scores[len(units) :].mean()
    return {"iou_top": float(halves[0]), "iou_random": float(halves[1])}


def _named(model, concept: Concept | None, units: list[Neuron], column: str, rng) -> dict:
    """Return the share of top and of random units that decode to a word of the card."""
    if concept is None:
        return {column: np.nan, f"{column}_random": np.nan}
    others = random_like(units, model.sizes.units, rng)
    words = decoded_words(model, [*units, *others])
    shares = [np.mean([on_card(words[unit], concept) for unit in part]) for part in (units, others)]
    return {column: float(shares[0]), f"{column}_random": float(shares[1])}


def layer_counts(table: pd.DataFrame, layers: int) -> pd.DataFrame:
    """Count each image's units by layer: images as rows, layers 0 to ``layers`` - 1 as columns."""
    counts = pd.crosstab(table["image"], table["layer"])
    return counts.reindex(columns=range(layers), fill_value=0)


def overlaps(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Compare all pairs of images: share of top units in common (N, N), and same target (N, N)."""
    groups = list(table.groupby("image"))
    units = [set(unique_neurons(part)) for _, part in groups]
    nouns = np.array([part["target"].iloc[0] for _, part in groups])
    shared = [[len(a & b) / max(1, min(len(a), len(b))) for b in units] for a in units]
    return np.array(shared, dtype=float).reshape(len(units), len(units)), nouns[:, None] == nouns


# --- patches ------------------------------------------------------------------------------


@torch.no_grad()
def patch_quality(
    model, photographs: Sequence[Photograph], world: World, seed: int = 0, batch_size: int = 16
) -> pd.DataFrame:
    """Count object patches whose five nearest tokens hold a word of the object's card.

    One row a scene: image, patches (of objects), named, random (as many random vectors,
    with the same cards).
    """
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for start in range(0, len(photographs), batch_size):
        batch = photographs[start : start + batch_size]
        prompts = model.soft_prompt([photograph.open() for photograph in batch])
        for photograph, vectors in zip(batch, prompts, strict=True):
            owners = _owners(model, photograph, world)
            vectors = vectors[torch.tensor([place for place, _ in owners], dtype=torch.long)]
            noise = torch.randn(vectors.shape, generator=generator)
            hits = [_near_card(model, v, [c for _, c in owners]) for v in (vectors, noise)]
            row = {"image": photograph.id, "patches": len(owners)}
            rows.append(row | dict(zip(("named", "random"), hits, strict=True)))
    return pd.DataFrame(rows)


def _owners(model, photograph: Photograph, world: World) -> list[tuple[int, Concept]]:
    """List the patches that one object covers for the most part, each with its concept."""
    (rows, _), side = model.require_grid(), model.image_tokens.pixels
    found = []
    for one in photograph.instances:
        concept = concept_of(one.category, world)
        if concept is None:
            continue
        truth = resize_truth(one.mask, side)[None].float()
        share = F.avg_pool2d(truth, side // rows).flatten()
        found += [(place, concept) for place in (share >= MOST).nonzero().flatten().tolist()]
    return found


def _near_card(model, vectors: torch.Tensor, concepts: list[Concept]) -> int:
    """Count vectors of whose five nearest tokens one is on the card."""
    ids, _ = nearest_tokens(model, vectors, 5)
    strings = model.token_strings
    near = ([strings[i] for i in row] for row in ids.tolist())
    return sum(on_card(tokens, concept) for tokens, concept in zip(near, concepts, strict=True))


# --- all of it ----------------------------------------------------------------------------


def measure(
    model,
    photographs: Sequence[Photograph],
    world: World,
    *,
    others: Mapping[str, tuple[object, Sequence[Photograph]]] | None = None,
    n_analyses: int | None = None,
    seed: int = 0,
) -> Quality:
    """Measure a system on held-out scenes.

    Captions on all ``photographs``; the costlier analyses on the first ``n_analyses`` (None:
    on all). ``others``: the controls, and the scenes of ``LOOKS``, each with its model and its
    scenes, of which only captions are made.
    """
    if not len(photographs):
        raise ValueError("no photographs to measure on; give some held-out scenes")
    captions = {"trained": caption_quality(model, photographs, world)}
    for name, (other, scenes) in (others or {}).items():
        captions[name] = caption_quality(other, scenes, world)
    few = photographs[:n_analyses]
    units, tops = unit_quality(model, subjects(model, few), world, seed)
    patches = patch_quality(model, few, world, seed)
    return Quality(captions, units, tops, patches, model.sizes.layers)


def quality_table(quality: Quality) -> pd.DataFrame:
    """Return the table that notebook 00 shows, one row a measure in the order of ``REQUIRED``.

    Columns: measure, value, ci_low, ci_high (95 %, bootstrap over scenes), n (scenes),
    required, meets ("yes", "no", or "" where nothing is required or nothing could be
    measured). A measure without data has no value.
    """
    found = _captions(quality.captions) | _units(quality) | _patches(quality.patches)
    rows = [(name, *found.get(name, _NOTHING), text) for name, text in REQUIRED.items()]
    columns = ["measure", "value", "ci_low", "ci_high", "n", "required"]
    table = pd.DataFrame(rows, columns=columns)
    table["meets"] = [
        _verdict(v, r) for v, r in zip(table["value"], table["required"], strict=True)
    ]
    return table


def _verdict(value: float, required: str) -> str:
    """Compare a value with a requirement such as ``>= 0.75``."""
    if not required or not np.isfinite(value):
        return ""
    sign, bound = required.split()
    return "yes" if _SIGNS[sign](value, float(bound)) else "no"


Result = tuple[float, float, float, int]  # value, ci_low, ci_high, n
_NOTHING: Result = (np.nan, np.nan, np.nan, 0)


def _captions(captions: Mapping[str, pd.DataFrame]) -> dict[str, Result]:
    trained, looks = captions["trained"], captions.get(LOOKS)
    found = {
        "first noun is in the scene": mean(trained["right"]),
        "objects of the scene that are named": mean(trained["recall"]),
        "named objects that are there": mean(trained["precision"]),
        "background is named": mean(trained["background"]),
    }
    for name, rows in captions.items():
        if name != "trained":
            found[f"first noun, {name}"] = mean(rows["right"])
    if looks is not None:
        found["objects named, looks never seen"] = mean(looks["recall"])
    return found


def _units(quality: Quality) -> dict[str, Result]:
    units, best, summed = quality.units, quality.tops["max"], quality.tops["sum"]
    if units.empty:
        return {}
    left = "noun's probability left, {} units ablated"
    found = {
        # The mean over scenes, as paper A's "by 80% on average" reads; the other reading beside it.
        left.format("top"): mean(units["without_top"] / units["probability"]),
        left.format("top").replace("units", "units by sum"): mean(
            units["without_top_sum"] / units["probability"]
        ),
        left.format("random"): mean(units["without_random"] / units["probability"]),
        "the same of the mean probability, top units": ratio(
            units["without_top"], units["probability"]
        ),
        "IoU of top units": mean(units["iou_top"]),
        "IoU of random units": mean(units["iou_random"]),
        "IoU, top over random": ratio(units["iou_top"], units["iou_random"]),
        "layer with most top units": _peak(best, quality.layers),
        "layer with most top units, by sum": _peak(summed, quality.layers),
        "top units in layer 0": mean(layer_counts(best, quality.layers)[0] / TOP),
    }
    for rank, after in (("max", ""), ("sum", " by sum")):
        top, other = units[f"card_{rank}"], units[f"card_{rank}_random"]
        comma = "," if after else ""
        found[f"top units naming the concept{comma}{after}"] = mean(top)
        found[f"random units naming the concept{comma}{after}"] = mean(other)
        found[f"naming the concept{after}, top over random"] = ratio(top, other)
    return found | _overlap(best)


def _overlap(table: pd.DataFrame) -> dict[str, Result]:
    """Mean overlap of pairs of scenes with the same and with different target nouns."""
    shared, same = overlaps(table)
    other = ~np.eye(len(same), dtype=bool)
    parts = {"same": same & other, "different": ~same}

    def pairs(rows: np.ndarray, part: str) -> np.ndarray:
        # A resample weighs a pair by how often both of its scenes were drawn.
        weights = np.stack([np.bincount(row, minlength=len(same)) for row in rows]).astype(float)
        held = parts[part].astype(float)
        return _divide(
            ((weights @ (held * shared)) * weights).sum(1), ((weights @ held) * weights).sum(1)
        )

    name, count = "top-20 overlap, {}".format, len(same)
    return {
        name("same concept"): resampled(count, lambda r: pairs(r, "same")),
        name("different concepts"): resampled(count, lambda r: pairs(r, "different")),
        name("same over different"): resampled(
            count, lambda r: _divide(pairs(r, "same"), pairs(r, "different"))
        ),
    }


def _peak(table: pd.DataFrame, layers: int) -> Result:
    counts = layer_counts(table, layers).to_numpy()
    return resampled(len(counts), lambda rows: counts[rows].sum(1).argmax(1).astype(float))


def _patches(patches: pd.DataFrame) -> dict[str, Result]:
    return {
        "object patches near a word of their card": ratio(patches["named"], patches["patches"]),
        "random vectors near a word of the card": ratio(patches["random"], patches["patches"]),
    }


def items_seen(folder: Path, files: Sequence[str]) -> float:
    """Return how much trainings saw one after the other, by their curves; NaN where one lacks."""
    return sum(training_curve(folder / file)["items"].max() for file in files)


def training_curve(path: Path) -> pd.DataFrame:
    """Read a stored training curve: items seen and loss, without rows that report no loss.

    Takes what the trainings write: a header with ``items`` or ``images``, or none and
    images, loss and speed. Empty where there is no file.
    """
    if not path.is_file():
        return pd.DataFrame({"items": [], "loss": []})
    table = pd.read_csv(path)
    if "loss" not in table:
        table = pd.read_csv(path, names=["items", "loss", "speed"])
    table = table.rename(columns={"images": "items"})
    return table.dropna(subset="loss").reset_index(drop=True)


# --- how sure -----------------------------------------------------------------------------


def mean(values: pd.Series) -> Result:
    """Return mean, interval and number of the values that are there (no NaN)."""
    values = values.dropna().to_numpy(dtype=float)
    return resampled(len(values), lambda rows: values[rows].mean(1))


def ratio(above: pd.Series, below: pd.Series) -> Result:
    """Return the ratio of two means over the same scenes, its interval and their number."""
    pairs = pd.concat([above, below], axis=1).dropna().to_numpy(dtype=float)
    return resampled(
        len(pairs), lambda rows: _divide(pairs[rows, 0].mean(1), pairs[rows, 1].mean(1))
    )


def resampled(count: int, statistic: Callable[[np.ndarray], np.ndarray]) -> Result:
    """Return a statistic of ``count`` scenes with its bootstrap interval.

    ``statistic`` takes rows of scene numbers (R, count) to values (R,). The interval is
    NaN where a resample has no value, as with a handful of scenes.
    """
    if count == 0:
        return _NOTHING
    value = float(statistic(np.arange(count)[None])[0])

    def of_rows(drawn: np.ndarray, axis: int) -> np.ndarray:
        return statistic(drawn.astype(int))

    interval = bootstrap_interval(np.arange(count), statistic=of_rows)
    low, high = interval if np.isfinite(interval).all() else Interval(np.nan, np.nan)
    return value, low, high, count


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Divide, with NaN instead of infinity where there is nothing to divide by."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)
