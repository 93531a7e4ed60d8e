"""Tables of concepts, laid out as paper B's are: methods side by side, the paper's beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mmn_utils.measures.estimates import Estimate, difference_of, means_of
from mmn_utils.studies.agreement import listed, writes_noun
from mmn_utils.studies.annotations import examples
from mmn_utils.studies.concepts.regions import region_invariance, same_neurons
from mmn_utils.studies.concepts.scoring import switched
from mmn_utils.studies.concepts.sensitivity import Sensitivity
from mmn_utils.studies.concepts.specificity import KINDS, HeatMap, Specificity
from mmn_utils.studies.subjects import Subjects

OURS = "contribution"
NAMES = {
    "activation": "activation (Base)",
    "attribution": "attribution (Mmns)",
    "contribution": "contribution (Ours)",
}
PAPER_NAMES = {"activation": "Base", "attribution": "Mmns", "contribution": "Ours"}
TITLES = {"bertscore": "BERTScore", "moverscore": "MoverScore", "bleurt": "BLEURT"}


@dataclass(frozen=True)
class Lead:
    """How far contribution is ahead of the better one of the other methods."""

    rival: str
    gap: Estimate


def lead(by_image: pd.DataFrame, seed: int = 0) -> Lead:
    """Compare contribution, image by image, with the other method that does best on average.

    ``by_image``: one row an image, one column a method.
    """
    level = means_of(by_image, seed)
    rival = max((name for name in level if name != OURS), key=lambda name: level[name].value)
    return Lead(rival, difference_of(by_image[OURS], by_image[rival], seed))


def paper_lead(theirs: pd.DataFrame, metric: str) -> float:
    """Return the same lead in the paper: ``theirs`` has a row a method, by the paper's names."""
    ours = PAPER_NAMES[OURS]
    return float(theirs.loc[ours, metric] - theirs.drop(index=ours)[metric].max())


# --- Table 2 ---------------------------------------------------------------------------


def with_writes(words: pd.DataFrame) -> pd.DataFrame:
    """Add the column writes: are the noun, singular or plural, among what the neuron writes?

    ``words`` as from ``sensitivity.top_words``.
    """
    pairs = zip(words["words"], words["noun"], strict=True)
    return words.assign(writes=[writes_noun(tokens, noun) for tokens, noun in pairs])


def writes_by_image(words: pd.DataFrame) -> pd.DataFrame:
    """Return the share of neurons that write their noun: one row an image, one column a method."""
    return words.groupby(["image", "method"], sort=False)["writes"].mean().unstack()


def top_neurons_exhibit(
    words: pd.DataFrame, image: str, noun: str, neurons: int = 3, tokens: int = 5
) -> pd.DataFrame:
    """Lay one concept's top neurons of every method out, as paper B's Table 2 does.

    ``words`` as from ``with_writes``.
    """
    mine = words[(words["image"] == image) & (words["noun"] == noun) & (words["rank"] < neurons)]
    return pd.DataFrame(
        {
            "method": mine["method"].map(NAMES),
            "neuron": mine["neuron"],
            "top tokens": [listed(some[:tokens]) for some in mine["words"]],
            "score": mine["score"],
            "writes the concept": np.where(mine["writes"], "yes", "no"),
        }
    )


# --- Table 3 ---------------------------------------------------------------------------


def by_metric(judged: Sensitivity) -> dict[str, pd.DataFrame]:
    """Return the values of each metric that was tested: one row an image, one column a method."""
    tested = set(judged.values["metric"])
    return {metric: judged.by_image(metric) for metric in TITLES if metric in tested}


def sensitivity_exhibit(
    level: Mapping[tuple[str, str], Estimate], theirs: pd.DataFrame
) -> pd.DataFrame:
    """Lay three metrics out for each method as paper B's Table 3 does, the paper's beside.

    ``level`` by (metric, method); a metric that it lacks was not tested. ``theirs`` has a row
    for each of the paper's methods.
    """
    rows = []
    for method in dict.fromkeys(method for _, method in level):
        row: dict[str, Any] = {"method": NAMES[method]}
        for metric, title in TITLES.items():
            found = level.get((metric, method))
            row[title] = "not tested" if found is None else format(found, ".3f")
            row[f"{title}, paper"] = theirs.loc[PAPER_NAMES[method], metric]
        rows.append(row)
    return pd.DataFrame(rows)


