"""What the court found, over pictures: means with intervals, the best score, and its distance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from mmn_utils.measures.estimates import Estimate, mean_of, ratio_of, share_of
from mmn_utils.neurons.together import QUESTIONS
from mmn_utils.studies.court.judging import TOPS
from mmn_utils.studies.court.scores import EXACT, EXACT_LOGIT, GRADIENT, PATH, RANDOM
from mmn_utils.studies.court.together import additivity

SHARES = (*(f"top_{k}" for k in TOPS), "signs")  # measures that lie between 0 and 1
MEASURES = ("rank", *SHARES, "slope")
ALIKE = 0.01  # rank correlations that differ by less are one
BEST, SECOND, CLOSEST = "best", "second", "closest"


def family(score: str) -> str:
    """Return the kind of a score: the first word of its name."""
    return score.partition("_")[0]


def means(judged: pd.DataFrame) -> pd.DataFrame:
    """Average each measure over pictures: question, score, measure, mean, low, high, n.

    Over those that have it; of one that none has there is no row. Intervals as those of claims.
    """
    rows = []
    for (question, score), some in judged.groupby(["question", "score"], sort=False):
        for measure in MEASURES:
            if len(values := some[measure].dropna()):
                found = (share_of if measure in SHARES else mean_of)(values)
                ends = (found.value, found.low, found.high, found.n)
                rows.append((question, score, measure, *ends))
    return pd.DataFrame(rows, columns=["question", "score", "measure", "mean", "low", "high", "n"])


def placed(judged: pd.DataFrame, measure: str = "rank") -> pd.DataFrame:
    """Say which score orders units best for each question, and which is next: column ``place``.

    By the mean over pictures. Next is the best one of another kind, since scores of one kind (a
    few steps more) are hardly two; all others have no place. Column ``role``: the one gradient,
    and integrated gradients of most steps, however many those are.
    """
    by = judged.groupby(["question", "score"], sort=False)[measure].mean()
    place = {}
    for question in QUESTIONS:
        order = by[question].drop(RANDOM).sort_values(ascending=False, kind="stable").index
        others = [score for score in order if family(score) != family(order[0])]
        place |= {(question, order[0]): BEST, (question, others[0]): SECOND}
    keys = zip(judged["question"], judged["score"], strict=True)
    role = {GRADIENT: GRADIENT, path_of(judged["score"]): PATH}
    return judged.assign(
        place=[place.get(key, "") for key in keys],
        role=[role.get(score, "") for score in judged["score"]],
    )


def path_of(scores: Iterable[str]) -> str:
    """Name the score that integrates gradients in most steps; nothing where none does."""
    paths = [score for score in scores if family(score) == PATH]
    return max(paths, key=lambda score: int(score.rpartition("_")[2]), default="")


def winners(placed: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Name the scores in their places: {question: {place: score}}."""
    some = placed[placed["place"] != ""]
    keys = zip(some["question"], some["place"], some["score"], strict=True)
    found: dict[str, dict[str, str]] = {question: {} for question in QUESTIONS}
    for question, place, score in keys:
        found[question][place] = score
    return found


def areas(curves: pd.DataFrame) -> pd.DataFrame:
    """Average curves over k: image, question, score, ``left``, and the ``place`` of two of them.

    ``exact``, and the one that is ``closest`` to it or below, by the mean over pictures.
    """
    keys = ["image", "question", "score"]
    found = curves.groupby(keys, sort=False)["left"].mean().reset_index()
    by = found.groupby(["question", "score"], sort=False)["left"].mean()
    nearest = {question: by[question].drop([EXACT, EXACT_LOGIT]).idxmin() for question in QUESTIONS}
    return found.assign(
        place=[
            EXACT if score == EXACT else CLOSEST if nearest[question] == score else ""
            for question, score in zip(found["question"], found["score"], strict=True)
        ]
    )


def curve_means(curves: pd.DataFrame) -> pd.DataFrame:
    """Average curves over pictures: question, score, k, mean, low, high, n."""
    rows = []
    for (question, score, k), some in curves.groupby(["question", "score", "k"], sort=False):
        found = mean_of(some["left"])
        rows.append((question, score, k, found.value, found.low, found.high, found.n))
    return pd.DataFrame(rows, columns=["question", "score", "k", "mean", "low", "high", "n"])


def adding_up(curves: pd.DataFrame) -> pd.DataFrame:
    """Say what the truly first k take together, over the sum of what each takes alone.

    question, k, mean, low, high, n: of the logit, all pictures' joint losses over all sums.
    """
    rows = []
    exact = curves[curves["score"] == EXACT_LOGIT]
    for (question, k), some in exact.groupby(["question", "k"], sort=False):
        found = ratio_of(some["lost"], some["alone"])
        rows.append((question, k, found.value, found.low, found.high, found.n))
    return pd.DataFrame(rows, columns=["question", "k", "mean", "low", "high", "n"])


