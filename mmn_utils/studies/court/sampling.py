"""The truth of a system with too many units to try each: a sample by score, and what it tells.

Units are ordered by the size of a score. The top is measured whole; behind it strata follow, each
a multiple longer than the one before, and of each as many units are drawn. What is lost tends to
fall with the score, so the sample is densest where it matters, and yet no unit is without a
chance. Totals over all units are then estimated without bias, whatever the score is worth.

Intervals: that of each stratum (of sums as ``measures.intervals.of_means``, of counts exact), put
together by their distances from the middle, upwards and downwards apart (Zou and Donner 2008). So
a stratum of which no unit that was drawn counts still leaves room above. The lower ends of counts
are added plainly: where one unit of twenty counts, its stratum's middle lies far above it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import hypergeom

from mmn_utils.measures import intervals
from mmn_utils.measures.estimates import Estimate

_ROUNDING = 1e-6  # of sums of counts
FEWEST = 8  # units drawn of a stratum: intervals of fewer do not cover


@dataclass(frozen=True, eq=False)
class Sample:
    """Which units are measured: ``stratum`` (layers, units), 0 the top, and ``chosen``, a mask."""

    stratum: np.ndarray
    chosen: np.ndarray

    @property
    def units(self) -> dict[int, list[int]]:
        """The units to measure by layer, as ``neurons.truth.exact_losses`` takes them."""
        found = {layer: np.flatnonzero(row).tolist() for layer, row in enumerate(self.chosen)}
        return {layer: some for layer, some in found.items() if some}

    def measured(self, values: np.ndarray) -> list[tuple[int, np.ndarray]]:
        """Return each stratum's size and its measured values, of values (layers, units).

        ``ValueError`` where one that was chosen was not measured.
        """
        if values.shape != self.chosen.shape:
            raise ValueError(f"values of {values.shape} for a sample of {self.chosen.shape}")
        if not np.isfinite(values[self.chosen]).all():
            raise ValueError("a unit of the sample was not measured; measure all of sample.units")
        strata = range(int(self.stratum.max()) + 1)
        inside = [self.stratum == one for one in strata]
        return [(int(mask.sum()), values[mask & self.chosen].astype(float)) for mask in inside]


def stratified(
    scores: np.ndarray, rng: np.random.Generator, *, top: int = 100, each: int = 64, growth=2.0
) -> Sample:
    """Draw units by the size of their scores (layers, units): all of the top, ``each`` behind.

    The first stratum behind the top has ``top`` units or ``each``, and every further one
    ``growth`` times as many; the last takes what is left. ``ValueError`` for scores that are no
    numbers, fewer than eight of a stratum, and strata that do not grow.
    """
    if scores.ndim != 2 or not np.isfinite(scores).all():
        raise ValueError(f"scores of {scores.shape}: give a number for each unit, (layers, units)")
    if top < 1 or each < FEWEST or growth < 1:
        raise ValueError(
            f"top = {top}, each = {each}, growth = {growth}: give a top of 1 or more, {FEWEST} or "
            "more of each stratum, and strata that grow"
        )
    order = np.argsort(-np.abs(scores), axis=None, kind="stable")
    stratum, chosen = np.empty(scores.size, int), np.zeros(scores.size, bool)
    start = 0
    for number, length in enumerate(_lengths(scores.size, top, each, growth)):
        inside = order[start : start + length]
        stratum[inside], start = number, start + length
        count = length if number == 0 else min(each, length)
        chosen[rng.choice(inside, count, replace=False)] = True
    return Sample(stratum.reshape(scores.shape), chosen.reshape(scores.shape))


def _lengths(units: int, top: int, each: int, growth: float) -> list[int]:
    """Return how long the top and the strata behind it are; the last takes what is left."""
    found, length = [min(top, units)], max(top, each)
    while rest := units - sum(found):
        found.append(rest if rest < length * (1 + growth) else length)
        length = round(length * growth)
    return found


def total(sample: Sample, values: np.ndarray) -> Estimate:
    """Estimate the sum of values over all units, from those measured (layers, units)."""
    return _summed(sample.measured(np.asarray(values)), _of_means)


def count_of(sample: Sample, values: np.ndarray, threshold: float) -> Estimate:
    """Estimate how many of all units have a value of ``threshold`` or more."""
    return _counted(_reaching(sample, values, threshold))


def recall(sample: Sample, values: np.ndarray, threshold: float) -> Estimate:
    """Estimate which share of all units with a value of ``threshold`` or more the top holds.

    ``ValueError`` where no unit that was measured has one.
    """
    top, *rest = _reaching(sample, values, threshold)
    inside = float(top[1].sum())
    if not inside and not any(part.any() for _, part in rest):
        raise ValueError(f"no unit that was measured reaches {threshold}; lower the threshold")
    if not rest:
        return Estimate(1.0, 1.0, 1.0, top[0])
    behind = _counted(rest)
    bounds = (behind.value, behind.high, behind.low)
    value, low, high = (inside / (inside + others) for others in bounds)
    return Estimate(value, low, high, top[0] + behind.n)


def _reaching(sample: Sample, values: np.ndarray, threshold: float):
    """Say of each stratum's measured units which reach the threshold, as 0 and 1."""
    parts = sample.measured(np.asarray(values))
    return [(size, (part >= threshold).astype(float)) for size, part in parts]


def _of_means(size: int, part: np.ndarray) -> tuple[float, float]:
    """Return the interval of a stratum's sum, narrowed by the share of it that was measured."""
    low, high = intervals.of_means(part)
    narrowed = np.sqrt(1 - len(part) / size)
    return tuple(size * (part.mean() + narrowed * (end - part.mean())) for end in (low, high))


def _of_counts(size: int, part: np.ndarray) -> tuple[float, float]:
    """Return the exact interval of how many of a stratum count, given those of a part that do.

    All numbers of which so few, or so many, would be drawn with a chance of 2.5 % or more.
    """
    drawn, hits = len(part), int(part.sum())
    possible = np.arange(hits, size - drawn + hits + 1)
    tail = (1 - intervals.LEVEL) / 2
    many = hypergeom.sf(hits - 1, size, possible, drawn) >= tail
    few = hypergeom.cdf(hits, size, possible, drawn) >= tail
    inside = possible[many & few]
    return float(inside.min()), float(inside.max())


def _counted(parts) -> Estimate:
    """Add up strata of 0 and 1; the lowest numbers plainly, as a rare one weighs too much else."""
    found = _summed(parts, _of_counts)
    low = sum(
        part.sum() if len(part) == size else _of_counts(size, part)[0] for size, part in parts
    )
    return Estimate(found.value, float(low), float(np.floor(found.high + _ROUNDING)), found.n)


def _summed(parts, interval_of) -> Estimate:
    """Add up strata, given as (size, measured values), and the reaches of their intervals."""
    value = down = up = 0.0
    for size, part in parts:
        middle = size * part.mean()
        value += middle
        if len(part) < size:
            low, high = interval_of(size, part)
            down += (middle - low) ** 2
            up += (high - middle) ** 2
    count = sum(len(part) for _, part in parts)
    return Estimate(float(value), float(value - down**0.5), float(value + up**0.5), count)
