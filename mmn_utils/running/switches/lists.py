"""How much of the lists of top units a switch leaves: what notebooks ranked, compared."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from mmn_utils.measures.estimates import Estimate, share_of
from mmn_utils.neurons.table import neurons_of

KS = (20, 100)
ATTRIBUTION, CONTRIBUTION = "02_attribution", "05_llava_contribution_scoring"
RANKING = (ATTRIBUTION, CONTRIBUTION)  # notebooks whose lists are compared: each paper's own


def top_list(notebook: str, asked: Mapping[str, Any], cache: Path) -> pd.DataFrame:
    """Return the neuron table that a notebook ranked with some parameters: loaded, or computed.

    Paper A's by attribution, a list for each picture; paper B's by contribution, one for each
    concept.
    """
    from mmn_utils.running.stages import COMPUTE, _loaded

    with _cached_in(cache):
        system, photographs = _loaded(dict(asked))
        if notebook == ATTRIBUTION:
            return COMPUTE["attribution"](system, photographs, dict(asked))
        return COMPUTE["concepts"](system, photographs, dict(asked))[asked["activation"]][
            "contribution"
        ]


@contextmanager
def _cached_in(cache: Path) -> Iterator[None]:
    before = os.environ.get("MMN_CACHE")
    os.environ["MMN_CACHE"] = str(cache)
    try:
        yield
    finally:
        os.environ.pop("MMN_CACHE") if before is None else os.environ.update(MMN_CACHE=before)


def overlaps(usual: pd.DataFrame, put: pd.DataFrame) -> dict[int, Estimate]:
    """Return the share of each list's first k units that are among the other's, for each k.

    Lists of the same picture and the same noun alone; of several nouns of a picture the mean, so
    that a picture counts once. ValueError where no list is of the same noun.
    """
    first, second = ({key: neurons_of(part) for key, part in _lists(t)} for t in (usual, put))
    both = [key for key in first if key in second]
    if not both:
        raise ValueError("no picture has the same noun by both; nothing can be compared")
    found = {}
    for k in KS:
        shares = {key: _share(first[key], second[key], k) for key in both}
        means = pd.Series(list(shares.values())).groupby([image for image, _ in shares]).mean()
        found[k] = share_of(means.to_numpy())
    return found


def _lists(table: pd.DataFrame) -> Iterator[tuple[Any, pd.DataFrame]]:
    once = table.drop_duplicates(["image", "target", "layer", "unit"])
    return iter(once.groupby(["image", "target"], sort=False))


def _share(first: list, second: list, k: int) -> float:
    if len(first) < k:
        raise ValueError(f"a list has {len(first)} units, {k} are compared; score more")
    return len(set(first[:k]) & set(second[:k])) / k
