"""Which neurons carry an image into a word: scores of (model, images, targets) as neuron tables.

Every score is a field (images, positions, units) per layer that is reduced to its top k on
the device as soon as the layer is done. Where a caption's noun is predicted several tokens
after the image, the caption up to it is teacher-forced, so one pass holds the whole history.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from functools import partial

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from mmn_utils.models.base import Prompt
from mmn_utils.models.capture import capture, replace, spare_last
from mmn_utils.neurons.final_norm import frozen_norm
from mmn_utils.neurons.table import NO_PATCH, Neuron, check_neurons, neuron_table
from mmn_utils.neurons.targets import (
    Consume,
    Target,
    at_steps,
    check_rows,
    embed_once,
    embedded,
    final_norm_reads,
    shared_captions,
    target_tokens,
    teacher_forced,
    watch,
)

Positions = Sequence[int] | slice | None


def objective(logits: torch.Tensor, targets: Sequence[Target], target: str = "logit"):
    """Read y_c of each row: logits (B, V) to the logit or probability of its token, (B) float32."""
    tokens = target_tokens(targets, logits.shape[-1], logits.device)
    logits = logits.float()
    chosen = logits.gather(1, tokens[:, None])[:, 0]
    if target == "logit":
        return chosen
    if target == "probability":
        return (chosen - logits.logsumexp(-1)).exp()
    raise ValueError(f"target={target!r}: give 'logit' or 'probability'")


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
    step that predicts it; ``images[i]`` belongs to ``targets[i]``. One backward pass serves
    the batch and reaches activations only; targets of one caption share its forward pass.
    ``rank_by``: ``max``, units by their maximum over patches, ``patch`` where it lies;
    ``sum`` over patches, ``patch`` -1; ``pair``, the (unit, patch) pairs themselves, as in
    Table S.1. ``positions`` of the prompt other than the image tokens' may be given;
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
    if positions is None and len({t.image for t in targets}) < len(targets):
        return _attributions_of_captions(model, images, targets, k, target, ranks)
    tops = {rank: _TopK(k, rank) for rank in ranks}

    def consume(layer: int, field: torch.Tensor) -> None:
        for top in tops.values():
            top.add(layer, field)

    backward(model, embedded(model, images), targets, consume, target=target, positions=positions)
    return {rank: top.table(targets) for rank, top in tops.items()}


def _attributions_of_captions(model, images, targets, k, target, ranks) -> dict[str, pd.DataFrame]:
    """Score as ``attributions``, with a forward pass for each caption, not for each target."""
    tops: dict[tuple[int, ...], dict[str, _TopK]] = {}

    def consume(turn: tuple[int, ...], layer: int, field: torch.Tensor) -> None:
        if turn not in tops:
            tops[turn] = {rank: _TopK(k, rank) for rank in ranks}
        for top in tops[turn].values():
            top.add(layer, field)

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
    backward(model, prompt, targets, field.__setitem__, target=target, positions=positions)
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
    as ``consume`` lets go of them. Returns y (B) float32.
    """
    where = _where(model, prompt, positions)
    ends = int(prompt.ends.min())
    spared = spare_last(model, ends) if positions is None else nullcontext()
    prompt = teacher_forced(model, prompt, [t.prefix for t in targets])
    length = prompt.embeds.shape[1]
    with torch.enable_grad(), spared, capture(model, "pre", grad=True) as seen:
        logits, _ = model.forward(prompt)
        y = objective(logits, targets, target)
        for layer, z in seen.values.items():
            z.register_hook(_hand_over(consume, layer, z.detach(), where, length))
        lowest = seen.values[min(seen.values)]
        torch.autograd.grad(y.sum(), lowest)  # all layers above lie on the way there
    return y.detach()


def backward_by_turns(
    model,
    images: Sequence | Prompt,
    targets: Sequence[Target],
    consume: Callable[[tuple[int, ...], int, torch.Tensor], None],
    *,
    target: str = "logit",
) -> torch.Tensor:
    """Run each caption once, then backwards from the first target of all, the second, ...

    ``consume`` gets a turn (indices into ``targets``), a layer and the field (len(turn), P,
    units) float32 at the image tokens, as ``backward`` hands it over. Returns y (targets).
    """
    prompt, rows, places = shared_captions(model, images, targets)
    where, span = rows.tolist(), _where(model, prompt, None)
    length = prompt.embeds.shape[1]
    with (
        torch.enable_grad(),
        spare_last(model, int(places.min())),
        capture(model, "pre", grad=True) as seen,
        final_norm_reads(model, "output") as normed,
    ):
        model.forward(prompt)
        y = objective(F.linear(normed[-1][rows, places], *model.unembedding), targets, target)
        lowest = seen.values[min(seen.values)]
        turns = _turns(where)
        for turn in turns:
            mine = torch.tensor([where[i] for i in turn], device=y.device)
            with ExitStack() as hooks:
                for layer, z in seen.values.items():
                    give = partial(consume, turn)
                    hand_over = _hand_over(give, layer, z.detach(), span, length, mine)
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