# --- Table 4 ---------------------------------------------------------------------------


def specificity_exhibit(
    level: Mapping[tuple[str, int], Estimate], theirs: pd.DataFrame, system: str
) -> pd.DataFrame:
    """Lay S@m of related and random tokens out as paper B's Table 4 does, the paper's below.

    ``level`` by (kind, m); ``theirs`` of the paper's ``system`` has a row for each kind, and
    may lack an m.
    """
    ms = list(dict.fromkeys(m for _, m in level))
    ours = [_row(kind, {m: format(level[kind, m], ".3f") for m in ms}) for kind in KINDS]
    paper = [
        _row(f"{kind}, {system} in the paper", {m: theirs.loc[kind].get(f"S@{m}", "") for m in ms})
        for kind in KINDS
    ]
    return pd.DataFrame([*ours, *paper])


def _row(tokens: str, cells: Mapping[int, Any]) -> dict[str, Any]:
    return {"tokens": tokens, **{f"S@{m}": cell for m, cell in cells.items()}}


@dataclass(frozen=True)
class PaperSpecificity:
    """What paper B's Table 4 says of related and random tokens; NaN for an m that it lacks.

    ``gap`` between them at m; ``fall`` from the first m to this one, ``keeps`` the share that is
    left; ``luck`` what random tokens get of what related ones get.
    """

    gap: float
    fall: float
    keeps: float
    luck: float


def specificity_of_paper(theirs: pd.DataFrame, first: int, m: int) -> PaperSpecificity:
    """Read the comparisons off the paper's table: ``theirs`` has a row for each kind."""
    at = theirs.reindex(columns=[f"S@{first}", f"S@{m}"]).set_axis(["first", "m"], axis=1)
    related, luck = at.loc["related"], at.loc["random"]
    return PaperSpecificity(
        float(related["m"] - luck["m"]),
        float(related["first"] - related["m"]),
        float(related["m"] / related["first"]),
        float(luck["m"] / related["m"]),
    )


def turned_round(found: Specificity) -> float:
    """Return in what share of images the best neuron's activation is negative.

    Such a neuron writes the opposite of what its write vector names.
    """
    return float((found.scores.drop_duplicates("image")["activation"] < 0).mean())


# --- Figure 5 --------------------------------------------------------------------------


def with_several(heats: Sequence[HeatMap]) -> list[HeatMap]:
    """Keep the images of more than one concept, all where there is none."""
    several = [heat for heat in heats if len(heat.concepts) > 1]
    return several or list(heats)


def richest(heats: Sequence[HeatMap], n: int = 3) -> list[HeatMap]:
    """Take ``n`` images with most concepts, the first among equals."""
    return sorted(heats, key=lambda heat: -len(heat.concepts))[:n]


def scores_of(heats: Sequence[HeatMap]) -> pd.DataFrame:
    """List the scores of all images, as ``HeatMap.frame``."""
    return pd.concat([heat.frame() for heat in heats])


def own_highest(heats: Sequence[HeatMap]) -> pd.DataFrame:
    """Say of each image whether its neurons score highest for their own concept: a row each.

    ``own`` is the share that does, ``chance`` one of the concepts, ``doubled`` whether two
    concepts have the same top neuron, which can be right for one of them at most.
    """
    return pd.DataFrame(
        {
            "image": [heat.image for heat in heats],
            "own": [heat.own_highest for heat in heats],
            "chance": [1 / len(heat.concepts) for heat in heats],
            "doubled": [len(set(heat.neurons)) < len(heat.neurons) for heat in heats],
        }
    )


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
    pictures, targets = next(pair.batches(len(pair)))
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
