"""What the top neurons of several images have in common, over all concepts: paper B's Figure 4.

Beside the paper's count, of images of one concept, the same count for one of them and images of
other concepts: neurons that stand high whatever is shown are in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mmn_utils.datasets.base import TooFew
from mmn_utils.measures.estimates import frame_of, share_of
from mmn_utils.studies.annotations import named_by
from mmn_utils.studies.concepts.invariance import chance, cross_image_invariance, unrelated_images
from mmn_utils.studies.concepts.scoring import GATE, with_all_methods
from mmn_utils.studies.subjects import Subjects

METHODS = ("contribution", f"contribution{GATE}", "attribution")  # in this order, drawn and listed
SAME, UNRELATED = "same", "different"
APART = "_unrelated"  # behind a method's name: images of other concepts


@dataclass(frozen=True, eq=False)
class Sharing:
    """Shares of the top k that N images have in common, at each N and k asked.

    ``rows``: a row for each concept, n and k: concept, images (that have it), object (is it
    annotated as one?), n, k, and two columns a method: ``<method>`` for images of the concept,
    ``<method>_unrelated`` for one of them and images of others. ``spread``: concept, n, k, method,
    low, high: between which 95 % of the choices of images lie. What is said of one N and one k
    is said of ``n``, the largest N that enough concepts reach (``most_images``), and ``k``.
    """

    rows: pd.DataFrame
    spread: pd.DataFrame
    methods: tuple[str, ...]
    n: int
    k: int

    @property
    def at(self) -> pd.DataFrame:
        """The rows at ``n`` and ``k``, by concept."""
        rows = self.rows
        return rows[(rows["n"] == self.n) & (rows["k"] == self.k)].set_index("concept")

    def shown(self, objects: int = 6, others: int = 2) -> pd.DataFrame:
        """Take some concepts at ``n`` and ``k``: those in most images, annotated objects first.

        Columns of ``at``, and ``<method>_low`` and ``<method>_high``. Where there are too few of
        one kind, the other kind fills up.
        """
        order = self.at.sort_values("images", ascending=False, kind="stable")
        things, rest = order[order["object"]], order[~order["object"]]
        more = max(0, others - len(rest)), max(0, objects - len(things))
        some = pd.concat([things[: objects + more[0]], rest[: others + more[1]]])
        spread = self.spread[(self.spread["n"] == self.n) & (self.spread["k"] == self.k)]
        wide = spread.pivot(index="concept", columns="method", values=["low", "high"])
        wide.columns = [f"{method}_{end}" for end, method in wide.columns]
        return some.join(wide)

    def curves(self, seed: int = 0) -> pd.DataFrame:
        """Average over concepts: method, concept, k, n, mean, low, high, cases.

        ``concept`` is same or different.
        """
        parts = {}
        for method in self.methods:
            for kind, column in ((SAME, method), (UNRELATED, f"{method}{APART}")):
                for (k, n), part in self.rows.groupby(["k", "n"]):
                    parts[method, kind, k, n] = share_of(part[column], seed)
        columns = ["method", "concept", "k", "n", "mean", "low", "high", "cases"]
        return frame_of(parts, columns[:4]).set_axis(columns, axis=1)


def sharing(
    tables: Mapping[str, pd.DataFrame],
    some: Subjects,
    *,
    ns: Sequence[int],
    ks: Sequence[int],
    k: int,
    draws: int = 10,
    seed: int = 0,
) -> Sharing:
    """Count what ``ns`` images share, by the neuron tables of ``METHODS`` that there are.

    ``draws`` random choices of the images of a concept, and as many of unrelated ones. ``some``
    are the concepts' photographs. ``k`` is one of ``ks``. An N for which there are too few images
    of other concepts has no rows. TooFew where no N has any.
    """
    if k not in ks:
        raise ValueError(f"k = {k} is not among ks = {list(ks)}; add it there")
    options = {"ns": ns, "ks": ks, "draws": draws, "seed": seed}
    keys, columns, spread = ["concept", "n", "k"], {}, []
    methods = tuple(method for method in METHODS if method in tables)
    for method in methods:
        table = tables[method]
        same = cross_image_invariance(table, **options)
        apart = unrelated_images(table, **options)
        columns[method] = same.set_index(keys)["ratio"]
        columns[f"{method}{APART}"] = apart.set_index(keys)["ratio"]
        images = same.set_index(keys)["images"]
        spread.append(same[[*keys, "low", "high"]].assign(method=method))
    rows = pd.DataFrame({"images": images}).join(pd.DataFrame(columns)).dropna().reset_index()
    if rows.empty:
        raise _too_few(table, min(ns))
    rows.insert(1, "object", rows["concept"].isin(annotated(some)))
    rows = with_all_methods(rows, [f"{method}{end}" for method in METHODS for end in ("", APART)])
    return Sharing(rows, pd.concat(spread), methods, most_images(rows), k)


def _too_few(table: pd.DataFrame, least: int) -> TooFew:
    """Say why there is nothing to compare: no noun is in enough captions, or no other one is."""
    images = table.groupby(table["target"].str.casefold())["image"].nunique()
    here = f"of the {table['image'].nunique()} photographs' captions"
    if images.max() < least:
        return TooFew(f"no noun is in {least} {here}; take more photographs of the same things")
    return TooFew(
        f"{images.max()} {here} have the noun {images.idxmax()!r}, and too few have another one to "
        "be compared with; take photographs of other things, too"
    )


def annotated(some: Subjects) -> set[str]:
    """Return the concepts, in lower case, that name an annotated object of their photograph."""
    pairs = zip(some.photographs, some.every, strict=True)
    return {
        target.noun.casefold()
        for photograph, targets in pairs
        for target in targets
        if named_by(photograph, target.noun)
    }


def most_images(ratios: pd.DataFrame, least: int = 5) -> int:
    """Return the largest N that ``least`` concepts reach, else the N that most concepts reach.

    ``ratios`` as from ``invariance.cross_image_invariance``; a mean over two concepts says
    little.
    """
    reached = ratios.groupby("n")["concept"].nunique()
    enough = reached[reached >= least]
    return int(enough.index.max() if len(enough) else reached.idxmax())


def by_chance(ns: Sequence[int], ks: Sequence[int], neurons: int) -> pd.DataFrame:
    """Return what random sets share: a row for each number of images, a column for each k."""
    shares = np.array([[chance(k, neurons, n) for k in ks] for n in ns])
    return pd.DataFrame(shares, index=pd.Index(ns, name="n"), columns=list(ks))
