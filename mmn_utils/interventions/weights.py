"""Write vectors with something added to them, and taken off again bit for bit.

Gaussian noise is the plain case, edits add what they have found. While something is added,
the model's ``revision`` says so, so that nothing cached for the untouched model is taken for
the changed one, or the other way round.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from mmn_utils.interventions.receipts import Comparison, NothingTouched, probe, weights_hash
from mmn_utils.neurons.decoding import write_vectors
from mmn_utils.neurons.table import Neuron, check_neurons


@dataclass
class WeightReceipt(Comparison):
    """What was added to write vectors, complete once it has been taken off again.

    ``norms`` (n,) is how far each write vector moved, with the rounding of the weights'
    type; ``relative`` (n,) the same over the vector's norm before, inf where that was 0.
    ``touched`` counts the weights that changed. There is a third hash, ``weights_within``.
    """

    neurons: tuple[Neuron, ...]
    norms: tuple[float, ...]
    relative: tuple[float, ...]
    touched: int
    weights_within: str | None = None


class Added:
    """Something added to write vectors, until ``undo`` puts the very same bits back.

    ``deltas`` (n, d) belong to ``neurons``, each once. The sum is made in float32 or finer
    and rounded to the weights' type. ``label`` joins the model's revision. ``ValueError``
    for weights that cannot be edited (quantised, or not in memory), neurons the model does
    not have, and sums that are not finite; then nothing was written.
    """

    def __init__(self, model, neurons: Sequence[Neuron], deltas: torch.Tensor, label: str) -> None:
        self.neurons = tuple(neurons)
        _check(model, self.neurons, deltas)
        revision = model.revision  # may be a hash of the weights: taken before they change
        self.model, self.label, self.there = model, label, True
        self._rows = [_moved(model, layer, self.neurons, deltas) for layer in _layers(neurons)]
        for rows in self._rows:
            rows.put(model, rows.new)
        model.revision = f"{revision}+{label}"

    def undo(self, force: bool = False) -> bool:
        """Put the old write vectors back; say whether they still were as they had been left.

        ``RuntimeError`` where they were not, unless ``force``: what was added later to the
        same neurons has to go first. Also for a second time.
        """
        if not self.there:
            raise RuntimeError(f"{self.label} was undone before; it is in the weights no more")
        changed = [r.layer for r in self._rows if not r.holds(self.model, r.new)]
        if changed and not force:
            raise RuntimeError(
                f"write vectors of layers {changed} are no longer what {self.label} left there; "
                "undo first what was added to them later"
            )
        for rows in self._rows:
            rows.put(self.model, rows.old)
        self.model.revision = _without(self.model.revision, self.label)
        self.there = False
        return not changed

    def receipt(self) -> WeightReceipt:
        """Tell how far each write vector moved."""
        norms, relative, touched = {}, {}, 0
        for rows in self._rows:
            old, new = (values.detach().double() for values in (rows.old, rows.new))
            touched += int((old != new).sum())
            moved, before = (new - old).norm(dim=1), old.norm(dim=1)
            ratios = torch.where(moved == 0, 0.0, moved / before)
            for unit, norm, ratio in zip(rows.units, moved, ratios, strict=True):
                neuron = Neuron(rows.layer, int(unit))
                norms[neuron], relative[neuron] = float(norm), float(ratio)
        return WeightReceipt(
            self.neurons,
            tuple(norms[neuron] for neuron in self.neurons),
            tuple(relative[neuron] for neuron in self.neurons),
            touched,
        )


@dataclass(frozen=True)
class _Rows:
    """The write vectors (k, d) of some units of a layer, as they were and as they become."""

    layer: int
    units: torch.Tensor
    old: torch.Tensor
    new: torch.Tensor

    def put(self, model, values: torch.Tensor) -> None:
        with torch.no_grad():
            model.write_vectors(self.layer)[self.units] = values

    def holds(self, model, values: torch.Tensor) -> bool:
        """Say whether the model's vectors are these, bit for bit."""
        return torch.equal(_bits(model.write_vectors(self.layer)[self.units]), _bits(values))


def _bits(values: torch.Tensor) -> torch.Tensor:
    return values.detach().contiguous().view(torch.uint8)


