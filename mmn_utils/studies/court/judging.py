"""How well a score finds the units that truly matter, judged by the exact losses of one case.

Everything is over the units that have a truth: all of them, or a sample; NaN stands for the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from mmn_utils.neurons.table import Neuron
from mmn_utils.studies.court.scores import EXACT, EXACT_LOGIT, Score

TOPS = (20, 100)
SIGNS_OF = 100  # truly first units whose signs are compared


def spearman(predicted: np.ndarray, true: np.ndarray) -> float:
    """Return Spearman's rank correlation of two flat arrays; NaN where one is constant."""
    ranks = [rankdata(values) - (len(values) + 1) / 2 for values in (predicted, true)]
    size = np.sqrt(np.square(ranks[0]).sum() * np.square(ranks[1]).sum())
    return float(ranks[0] @ ranks[1] / size) if size > 0 else float("nan")


def first(values: np.ndarray, k: int) -> np.ndarray:
    """Return the places of the ``k`` highest values, highest first; equal ones by their place."""
    if 0 < k < len(values):
        edge = np.partition(values, len(values) - k)[len(values) - k]  # the k-th highest
        above, at = np.flatnonzero(values > edge), np.flatnonzero(values == edge)
        at = at[: k - len(above)]
        if len(above) + len(at) == k:  # else some are no numbers, which a sort puts last
            return np.concatenate([above[np.argsort(-values[above], kind="stable")], at])
    return np.argsort(-values, kind="stable")[:k]


def recall(predicted: np.ndarray, true: np.ndarray, k: int) -> float:
    """Return the share of the truly first ``k`` that are among the predicted first ``k``.

    NaN where there are no more than ``k``: of all, all are found.
    """
    if k >= len(true):
        return float("nan")
    best = first(true, k)
    return float(np.isin(best, first(predicted, k)).mean())


def sign_errors(predicted: np.ndarray, true: np.ndarray, k: int) -> float:
    """Return the share of the truly first ``k``, which cost the noun, that are not said to."""
    best = first(true, k)
    costly = best[true[best] > 0]
    return float((predicted[costly] <= 0).mean()) if len(costly) else float("nan")


def slope(predicted: np.ndarray, true: np.ndarray) -> float:
    """Fit true = slope x predicted by least squares; NaN where nothing is predicted.

    1 where effects are as large as said, below where they are smaller.
    """
    size = float(predicted.astype(float) @ predicted)
    return float(predicted.astype(float) @ true / size) if size > 0 else float("nan")


def judged(predicted: np.ndarray, true: np.ndarray, score: Score) -> dict[str, float]:
    """Judge a score (layers, units) by the losses of the same shape: each measure by its name.

    Measures that the score does not answer to are NaN: signs of one without a sign, the
    calibration of one that names no effect. ``ValueError`` for other shapes, and where no
    unit has a truth.
    """
    if predicted.shape != true.shape:
        raise ValueError(f"a score {predicted.shape} and losses {true.shape}: give the same units")
    known = np.isfinite(true)
    if not known.any():
        raise ValueError("no unit has a truth to judge by; measure the losses of some first")
    predicted, true = predicted[known], true[known]
    found = {"rank": spearman(predicted, true)}
    found |= {f"top_{k}": recall(predicted, true, k) for k in TOPS}
    some = min(SIGNS_OF, len(true))
    found["signs"] = sign_errors(predicted, true, some) if score.signed else float("nan")
    found["slope"] = slope(predicted, true) if score.effect else float("nan")
    return found


def judged_rows(
    fields: Mapping[tuple[str, str], np.ndarray],
    losses: Mapping[str, np.ndarray],
    by_name: Mapping[str, Score],
) -> pd.DataFrame:
    """Judge all scores of a case for all questions: a row for each (question, score).

    ``fields`` by question and score, ``losses`` by question, (layers, units) each.
    """
    rows = [
        {"question": question, "score": name, **judged(values, losses[question], by_name[name])}
        for (question, name), values in fields.items()
    ]
    return pd.DataFrame(rows)


def orders(
    fields: Mapping[tuple[str, str], np.ndarray],
    losses: np.ndarray,
    chances: np.ndarray,
    question: str,
    most: int,
) -> dict[str, list[Neuron]]:
    """List the first ``most`` units by each score and by the truth: {score: neurons, best first}.

    Of the units that have a truth: ``losses`` of the logit, and ``chances``, those of the
    probability, whose order is ``EXACT``, since curves are of the probability.
    """
    known = np.isfinite(losses)
    own = {name: values for (asked, name), values in fields.items() if asked == question}
    found = {}
    for name, values in {EXACT: chances, EXACT_LOGIT: losses, **own}.items():
        flat = np.where(known, values, -np.inf).ravel()
        places = first(flat, min(most, int(known.sum())))
        found[name] = [Neuron(*map(int, divmod(place, losses.shape[1]))) for place in places]
    return found


def curve_sets(
    ordered: Mapping[str, Sequence[Neuron]], ks: Sequence[int]
) -> tuple[list[tuple[str, int]], list[tuple[Neuron, ...]]]:
    """List what curves ablate: pairs of score and k, and beside them the sets of neurons.

    ``ValueError`` for more neurons than an order has.
    """
    shortest = min(map(len, ordered.values()))
    if not ks or min(ks) < 1 or max(ks) > shortest:
        raise ValueError(f"ks={list(ks)}: give numbers of units from 1 to {shortest}")
    labels = [(name, k) for name in ordered for k in ks]
    return labels, [tuple(ordered[name][:k]) for name, k in labels]
