"""What a word loses without each unit of a system alone: all of them, exactly, and fast.

How a unit is taken away, and where a pass then begins, ``without`` tells.

**Operations**, a multiplication and an addition each counted. Let a layer's matrices have P
entries, of which K make keys and values, its attention a width of A, and T tokens be read; V by d
is the unembedding. A token of a layer costs 2 P, and 4 T A for attention over T tokens. Then a
unit of layer l, of L, costs at all positions

    (L - 2 - l) T (2 P + 4 T A)  +  2 (T - 1) K + (2 P + 4 T A)  +  2 V d

(the layers between; the last one; the logits), at the predicting step

    (L - 1 - l) (2 P + 4 T A)  +  2 V d

and 2 V d in the last layer. One pass over the prompt serves all. ``derived_operations`` adds up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from mmn_utils.models.products import is_plain
from mmn_utils.models.prompts import Prompt
from mmn_utils.neurons.targets import Target, teacher_forced
from mmn_utils.neurons.together import both, ended, where
from mmn_utils.neurons.without import Without


@dataclass(frozen=True)
class Losses:
    """What y loses when each unit alone is off; negative where it gains.

    ``logit`` and ``probability`` (layers, units) float32, NaN for units that were not asked for;
    ``whole`` the two of the untouched model.
    """

    logit: np.ndarray
    probability: np.ndarray
    whole: tuple[float, float]


@torch.no_grad()
def exact_losses(
    model,
    prompt: Prompt,
    target: Target,
    *,
    units: Mapping[int, Sequence[int]] | None = None,
    positions: str = "all",
    batch_size: int = 32,
) -> Losses:
    """Measure what the target's logit and probability lose when each unit alone is set to zero.

    ``prompt`` of one image, behind which the target's prefix is read; ``units`` {layer: units},
    None for all. ``positions`` where they are off: ``all``, ``image`` (the pieces of the picture)
    or ``step`` (the last position, which predicts the target). At most ``batch_size`` rows run
    together, fewer on a CPU where that is faster. ``ValueError`` for a prompt of several images,
    units that are not there, and other positions.
    """
    asked = _asked(model, units)
    if len(prompt) != 1:
        raise ValueError(f"a prompt of {len(prompt)} images: give one, prompt.select([row])")
    forced = ended(teacher_forced(model, prompt, [target.prefix]))
    places = where(model, forced, positions)
    without = Without.of(model, forced, asked, places, batch_size)
    read = partial(both, target)
    found = np.full((2, model.sizes.layers, model.sizes.units), np.nan, np.float32)
    whole = read(without.logits)
    for layer, some in asked.items():
        found[:, layer, some] = (whole - without.alone(layer, some, read)).cpu().numpy()
    return Losses(found[0], found[1], (float(whole[0]), float(whole[1])))


def derived_operations(
    model, tokens: int, counts: Mapping[int, int], positions: str = "all"
) -> float:
    """Add up the operations of ``exact_losses`` that the module's text derives.

    ``tokens`` of the prompt with the target's prefix, ``counts`` {layer: units taken away}; one
    pass over the prompt is among them. ``image`` costs what ``all`` does. For an architecture in
    which a pass can begin at any layer.
    """
    sizes, last = model.sizes, model.sizes.layers - 1
    costs = [_costs(model, layer) for layer in range(sizes.layers)]
    whole = [2 * every + 4 * tokens * width for every, _, width in costs]  # of a token
    read = 2 * sizes.vocabulary * sizes.width
    total = tokens * sum(whole) + read
    for layer, count in counts.items():
        above = 0.0
        if positions == "step":
            above = sum(whole[layer + 1 :])
        elif layer < last:
            above = tokens * sum(whole[layer + 1 : last]) + whole[last]
            above += 2 * (tokens - 1) * costs[last][1]
        total += count * (above + read)
    return float(total)


def _costs(model, layer: int) -> tuple[int, int, int]:
    """Count a layer's entries of matrices, those that make keys and values, attention's width."""
    parts, module = model.architecture, model.layer(layer)
    every = {name: m.weight.numel() for name, m in module.named_modules() if is_plain(m)}
    mlp, out = parts.pre.rpartition(".")[0], parts.attention_of(layer)
    spared = [name for name in every if name in (parts.query, out) or name.startswith(f"{mlp}.")]
    keys = sum(every.values()) - sum(every[name] for name in spared if mlp)
    return sum(every.values()), keys, module.get_submodule(out).in_features


def _asked(model, units: Mapping[int, Sequence[int]] | None) -> dict[int, list[int]]:
    """Return the units of each layer, each once, in order; ``ValueError`` for others."""
    sizes = model.sizes
    if units is None:
        return {layer: list(range(sizes.units)) for layer in range(sizes.layers)}
    for layer, some in units.items():
        wrong = [unit for unit in some if not 0 <= unit < sizes.units]
        if not 0 <= layer < sizes.layers or wrong:
            unit = wrong[0] if wrong else 0
            raise ValueError(
                f"L{layer}.u{unit} is not in this model: it has layers 0 to {sizes.layers - 1} "
                f"of units 0 to {sizes.units - 1}"
            )
    return {layer: sorted({*map(int, some)}) for layer, some in sorted(units.items()) if len(some)}
