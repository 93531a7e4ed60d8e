"""Units together: do the losses of two add up, and what do the layers above give back?"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from mmn_utils.models.base import Prompt
from mmn_utils.neurons.direct import direct_losses
from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import Target
from mmn_utils.neurons.together import lost_together
from mmn_utils.studies.court.judging import first

ADDITIVE = 0.05  # of the sum: a joint loss that is so near to it counts as adding up
PAIR = ["first_layer", "first_unit", "second_layer", "second_unit"]


def pair_rows(
    model,
    prompt: Prompt,
    target: Target,
    losses: np.ndarray,
    *,
    top: int = 50,
    positions: str = "all",
    batch_size: int = 32,
) -> pd.DataFrame:
    """Ablate all pairs of the truly first ``top`` units: a row for each pair.

    ``losses`` (layers, units) of the logit, each unit alone. Columns ``PAIR``, the lower layer
    first; ``sum`` of both losses alone, the ``joint`` one, and ``interaction``, joint less sum.
    ``ValueError`` for fewer than two units.
    """
    known = int(np.isfinite(losses).sum())
    if not 2 <= top <= known:
        raise ValueError(f"top={top}: give 2 to {known} units, as many as have a truth")
    flat = np.where(np.isfinite(losses), losses, -np.inf).ravel()
    chosen = sorted(first(flat, top).tolist())  # by address, so the lower layer comes first
    pairs = list(combinations(chosen, 2))
    units = {place: Neuron(*divmod(place, losses.shape[1])) for place in chosen}
    sets = [(units[one], units[other]) for one, other in pairs]
    joint = lost_together(
        model, prompt, target, sets, positions=positions, batch_size=batch_size
    ).logit
    alone = np.array([flat[one] + flat[other] for one, other in pairs], np.float32)
    rows = [(one.layer, one.unit, other.layer, other.unit) for one, other in sets]
    found = {"sum": alone, "joint": joint, "interaction": joint - alone}
    return pd.DataFrame(rows, columns=PAIR).assign(**found)


def additivity(rows: pd.DataFrame, per: str = "image") -> pd.DataFrame:
    """Say of each image how its pairs add up: one row an image.

    Shares ``sub`` (they take less than the sum by more than ``ADDITIVE`` of it), ``super`` and
    ``additive``; ``kept``, all joint losses over all sums; ``size``, the mean of interactions
    over the sum, either way. Pairs whose sum is not above 0 are no losses, and left out.
    """
    rows = rows[rows["sum"] > 0]
    away = rows["interaction"] / rows["sum"]
    marked = rows.assign(
        sub=away < -ADDITIVE,
        super=away > ADDITIVE,
        additive=away.abs() <= ADDITIVE,
        size=away.abs(),
    )
    by = marked.groupby(per, sort=False)
    found = by[["sub", "super", "additive", "size"]].mean()
    return found.assign(kept=by["joint"].sum() / by["sum"].sum()).reset_index()


def repair_rows(
    model, prompt: Prompt, target: Target, losses: np.ndarray, *, top: int = 20
) -> pd.DataFrame:
    """Compare direct and total losses of the logit, layer by layer: a row a layer.

    ``losses`` (layers, units) when each unit alone is off at the predicting step. ``direct`` and
    ``total`` are sums over the ``top`` units of the layer that directly give most, which does
    not ask what the total came to; ``units`` counts them. A layer without such units has no row.
    """
    if top < 1:
        raise ValueError(f"top={top}: give a number of units, 1 or more")
    direct = direct_losses(model, prompt, target).cpu().numpy()
    rows = []
    for layer, (given, total) in enumerate(zip(direct, losses, strict=True)):
        able = np.where(np.isfinite(total), given, -np.inf)
        some = [unit for unit in first(able, top) if able[unit] > 0]
        if some:
            rows.append((layer, float(given[some].sum()), float(total[some].sum()), len(some)))
    return pd.DataFrame(rows, columns=["layer", "direct", "total", "units"])