def _hand_over(consume: Consume, layer: int, z: torch.Tensor, where, length: int, rows=slice(None)):
    """Make the gradient hook of one layer's Z, of a pass of ``length`` tokens."""

    def hook(gradient: torch.Tensor) -> None:
        consume(layer, attributed(z[rows], gradient[rows], where, length))

    return hook


def attributed(z: torch.Tensor, gradient: torch.Tensor, where, length: int) -> torch.Tensor:
    """Multiply Z by dy/dZ (paper A, Eq. 2) at positions: (B, P, units) float32.

    Zero where Z is shorter than the pass of ``length`` tokens: ``capture.spare_last`` left the
    image tokens out since nothing reads them there.
    """
    if z.shape[1] < length:
        return z.new_zeros(len(z), where.stop - where.start, z.shape[2], dtype=torch.float32)
    return z[:, where].float() * gradient[:, where].float()


@torch.no_grad()
def activation_baseline(
    model,
    images: Sequence,
    targets: Sequence[Target],
    *,
    k: int = 100,
    rank_by: str = "max",
    positions: Positions = None,
) -> pd.DataFrame:
    """Score neurons by their activation at the image patches alone; arguments as ``attribution``.

    The same for every token of an image: what the gradient adds is measured against it.
    """
    top, prompt = _TopK(k, rank_by), embedded(model, images)
    check_rows(prompt, targets)
    where = _where(model, prompt, positions)
    with watch(model, lambda layer, activation: top.add(layer, activation[:, where].float())):
        model.forward(prompt)
    return top.table(targets)


@torch.no_grad()
def contribution(
    model,
    images: Sequence | Prompt,
    targets: Sequence[Target],
    *,
    k: int = 100,
    activation: str = "gated",
    contribution_norm: str = "none",
) -> pd.DataFrame:
    """Score neurons by what they write of the token at the step that predicts it (paper B, Eq. 2).

    Activation there times (unembedding row of the token . write vector). ``images[i]``, or
    row i of their prompt, belongs to ``targets[i]``; targets of one image are read off one
    pass over its caption. ``activation`` ``gated``: all of it, so that scores add up to what
    the MLP writes; ``gate``: one factor of it, as the paper's published code has it.
    ``contribution_norm`` ``none``: as printed; ``final``: through the final norm, its scale
    held at what it is there, so that scores are shares of the logit. One column of the
    unembedding per target; the (units, vocabulary) product is never formed.
    """
    top, norm = _TopK(k, "sum"), frozen_norm(model, contribution_norm)
    rows = unembedding_rows(model, targets, norm)
    residual = at_steps(
        model,
        images,
        targets,
        lambda layer, act: top.add(layer, contributions(model, layer, act, rows)[:, None]),
        activation=activation,
    )
    if norm is not None:
        top.divide(norm.scale(residual))  # positive, the same for all units: ranks stay
    return top.table(targets)


@torch.no_grad()
def contribution_layers_field(
    model,
    images: Sequence | Prompt,
    targets: Sequence[Target],
    *,
    activation: str = "gated",
    contribution_norm: str = "none",
) -> dict[int, torch.Tensor]:
    """Return all contributions as {layer: (targets, units)}, for small models and tests."""
    norm, field = frozen_norm(model, contribution_norm), {}
    rows = unembedding_rows(model, targets, norm)

    def keep(layer: int, act: torch.Tensor) -> None:
        field[layer] = contributions(model, layer, act, rows)

    residual = at_steps(model, images, targets, keep, activation=activation)
    scale = 1 if norm is None else norm.scale(residual)[:, None]
    return {layer: values / scale for layer, values in field.items()}


def unembedding_rows(model, targets: Sequence[Target], norm=None) -> torch.Tensor:
    """Gather the targets' rows of the unembedding (T, d) float32, the norm folded in if given."""
    weight, _ = model.unembedding
    rows = weight[target_tokens(targets, len(weight), weight.device)].detach().float()
    return rows if norm is None else norm.fold(rows)