@contextmanager
def adding(
    model,
    neurons: Sequence[Neuron],
    deltas: torch.Tensor,
    label: str,
    *,
    prompt=None,
    max_new_tokens: int = 20,
    hash_weights: bool = True,
    allow_empty: bool = False,
) -> Iterator[WeightReceipt]:
    """Add to write vectors while the context lasts; hands a ``WeightReceipt`` out.

    With a ``prompt`` its logits and captions are measured before and after on the way in.
    Errors as ``Added``; ``NothingTouched`` where no weight changed, unless ``allow_empty``.
    An error inside passes through, and the old weights are back either way.
    """
    neurons, layers = tuple(neurons), _layers(neurons)
    _check(model, neurons, deltas)
    before = weights_hash(model, layers) if hash_weights else None
    said = probe(model, prompt, max_new_tokens)
    added = Added(model, neurons, deltas, label)
    try:
        receipt = added.receipt()
        if not (receipt.touched or allow_empty):
            raise NothingTouched(_why_nothing(model, deltas))
        if hash_weights:
            receipt.weights_before, receipt.weights_within = before, weights_hash(model, layers)
        if said is not None:
            receipt.compare(said, probe(model, prompt, max_new_tokens))
        yield receipt
    finally:
        intact = added.undo(force=True)
    receipt.weights_after = weights_hash(model, layers) if hash_weights else None
    if not intact or receipt.weights_after != before:
        raise RuntimeError(
            f"weights of layers {layers} were changed by something else while {label} was in "
            "them; load the model again"
        )


def _check(model, neurons: tuple[Neuron, ...], deltas: torch.Tensor) -> None:
    """Refuse what cannot be added."""
    model.require_editable()
    if not neurons:
        raise ValueError("adding to no write vectors does nothing; give at least one neuron")
    check_neurons(neurons, model.sizes.layers, model.sizes.units)
    twice = [str(neuron) for neuron in dict.fromkeys(neurons) if neurons.count(neuron) > 1]
    if twice:
        raise ValueError(f"{', '.join(twice)} given twice; give each neuron once")
    wanted = (len(neurons), model.sizes.width)
    if tuple(deltas.shape) != wanted or not torch.isfinite(deltas).all():
        raise ValueError(
            f"deltas of {tuple(deltas.shape)}: give finite numbers of shape {wanted}, "
            "a row for each neuron"
        )
    away = [layer for layer in _layers(neurons) if model.act_module(layer).weight.is_meta]
    if away:
        raise ValueError(
            f"the weights of layers {away} of {model.name} are not in memory (offloaded); "
            "load the model without offloading to change them"
        )


def _layers(neurons: Sequence[Neuron]) -> list[int]:
    return sorted({neuron.layer for neuron in neurons})


@torch.no_grad()
def _moved(model, layer: int, neurons: tuple[Neuron, ...], deltas: torch.Tensor) -> _Rows:
    """Work out one layer's new write vectors; ``ValueError`` where its type cannot hold them."""
    vectors = model.write_vectors(layer)
    places = [row for row, neuron in enumerate(neurons) if neuron.layer == layer]
    units = torch.tensor([neurons[row].unit for row in places], device=vectors.device)
    old = vectors[units]  # a copy
    fine = torch.promote_types(old.dtype, torch.float32)
    new = (old.to(fine) + deltas[places].to(old.device, fine)).to(old.dtype)
    if not torch.isfinite(new).all():
        raise ValueError(
            f"a write vector of layer {layer} would leave the range of {old.dtype}; "
            "add less, or load the model in float32 or bfloat16"
        )
    return _Rows(layer, units, old, new)


def _without(revision: str, label: str) -> str:
    """Take the last mention of a label off a revision."""
    head, found, tail = revision.rpartition(f"+{label}")
    return head + tail if found else revision


def _why_nothing(model, deltas: torch.Tensor) -> str:
    """Say why adding changed no weight."""
    largest = float(deltas.norm(dim=1).max())
    if largest == 0:
        return "what is added to the write vectors is zero everywhere; add something"
    return (
        f"no weight changed: the vectors added have norms up to {largest:.3g}, too small for "
        f"{model.dtype} to show; add more, or load the model in float32"
    )


def fingerprint(neurons: Sequence[Neuron], deltas: torch.Tensor) -> str:
    """Hash what is added to which neurons to 12 hexadecimal digits."""
    digest = hashlib.sha256(" ".join(map(str, neurons)).encode())
    digest.update(deltas.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def entry_size(model, neurons: Sequence[Neuron]) -> torch.Tensor:
    """Return the root mean square of each write vector's entries: (n,) float32.

    ``sigma`` over it is the noise's norm over the write vector's, in the mean.
    """
    return write_vectors(model, neurons).float().square().mean(1).sqrt().cpu()
