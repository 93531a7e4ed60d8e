"""Attribution: Z times dy/dZ at the image patches (paper A, Eq. 2), off one backward pass.

Where a caption's noun is predicted several tokens after the image, the caption up to it is
teacher-forced, so one pass holds the whole history.

A pass back needs all that the pass forward made, of every row at once. A CPU that has a few
hundred tokens before it goes no faster with more, so there a batch goes in parts of a few rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from itertools import chain
from math import ceil

import pandas as pd
import torch

from mmn_utils.memory import in_batches
from mmn_utils.models.base import Prompt
from mmn_utils.models.capture import capture, spare_last
from mmn_utils.neurons.ranking import TopK
from mmn_utils.neurons.table import neuron_table
from mmn_utils.neurons.targets import (
    Positions,
    Target,
    check_rows,
    embedded,
    final_norm_reads,
    objective,
    positions_of,
    share_captions,
    shared_captions,
    teacher_forced,
)

# Takes a layer, its field of Eq. 2, and its activation of the same shape; None for the
# activation where the pass spared it.
Consume = Callable[[int, torch.Tensor, torch.Tensor | None], None]

ENOUGH = 768  # tokens with which a CPU has its pace, as far as ...
HELD = 200e6  # ... bytes hold what a pass makes of them


def attribution(
    model,
    images: Sequence,
    targets: Sequence[Target],
    *,
    k: int = 100,
    target: str = "logit",
    rank_by: str = "max",
    positions: Positions = None,
) -> pd.DataFrame:
    """Score neurons by Z times dy/dZ at image patches (paper A, Eq. 2); top ``k`` per target.

    Z is the pre-activation, y the logit (or ``probability``) of each target's token at the
    step that predicts it, as the model emits it: behind a soft cap where it has one.
    ``images[i]`` belongs to ``targets[i]``. One backward pass serves as many rows as go together
    (``rows_together``) and reaches activations only; targets of one caption share its forward pass.
    ``rank_by``: ``max``, units by their maximum over patches, ``patch`` where it lies;
    ``sum`` over patches, ``patch`` -1; ``pair``, the (unit, patch) pairs themselves, as in
    Table S.1. ``activation`` is the exact one, the input of the MLP's second matrix, at that
    patch or summed. ``positions`` of the prompt other than the image tokens' may be given;
    ``patch`` then counts within them.
    """
    options = {"k": k, "target": target, "ranks": (rank_by,), "positions": positions}
    return attributions(model, images, targets, **options)[rank_by]


def attributions(
    model,
    images: Sequence,
    targets: Sequence[Target],
    *,
    k: int = 100,
    target: str = "logit",
    ranks: Sequence[str] = ("max", "sum"),
    positions: Positions = None,
) -> dict[str, pd.DataFrame]:
    """Score as ``attribution`` by several ``rank_by``, off one backward pass: a table for each."""
    check_rows(images, targets)
    if len(images) == 0:
        raise ValueError("no images; give at least one")
    by_captions = positions is None and len({t.image for t in targets}) < len(targets)
    score = _attributions_of_captions if by_captions else partial(_attributions, positions)
    if positions is not None:  # which are those of the longest prompt of all
        images = embedded(model, images)

    def compute(groups: Sequence[list[int]]) -> dict[str, pd.DataFrame]:
        part = sorted(chain(*groups))
        some = images if len(part) == len(targets) else _rows_of(images, part)
        return score(model, some, [targets[i] for i in part], k, target, ranks)

    groups = _together(targets) if by_captions else [[i] for i in range(len(targets))]
    size = rows_together(model, _tokens(model, images, targets))
    found = in_batches(compute, groups, size, "captions")
    if len(found) == 1:
        return found[0]
    return {
        rank: neuron_table(pd.concat([one[rank] for one in found], ignore_index=True))
        for rank in ranks
    }


def rows_together(model, tokens: int) -> int:
    """Say how many rows of so many tokens go through one pass forward and back, at least one."""
    return rows_on(model.device, model.sizes, model.dtype, tokens)


def rows_on(device: torch.device, sizes, dtype: torch.dtype, tokens: int) -> int:
    """Say how many rows a device takes at once: all of a batch, but on a CPU.

    ``sizes`` have layers, units and width.
    """
    if device.type != "cpu":
        return 2**20
    held = sizes.layers * (4 * sizes.units + 9 * sizes.width) * dtype.itemsize
    return max(1, min(ceil(ENOUGH / tokens), int(HELD / (tokens * held))))


def _tokens(model, images: Sequence | Prompt, targets: Sequence[Target]) -> int:
    """Count the tokens of the longest row, where pictures are not embedded yet at least."""
    longest = max(map(len, (target.prefix for target in targets)), default=0)
    if isinstance(images, Prompt):
        return images.embeds.shape[1] + longest
    return model.image_tokens.start + model.image_tokens.count + longest


def _together(targets: Sequence[Target]) -> list[list[int]]:
    """Group indices by the targets' image."""
    groups: dict[str, list[int]] = {}
    for i, target in enumerate(targets):
        groups.setdefault(target.image, []).append(i)
    return list(groups.values())