def contributions(model, layer: int, activation: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Multiply activations (T, units) by what each unit writes along rows (T, d): (T, units)."""
    written = rows @ model.write_vectors(layer).detach().to(rows).T
    return activation * written


@torch.no_grad()
def last_activation(
    model,
    images: Sequence | Prompt,
    targets: Sequence[Target],
    *,
    k: int = 100,
    activation: str = "gated",
) -> pd.DataFrame:
    """Score neurons by their activation at the step that predicts the target (paper B's Base).

    Signed, as the paper's "higher activations" has it; arguments as ``contribution``.
    """
    top = _TopK(k, "sum")
    at_steps(
        model, images, targets, lambda layer, a: top.add(layer, a[:, None]), activation=activation
    )
    return top.table(targets)


METHODS: Mapping[str, Callable[..., pd.DataFrame]] = {  # paper B's Table 2 and 3
    "activation": last_activation,  # "Base"
    "attribution": attribution,  # "Mmns": by the maximum over patches
    "contribution": contribution,  # "Ours"
}


def by_methods(
    model,
    images: Sequence | Prompt,
    targets: Sequence[Target],
    *,
    k: int = 100,
    methods: Mapping[str, Callable[..., pd.DataFrame]] = METHODS,
) -> dict[str, pd.DataFrame]:
    """Score the same targets by several methods: {method: neuron table} (paper B, Table 2).

    Each picture is embedded once. Switches go in as
    ``{**METHODS, "contribution": partial(contribution, activation="gate")}``.
    """
    pictures, rows = embed_once(model, images, targets)
    prompt = pictures.select(rows)
    return {name: method(model, prompt, targets, k=k) for name, method in methods.items()}


@torch.no_grad()
def exact_ablation(
    model,
    prompt,
    target: Target,
    neurons: Sequence[Neuron],
    *,
    of: str = "logit",
    positions: str = "all",
    batch_size: int = 32,
) -> pd.DataFrame:
    """Score neurons by what y loses when each alone is set to zero: the truth Eq. 2 approximates.

    ``prompt`` of one image; ``positions`` ``all`` or ``image``. One forward pass serves
    ``batch_size`` neurons, each in a row of its own, beside a row left whole.
    """
    check_neurons(neurons, model.sizes.layers, model.sizes.units)
    if positions not in ("all", "image"):
        raise ValueError(f"positions={positions!r}: give 'all' or 'image'")
    where = slice(None) if positions == "all" else _where(model, prompt, None)
    prompt = teacher_forced(model, prompt, [target.prefix])
    lost = []
    for start in range(0, len(neurons), batch_size):
        rows = list(neurons[start : start + batch_size])
        with replace(model, _one_each(rows, where)):
            logits, _ = model.forward(prompt.repeat(len(rows) + 1))
        y = objective(logits, [target] * (len(rows) + 1), of)
        lost += (y[-1] - y[:-1]).tolist()
    return _columns(target, neurons, lost)


def _one_each(neurons: Sequence[Neuron], where: slice) -> dict[int, Callable]:
    """Make the replacements that set neuron i to zero in row i."""
    functions = {}
    for layer in {n.layer for n in neurons}:
        cells = [(row, n.unit) for row, n in enumerate(neurons) if n.layer == layer]

        def function(activation, cells=cells):
            activation = activation.clone()
            for row, unit in cells:
                activation[row, where, unit] = 0
            return activation

        functions[layer] = function
    return functions


def integrated_gradients(
    model,
    images: Sequence,
    targets: Sequence[Target],
    *,
    k: int = 100,
    steps: int = 16,
    target: str = "logit",
    rank_by: str = "max",
    positions: Positions = None,
) -> pd.DataFrame:
    """Score neurons by integrated gradients of y over their activations at the image patches.

    All layers' activations at these positions go together from zero to what they were, on a
    straight line; ``steps`` points of Gauss-Legendre quadrature, a forward and a backward
    pass each. Other arguments as ``attribution``. Needs the whole field in memory.
    """
    top = _TopK(k, rank_by)
    field = path_field(
        model, embedded(model, images), targets, steps=steps, target=target, positions=positions
    )
    for layer in list(field):
        top.add(layer, field.pop(layer))
    return top.table(targets)


def path_field(
    model, prompt, targets, *, steps: int = 16, target="logit", positions: Positions = None
) -> dict[int, torch.Tensor]:
    """Integrate gradients over the shared path: {layer: (B, P, units)} float32.

    Sums to y minus y with every activation at the positions set to zero, up to quadrature.
    """
    where = _where(model, prompt, positions)
    prompt = teacher_forced(model, prompt, [t.prefix for t in targets])
    ends: dict[int, torch.Tensor] = {}
    with torch.no_grad(), watch(model, lambda layer, a: ends.update({layer: a[:, where].clone()})):
        model.forward(prompt)
    field = {layer: torch.zeros_like(end, dtype=torch.float32) for layer, end in ends.items()}
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        points = {layer: (end * node).requires_grad_() for layer, end in ends.items()}
        functions = {layer: _put(point, where) for layer, point in points.items()}
        with torch.enable_grad(), replace(model, functions):
            logits, _ = model.forward(prompt)
            y = objective(logits, targets, target)
        gradients = torch.autograd.grad(y.sum(), list(points.values()))
        for layer, gradient in zip(points, gradients, strict=True):
            field[layer] += float(weight) * gradient.float() * ends[layer].float()
    return field


def _put(values: torch.Tensor, where) -> Callable:
    """Make the replacement that writes ``values`` (B, P, units) at the positions."""

    def function(activation: torch.Tensor) -> torch.Tensor:
        activation = activation.clone()
        activation[:, where] = values
        return activation

    return function


class _TopK:
    """The running top k of every row over layers, kept on the device."""

    def __init__(self, k: int, rank_by: str):
        if k < 1:
            raise ValueError(f"k={k}: give a number of neurons, 1 or more")
        if rank_by not in _REDUCE:
            raise ValueError(f"rank_by={rank_by!r}: give one of {', '.join(_REDUCE)}")
        self.k, self.reduce = k, _REDUCE[rank_by]
        self.best: tuple[torch.Tensor, ...] | None = None  # scores, layers, units, patches (B, k)

    def add(self, layer: int, field: torch.Tensor) -> None:
        """Merge the field (B, P, units) of one more layer."""
        scores, units, patches = self.reduce(field, self.k)
        new = (scores, torch.full_like(units, layer), units, patches)
        if self.best is not None:
            new = tuple(torch.cat(pair, dim=1) for pair in zip(self.best, new, strict=True))
        order = new[0].topk(min(self.k, new[0].shape[1]), dim=1).indices
        self.best = tuple(values.gather(1, order) for values in new)

    def divide(self, scale: torch.Tensor) -> None:
        """Divide each row's scores by its own positive scale (B)."""
        self.best = (self.best[0] / scale[:, None], *self.best[1:])

    def table(self, targets: Sequence[Target]) -> pd.DataFrame:
        """Lay the result out as a neuron table."""
        if self.best is None:
            raise RuntimeError("no layer was scored; the model's modules were not reached")
        scores, layers, units, patches = (values.flatten().cpu().numpy() for values in self.best)
        repeat = self.best[0].shape[1]
        columns = {
            "image": [t.image for t in targets for _ in range(repeat)],
            "target": [t.noun for t in targets for _ in range(repeat)],
            "token": [t.token for t in targets for _ in range(repeat)],
            "layer": layers, "unit": units, "patch": patches, "score": scores,
        }  # fmt: skip
        return neuron_table(columns)


def _by_max(field: torch.Tensor, k: int):
    """Rank units by their maximum over patches; look for its patch only where it matters."""
    scores, units = field.amax(1).topk(min(k, field.shape[2]), dim=1)
    columns = field.gather(2, units[:, None].expand(-1, field.shape[1], -1))
    return scores, units, columns.argmax(1)


def _by_sum(field: torch.Tensor, k: int):
    """Rank units by their sum over patches."""
    scores, units = field.sum(1).topk(min(k, field.shape[2]), dim=1)
    return scores, units, torch.full_like(units, NO_PATCH)


def _by_pair(field: torch.Tensor, k: int):
    """Rank (unit, patch) pairs."""
    flat = field.flatten(1)
    scores, pairs = flat.topk(min(k, flat.shape[1]), dim=1)
    return scores, pairs % field.shape[2], pairs // field.shape[2]


_REDUCE = {"max": _by_max, "sum": _by_sum, "pair": _by_pair}


def _where(model, prompt, positions: Positions) -> slice | torch.Tensor:
    """Resolve positions of the prompt: the image tokens' if None."""
    image, length = model.image_tokens, prompt.embeds.shape[1]
    if positions is None:
        return slice(image.start, image.start + image.count)
    if isinstance(positions, slice):
        positions = range(length)[positions]
    index = torch.as_tensor(list(positions), dtype=torch.long, device=prompt.embeds.device)
    if index.numel() == 0 or index.min() < 0 or index.max() >= length:
        raise ValueError(f"positions must be some of the prompt's 0 to {length - 1}")
    return index


def _columns(target: Target, neurons: Sequence[Neuron], scores: Sequence[float]) -> pd.DataFrame:
    """Lay scores of whole neurons for one target out as a neuron table."""
    return neuron_table(
        {
            "image": [target.image] * len(neurons),
            "target": [target.noun] * len(neurons),
            "token": [target.token] * len(neurons),
            "layer": [n.layer for n in neurons],
            "unit": [n.unit for n in neurons],
            "patch": [NO_PATCH] * len(neurons),
            "score": list(scores),
        }
    )