def given_back(repair: pd.DataFrame) -> pd.DataFrame:
    """Say what share of the direct loss the layers above give back: layer, mean, low, high, n.

    All totals over all direct losses, so that pictures count by what they have to lose. No bounds
    in a layer whose direct losses cannot be told from none: there the mean is not to be read.
    """
    rows = []
    for layer, some in repair.groupby("layer"):
        found = ratio_of(some["direct"] - some["total"], some["direct"])
        value = 1 - some["total"].sum() / some["direct"].sum()
        rows.append((layer, value, found.low, found.high, found.n))
    return pd.DataFrame(rows, columns=["layer", "mean", "low", "high", "n"])


def as_table(
    means: pd.DataFrame, costs: pd.DataFrame, names: Mapping[str, str], questions: Mapping[str, str]
) -> pd.DataFrame:
    """Lay the verdicts out for a reader: a row for each question and score, the best first.

    ``costs`` as of ``trial.costs``, with ``time`` where it has been measured of the system.
    """
    by_cost, rows = costs.set_index("score").dropna(axis="columns", how="all"), []
    for question, some in means.groupby("question", sort=False):
        wide = {score: part.set_index("measure") for score, part in some.groupby("score")}
        order = sorted(wide, key=lambda score: -wide[score]["mean"].get("rank", -2.0))
        for score in order:
            cells = {measure: _cell(wide[score], measure) for measure in MEASURES}
            prices = by_cost.loc[score]
            cells |= {name: _price(prices[name], digits)
                      for name, digits in DIGITS.items() if name in by_cost}  # fmt: skip
            rows.append({"units off": questions[question], "score": names[score], **cells})
    return pd.DataFrame(rows).rename(columns=HEADS)


HEADS = {
    "rank": "rank correlation",
    **{f"top_{k}": f"of the true top {k}" for k in TOPS},
    "signs": "wrong signs",
    "slope": "slope",
    "passes": "operations",
    "time": "processor time",
}
NONE = "–"
DIGITS = {"passes": 3, "time": 3, "memory": 2}  # of costs


def _price(value: float, digits: int) -> str:
    """Write a cost; a dash where it was not measured."""
    return NONE if pd.isna(value) else f"{value:.{digits}g}"


def _cell(found: pd.DataFrame, measure: str) -> str:
    """Write a mean with its interval; a dash where the score does not answer."""
    if measure not in found.index:
        return NONE
    row = found.loc[measure]
    return f"{Estimate(row['mean'], row['low'], row['high'], int(row['n'])):.2f}"


def numbers_together(pairs: pd.DataFrame, curves: pd.DataFrame, repair: pd.DataFrame):
    """Lay out what is judged of units together, of three kinds (``kind``), one below the other.

    ``pairs``: how each picture's pairs add up; ``lists``: what its truly first k take (``lost``)
    and each alone (``alone``); ``repair``: direct and total losses by layer.
    """
    lists = curves.loc[curves["score"] == EXACT_LOGIT, ["image", "question", "k", "lost", "alone"]]
    parts = {"pairs": additivity(pairs), "lists": lists, "repair": repair}
    frames = [part.assign(kind=kind) for kind, part in parts.items()]
    columns = ["kind", "image", "question", "k", "layer"]
    found = pd.concat(frames, ignore_index=True)
    return found[[*columns, *(name for name in found if name not in columns)]]


def by_name(means: pd.DataFrame) -> dict[str, dict[str, dict[str, Estimate]]]:
    """Look means up in texts: {question: {score: {measure: estimate}}}."""
    found: dict[str, dict[str, dict[str, Estimate]]] = {}
    for row in means.itertuples():
        one = Estimate(row.mean, row.low, row.high, row.n)
        found.setdefault(row.question, {}).setdefault(row.score, {})[row.measure] = one
    return found


def bargains(rank: pd.DataFrame) -> dict[str, list[str]]:
    """Name the scores that order units better than all cheaper ones do: {question: scores}.

    ``rank`` has question, score, mean, high and passes; the cheapest first. Better is by more than
    ``ALIKE``; a random order counts as the cheapest, up to the end of its interval.
    """
    found = {}
    for question, some in rank.groupby("question", sort=False):
        best, found[question] = some.loc[some["score"] == RANDOM, "high"].max(), []
        some = some[some["score"] != RANDOM]
        some = some.sort_values(["passes", "mean"], ascending=[True, False], kind="stable")
        for score, value in zip(some["score"], some["mean"], strict=True):
            if value > best + ALIKE:
                found[question].append(score)
                best = value
    return found