def _rows_of(images: Sequence | Prompt, rows: Sequence[int]) -> Sequence | Prompt:
    return images.select(rows) if isinstance(images, Prompt) else [images[row] for row in rows]


def _attributions(
    positions: Positions, model, images, targets, k, target, ranks
) -> dict[str, pd.DataFrame]:
    """Score as ``attributions``, all rows in one pass."""
    tops = {rank: TopK(k, rank) for rank in ranks}

    def consume(layer: int, field: torch.Tensor, activation: torch.Tensor | None) -> None:
        for top in tops.values():
            top.add(layer, field, activation)

    backward(model, embedded(model, images), targets, consume, target=target, positions=positions)
    return {rank: top.table(targets) for rank, top in tops.items()}


def _attributions_of_captions(model, images, targets, k, target, ranks) -> dict[str, pd.DataFrame]:
    """Score as ``attributions``, with one pass for each caption, not for each target."""
    tops: dict[tuple[int, ...], dict[str, TopK]] = {}

    def consume(turn: tuple[int, ...], layer: int, field, activation) -> None:
        if turn not in tops:
            tops[turn] = {rank: TopK(k, rank) for rank in ranks}
        for top in tops[turn].values():
            top.add(layer, field, activation)

    backward_by_turns(model, images, targets, consume, target=target)
    found = {}
    for rank in ranks:
        parts = [some[rank].table([targets[i] for i in turn]) for turn, some in tops.items()]
        found[rank] = neuron_table(pd.concat(parts, ignore_index=True))
    return found


def attribution_layers_field(
    model, prompt, targets, *, target: str = "logit", positions: Positions = None
) -> dict[int, torch.Tensor]:
    """Return the whole field of Eq. 2 as {layer: (B, P, units)}, for small models and tests."""
    field: dict[int, torch.Tensor] = {}

    def consume(layer: int, values: torch.Tensor, _activation) -> None:
        field[layer] = values

    backward(model, prompt, targets, consume, target=target, positions=positions)
    return dict(sorted(field.items()))


