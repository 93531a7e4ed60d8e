"""Tables of concepts, laid out as paper B's are: methods side by side, the paper's beside ours.

And the rows beneath them, by which claims are judged: a photograph each, a column for each
method (``scoring.COLUMNS``). A column of a system that has no gate is empty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mmn_utils.measures.estimates import Estimate
from mmn_utils.neurons.decoding import SIGN, suppressed_words
from mmn_utils.neurons.table import neuron_at
from mmn_utils.studies.agreement import listed, writes_noun
from mmn_utils.studies.annotations import examples
from mmn_utils.studies.concepts.regions import region_invariance, same_neurons
from mmn_utils.studies.concepts.scoring import COLUMNS, GATE, switched, with_all_methods
from mmn_utils.studies.concepts.sensitivity import Sensitivity, top_words
from mmn_utils.studies.concepts.specificity import KINDS, HeatMap, Specificity, specificity_of
from mmn_utils.studies.subjects import Subjects

OURS = "contribution"
PRINTED = "contribution_printed"  # its neurons decoded along their write vectors as they are
NAMES = {
    "activation": "activation (Base)",
    "attribution": "attribution (Mmns)",
    "contribution": "contribution (Ours)",
    "activation_gate": "activation of the gate",
    "contribution_gate": "contribution of the gate",
    PRINTED: "contribution, without the sign",
}
PAPER_NAMES = {"activation": "Base", "attribution": "Mmns", "contribution": "Ours"}
TITLES = {"bertscore": "BERTScore", "moverscore": "MoverScore", "bleurt": "BLEURT"}
READINGS = {"": "gated", GATE: "gate"}  # the end of a column's name, and what it reads


# --- Table 2 ---------------------------------------------------------------------------


def all_words(
    model,
    ranked: Mapping[str, pd.DataFrame],
    *,
    neurons: int = 10,
    tokens: int = 10,
    both_ends: bool = False,
    decode_norm: str = "none",
    decode_bias: bool = False,
) -> pd.DataFrame:
    """Decode what the top neurons of each concept wrote by each method, as ``top_words``.

    ``ranked`` as from ``scoring.side_by_side``. Contribution's neurons are there a second time as
    ``PRINTED``, along their write vectors as they are. The column writes says whether the noun,
    singular or plural, is among the words; with ``both_ends`` suppresses has the tokens at the
    other end. ``decode_norm`` and ``decode_bias`` as in ``decoding.decode_vectors``.
    """
    decoder = {"decode_norm": decode_norm, "decode_bias": decode_bias}
    options = {"neurons": neurons, "tokens": tokens, **decoder}
    printed = top_words(model, {PRINTED: ranked[OURS]}, signed=False, **options)
    words = pd.concat([top_words(model, ranked, **options), printed], ignore_index=True)
    if both_ends:
        words = with_suppressed(model, words, tokens=tokens, **decoder)
    return with_writes(words)


def with_writes(words: pd.DataFrame) -> pd.DataFrame:
    """Add the column writes: are the noun, singular or plural, among what the neuron writes?"""
    pairs = zip(words["words"], words["noun"], strict=True)
    return words.assign(writes=[writes_noun(some, noun) for some, noun in pairs])


def with_suppressed(
    model, words: pd.DataFrame, *, tokens: int = 10, **decoder: Any
) -> pd.DataFrame:
    """Add the column suppresses: the tokens at the other end of what each neuron wrote."""
    found = (neuron_at(model, one) for one in words["neuron"])
    units = list(zip(found, words["sign"].tolist(), strict=True))
    other = suppressed_words(model, units, tokens, **decoder)
    return words.assign(suppresses=[other[unit] for unit in units])


def writes_rows(words: pd.DataFrame) -> pd.DataFrame:
    """Return the share of a photograph's neurons that write their noun: a column each method.

    And ``negative``, ``negative_gate``: the share of contribution's neurons whose activation is.
    ``words`` as from ``all_words``.
    """
    wide = words.pivot_table("writes", "image", "method", sort=False).astype(float)
    turned = words.assign(negative=words["sign"] < 0)
    turned = turned.pivot_table("negative", "image", "method", sort=False).astype(float)
    for end in READINGS:
        if f"{OURS}{end}" in turned:
            wide[f"negative{end}"] = turned[f"{OURS}{end}"]
    names = [*COLUMNS, PRINTED, "negative", f"negative{GATE}"]
    rows = with_all_methods(wide, names)[names].reset_index()
    return rows.rename_axis(columns=None)


def top_neurons_exhibit(
    words: pd.DataFrame, image: str, noun: str, neurons: int = 3, tokens: int = 5
) -> pd.DataFrame:
    """Lay one concept's top neurons of every method out, as paper B's Table 2 does.

    ``words`` as from ``all_words``; ``sign`` is that of the activation, whose side of the write
    vector the tokens are. With a column suppresses (``with_suppressed``) the tokens of the
    other side follow. Beside each method, where there is one, its reading of the gate alone.
    """
    mine = words[(words["image"] == image) & (words["noun"] == noun) & (words["rank"] < neurons)]
    mine = mine.assign(
        sign=mine["sign"].map(SIGN),
        tokens=[listed(some[:tokens]) for some in mine["words"]],
        writes=np.where(mine["writes"], "yes", "no"),
    )
    cells = {"neuron": "neuron", "sign": "sign", "tokens": "top tokens", "writes": "writes it"}
    if "suppresses" in mine:
        mine["suppresses"] = [listed(some[:tokens]) for some in mine["suppresses"]]
        cells["suppresses"] = "suppresses"
    gates = [name for name in COLUMNS if name.endswith(GATE) and (mine["method"] == name).any()]
    parts = []
    for method in PAPER_NAMES:
        left = mine[mine["method"] == method].set_index("rank")[list(cells)]
        part = left.rename(columns=cells).assign(method=NAMES[method])
        if gates:
            right = mine[mine["method"] == f"{method}{GATE}"].set_index("rank")[list(cells)]
            right = right.rename(columns={old: f"{new} (gate)" for old, new in cells.items()})
            part = part.join(right).fillna("")
        parts.append(part)
    table = pd.concat(parts).reset_index(drop=True)
    return table[["method", *(name for name in table if name != "method")]]


# --- Table 3 ---------------------------------------------------------------------------


def judged_rows(judged: Sensitivity) -> pd.DataFrame:
    """Return the values of each metric that was tested: image, metric, a column each method."""
    wide = [
        judged.by_image(metric).reset_index().assign(metric=metric)
        for metric in TITLES
        if metric in set(judged.values["metric"])
    ]
    rows = pd.concat(wide, ignore_index=True).rename_axis(columns=None)
    names = ["image", "metric", *COLUMNS, PRINTED]
    return with_all_methods(rows, names)[names]


def levels(rows: pd.DataFrame, by: str) -> dict[tuple[Any, str], pd.Series]:
    """Return the columns of numbers of each value of ``by``, where they have some."""
    return {
        (value, name): part[name]
        for value, part in rows.groupby(by, sort=False)
        for name in part.columns.drop(["image", by])
        if part[name].notna().all()
    }


def sensitivity_exhibit(
    level: Mapping[tuple[str, str], Estimate], theirs: pd.DataFrame
) -> pd.DataFrame:
    """Lay three metrics out for each method as paper B's Table 3 does, the paper's beside.

    ``level`` by (metric, method); a metric that it lacks was not tested. Where there is a reading
    of the gate alone, it has a column beside. ``theirs`` has a row for each of the paper's
    methods.
    """
    gated = any(method.endswith(GATE) for _, method in level)
    rows = []
    for method, name in PAPER_NAMES.items():
        row: dict[str, Any] = {"method": NAMES[method]}
        for metric, title in TITLES.items():
            tested = (metric, method) in level
            row[title] = format(level[metric, method], ".3f") if tested else "not tested"
            if gated and tested:
                other = level.get((metric, f"{method}{GATE}"))
                row[f"{title}, gate"] = "" if other is None else format(other, ".3f")
            row[f"{title}, paper"] = theirs.loc[name, metric]
        rows.append(row)
    return pd.DataFrame(rows)


# --- Table 4 ---------------------------------------------------------------------------


def specificity_rows(
    model,
    some: Subjects,
    ranked: Mapping[str, pd.DataFrame],
    *,
    ms: Sequence[int],
    seed: int = 0,
    **options: Any,
) -> pd.DataFrame:
    """Measure S@m of each photograph's best neuron by contribution: a row a photograph and m.

    Columns image, m, related, random, first (S@m of related tokens at the smallest m), negative
    (is the neuron's activation?); the same with ``_gate`` by the gate alone; and ``printed``, of
    the tokens that the write vector favours as it is. ``options`` as in ``specificity``:
    contribution_norm, decode_norm, decode_bias.
    """
    options = {"ms": ms, "seed": seed, **options}
    kinds = [*KINDS, "first", "negative"]
    parts = []
    for end, reading in READINGS.items():
        if f"{OURS}{end}" in ranked:
            table = ranked[f"{OURS}{end}"]
            found = specificity_of(model, some, table, activation=reading, **options)
            parts.append(_at_each(found, min(ms)).add_suffix(end))
    table = ranked[OURS]
    printed = specificity_of(model, some, table, related_by="write", **options)
    parts.append(_at_each(printed, min(ms))[["related"]].set_axis(["printed"], axis=1))
    names = [*kinds, *(f"{kind}{GATE}" for kind in kinds), "printed"]
    rows = with_all_methods(pd.concat(parts, axis=1), names)[names]
    return rows.reset_index()


def _at_each(found: Specificity, first: int) -> pd.DataFrame:
    """Lay S@m out by image and m: related, random, first, negative."""
    active = found.scores.drop_duplicates("image").set_index("image")["activation"]
    parts = {
        m: pd.DataFrame(
            {
                **{kind: found.at(m, kind) for kind in KINDS},
                "first": found.at(first),
                "negative": (active < 0).astype(float),
            }
        )
        for m in found.ms
    }
    return pd.concat(parts, names=["m", "image"]).swaplevel()


def specificity_exhibit(
    level: Mapping[tuple[int, str], Estimate], theirs: pd.DataFrame, system: str
) -> pd.DataFrame:
    """Lay S@m of related and random tokens out as paper B's Table 4 does, the paper's below.

    ``level`` by (m, column of ``specificity_rows``); the gate's own rows follow, where there are
    any. ``theirs`` of the paper's ``system`` has a row for each kind, and may lack an m.
    """
    ms = list(dict.fromkeys(m for m, _ in level))
    ends = [end for end in READINGS if (ms[0], f"{KINDS[0]}{end}") in level]
    rows = []
    for kind in KINDS:
        for end in ends:
            title = f"{kind}, {READINGS[end]}" if len(ends) > 1 else kind
            rows.append(_row(title, {m: format(level[m, f"{kind}{end}"], ".3f") for m in ms}))
        paper = {m: theirs.loc[kind].get(f"S@{m}", "") for m in ms}
        rows.append(_row(f"{kind}, {system} in the paper", paper))
    return pd.DataFrame(rows)


def _row(tokens: str, cells: Mapping[int, Any]) -> dict[str, Any]:
    return {"tokens": tokens, **{f"S@{m}": cell for m, cell in cells.items()}}


# --- Figure 5 --------------------------------------------------------------------------


def richest(heats: Sequence[HeatMap], n: int = 3) -> list[str]:
    """Name the ``n`` images with most concepts, the first among equals."""
    return [heat.image for heat in sorted(heats, key=lambda heat: -len(heat.concepts))[:n]]


def scores_of(heats: Mapping[str, Sequence[HeatMap]], images: Sequence[str]) -> pd.DataFrame:
    """List the scores of some images by reading, as ``HeatMap.frame``."""
    parts = [
        heat.frame().assign(activation=reading)
        for reading, some in heats.items()
        for heat in some
        if heat.image in images
    ]
    return pd.concat(parts, ignore_index=True)


def own_rows(heats: Mapping[str, Sequence[HeatMap]]) -> pd.DataFrame:
    """Say of each image of several concepts whether its neurons score highest for their own.

    ``heats`` by reading. A row an image: image, concepts, chance (one of the concepts), ``own``,
    the share of its top neurons that score highest for their own concept, ``doubled``, whether
    two concepts have the same top neuron, which can be right for one of them at most; with
    ``_gate`` by the gate alone.
    """
    rows: dict[str, dict[str, Any]] = {}
    for end, reading in READINGS.items():
        for heat in heats.get(reading, ()):
            if (count := len(heat.concepts)) > 1:
                row = rows.setdefault(heat.image, {"concepts": count, "chance": 1 / count})
                row[f"own{end}"] = heat.own_highest
                row[f"doubled{end}"] = float(len(set(heat.neurons)) < count)
    names = ["concepts", "chance", *(f"{n}{end}" for end in READINGS for n in ("own", "doubled"))]
    table = pd.DataFrame.from_dict(rows, orient="index")
    return with_all_methods(table, names)[names].rename_axis("image").reset_index()


@dataclass(frozen=True)
class Busiest:
    """The neuron that is the top one of most concepts: ``times`` of all ``concepts``.

    ``nouns``: of how many different ones, in lower case.
    """

    neuron: str
    times: int
    concepts: int
    nouns: int


def busiest(heats: Sequence[HeatMap]) -> Busiest:
    """Find the neuron that is the top one of most concepts, the first among equals."""
    pairs = [
        (str(neuron), concept.casefold())
        for heat in heats
        for neuron, concept in zip(heat.neurons, heat.concepts, strict=True)
    ]
    (neuron, times), *_ = Counter(neuron for neuron, _ in pairs).most_common(1)
    nouns = {concept for top, concept in pairs if top == neuron}
    return Busiest(neuron, times, len(pairs), len(nouns))


# --- Table 10, on the right of Figure 3 --------------------------------------------------


def shuffled_exhibit(
    model,
    some: Subjects,
    kept: Sequence[str],
    n: int,
    *,
    top: int = 4,
    seed: int = 0,
    max_new_tokens: int = 20,
    **switches: str,
) -> pd.DataFrame:
    """Show captions and top neurons before and after a shuffle, as paper B's Table 10 does.

    Of ``n`` photographs among ``kept``, the ids of those whose captions share a concept. Columns:
    "" (caption, or the concept), as it is, shuffled. One pass, the shuffles of
    ``regions.shuffled_regions`` with the same seed. ValueError for no photographs.
    """
    if not len(kept) or n < 1:
        raise ValueError(f"{n} of {len(kept)} photographs to show; take more photographs")
    pair = examples(some.select(list(dict.fromkeys(kept))), n)
    pictures, targets = pair.opened()
    options = {"seed": seed, "max_new_tokens": max_new_tokens}
    methods = {OURS: switched(**switches)[OURS]}
    found = region_invariance(model, pictures, targets, ks=[top], methods=methods, **options)
    after, same = found.captions.set_index("image")["text"], same_neurons(found, OURS, top)
    lines = []
    for image in pair.ids:
        lines.append(("caption", pair.texts[image], after[image]))
        mine = same[same["image"] == image]
        lines += zip(mine["target"], mine["before"], mine["after"], strict=True)
    return pd.DataFrame(lines, columns=["", "as it is", "shuffled"])
