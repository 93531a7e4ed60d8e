"""What the top neurons of several images have in common, over all concepts: paper B's Figure 4.

Beside the paper's count, of images of one concept, the same count for images of different
concepts: neurons that stand high whatever is shown are in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mmn_utils.measures.estimates import Estimate, difference_of, frame_of, mean_of, means_of
from mmn_utils.studies.concepts.invariance import chance, cross_image_invariance, unrelated_images

OURS, OTHER = "contribution", "attribution"


@dataclass(frozen=True, eq=False)
class Sharing:
    """Shares of the top k that N images have in common, by method, at each N and k asked.

    ``same[method]`` as from ``cross_image_invariance``, ``different[method]`` as from
    ``unrelated_images``. What is said of one N and one k is said of ``n`` and ``k``: the largest
    N that enough concepts reach (``most_images``), and the k asked for.
    """

    same: Mapping[str, pd.DataFrame]
    different: Mapping[str, pd.DataFrame]
    k: int
    seed: int = 0

    @property
    def n(self) -> int:
        """The number of images that claims are about."""
        return most_images(self.same[OURS])

    @property
    def ratios(self) -> pd.DataFrame:
        """The share of each concept at ``n`` and ``k``: a row a concept, a column a method."""
        return pd.DataFrame(
            {method: self._at(found).set_index("concept")["ratio"]
             for method, found in self.same.items()}
        )  # fmt: skip

    @property
    def share(self) -> dict[str, Estimate]:
        """The mean over concepts at ``n`` and ``k``, by method."""
        return means_of(self.ratios, self.seed)

    @property
    def floor(self) -> dict[str, Estimate]:
        """The same for images of different concepts, over draws."""
        pairs = self.different.items()
        return means_of({name: self._at(found)["ratio"] for name, found in pairs}, self.seed)

    @property
    def gap(self) -> Estimate:
        """How much more contribution shares than attribution, concept by concept."""
        ratios = self.ratios
        return difference_of(ratios[OURS], ratios[OTHER], self.seed)

    @property
    def beyond(self) -> Estimate:
        """How much more images of one concept share by contribution than unrelated ones do."""
        return mean_of(self.ratios[OURS] - self.floor[OURS].value, self.seed)

    def most_frequent(self, concepts: int = 8) -> pd.DataFrame:
        """Take the ratios of the concepts that are in most images, those first."""
        images = self._at(self.same[OURS]).set_index("concept")["images"]
        order = images.sort_values(ascending=False, kind="stable").index[:concepts]
        return self.ratios.loc[order]

    def curves(self) -> pd.DataFrame:
        """Average over concepts: n, mean, low, high, cases, k, method, concept.

        ``concept`` is same or different; ``cases`` are concepts, or draws of unrelated images.
        """
        kinds = {"same": self.same, "different": self.different}
        parts = [
            _curve(found[method].query("k == @k"), self.seed).assign(
                k=k, method=method, concept=kind
            )
            for k in self.same[OURS]["k"].drop_duplicates()
            for method in self.same
            for kind, found in kinds.items()
        ]
        return pd.concat(parts)

    def _at(self, found: pd.DataFrame) -> pd.DataFrame:
        return found[(found["n"] == self.n) & (found["k"] == self.k)]


def _curve(found: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Average the ratios at each number of images."""
    each = {(n,): mean_of(ratios, seed) for n, ratios in found.groupby("n")["ratio"]}
    return frame_of(each, ["n"]).set_axis(["n", "mean", "low", "high", "cases"], axis=1)


def sharing(
    tables: Mapping[str, pd.DataFrame],
    *,
    ns: Sequence[int],
    ks: Sequence[int],
    k: int,
    draws: int = 10,
    seed: int = 0,
) -> Sharing:
    """Count what ``ns`` images share, by each method's neuron table.

    ``draws`` random choices of the images of a concept, ten times as many of unrelated ones.
    ``k`` is one of ``ks``. ValueError where no concept is in two photographs.
    """
    if k not in ks:
        raise ValueError(f"k = {k} is not among ks = {list(ks)}; add it there")
    options = {"ns": ns, "ks": ks, "seed": seed}
    same, different = {}, {}
    for method, table in tables.items():
        same[method] = cross_image_invariance(table, draws=draws, **options)
        different[method] = unrelated_images(table, draws=10 * draws, **options)
    return Sharing(same, different, k, seed)


def most_images(ratios: pd.DataFrame, least: int = 5) -> int:
    """Return the largest N that ``least`` concepts reach, else the N that most concepts reach.

    ``ratios`` as from ``invariance.cross_image_invariance``; a mean over two concepts says
    little. ValueError where no concept is in enough images.
    """
    if ratios.empty:
        raise ValueError("no concept is in two photographs or more; take more photographs")
    reached = ratios.groupby("n")["concept"].nunique()
    enough = reached[reached >= least]
    return int(enough.index.max() if len(enough) else reached.idxmax())


def by_chance(ns: Sequence[int], ks: Sequence[int], neurons: int) -> pd.DataFrame:
    """Return what random sets share: a row for each number of images, a column for each k."""
    shares = np.array([[chance(k, neurons, n) for k in ks] for n in ns])
    return pd.DataFrame(shares, index=pd.Index(ns, name="n"), columns=list(ks))