def backward(
    model,
    prompt,
    targets: Sequence[Target],
    consume: Consume,
    *,
    target: str = "logit",
    positions: Positions = None,
) -> torch.Tensor:
    """Run one backward pass and hand each layer's Z times dy/dZ over as it is reached.

    ``prompt`` ends before the captions. Rows do not see each other, so the gradient of the
    sum of all y is each row's own. Fields are (B, P, units) float32 and are freed as soon
    as ``consume`` lets go of them; with each comes the layer's activation there. Returns y
    (B) float32.
    """
    where = positions_of(model, prompt, positions)
    ends = int(prompt.ends.min())
    spared = spare_last(model, ends) if positions is None else nullcontext()
    prompt = teacher_forced(model, prompt, [t.prefix for t in targets])
    length = prompt.embeds.shape[1]
    with (
        torch.enable_grad(),
        spared,
        capture(model, "pre", grad=True) as seen,
        capture(model) as active,
    ):
        logits, _ = model.forward(prompt)
        y = objective(logits, targets, target)
        for layer, z in seen.values.items():
            both = z.detach(), active.values[layer]
            z.register_hook(_hand_over(consume, layer, both, where, length))
        lowest = seen.values[min(seen.values)]
        torch.autograd.grad(y.sum(), lowest)  # all layers above lie on the way there
    return y.detach()


def backward_by_turns(
    model,
    images: Sequence | Prompt,
    targets: Sequence[Target],
    consume: Callable[[tuple[int, ...], int, torch.Tensor, torch.Tensor | None], None],
    *,
    target: str = "logit",
) -> torch.Tensor:
    """Run each caption once, then backwards from the first target of all, the second, ...

    ``consume`` gets a turn (indices into ``targets``), a layer, the field (len(turn), P,
    units) float32 at the image tokens and the activation there, as ``backward`` hands them
    over. Returns y (targets).
    """
    prompt, rows, places = shared_captions(model, images, targets)
    where, span = share_captions(targets)[1], positions_of(model, prompt, None)
    length = prompt.embeds.shape[1]
    with (
        torch.enable_grad(),
        spare_last(model, int(places.min())),
        capture(model, "pre", grad=True) as seen,
        capture(model) as active,
        final_norm_reads(model, "output") as normed,
    ):
        model.forward(prompt)
        y = objective(model.read_out(normed[-1][rows, places]), targets, target)
        lowest = seen.values[min(seen.values)]
        turns = _turns(where)
        for turn in turns:
            mine = torch.tensor([where[i] for i in turn], device=y.device)
            with ExitStack() as hooks:
                for layer, z in seen.values.items():
                    give, both = partial(consume, turn), (z.detach(), active.values[layer])
                    hand_over = _hand_over(give, layer, both, span, length, mine)
                    hooks.callback(z.register_hook(hand_over).remove)
                torch.autograd.grad(y[list(turn)].sum(), lowest, retain_graph=turn is not turns[-1])
    return y.detach()


def _turns(rows: Sequence[int]) -> list[tuple[int, ...]]:
    """Deal indices out so that no turn has two of one row: all firsts, all seconds, ..."""
    dealt: dict[int, int] = {}
    turns: list[list[int]] = []
    for i, row in enumerate(rows):
        place = dealt[row] = dealt.get(row, -1) + 1
        if place == len(turns):
            turns.append([])
        turns[place].append(i)
    return [tuple(turn) for turn in turns]


def _hand_over(consume: Consume, layer: int, both, where, length: int, rows=slice(None)):
    """Make the gradient hook of one layer's Z; ``both`` are Z and the activation.

    ``length`` is the pass's, in tokens; a shorter activation begins behind the image.
    """
    z, activation = both
    spared = activation.shape[1] < length

    def hook(gradient: torch.Tensor) -> None:
        field = attributed(z[rows], gradient[rows], where, length)
        consume(layer, field, None if spared else activation[rows][:, where])

    return hook


def attributed(z: torch.Tensor, gradient: torch.Tensor, where, length: int) -> torch.Tensor:
    """Multiply Z by dy/dZ (paper A, Eq. 2) at positions: (B, P, units) float32.

    Zero where Z is shorter than the pass of ``length`` tokens: ``capture.spare_last`` left the
    image tokens out since nothing reads them there.
    """
    if z.shape[1] < length:
        count = where.stop - where.start if isinstance(where, slice) else len(where)
        return z.new_zeros(len(z), count, z.shape[2], dtype=torch.float32)
    return z[:, where].float() * gradient[:, where].float()
