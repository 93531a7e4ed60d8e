"""Edits that differ from row to row of a batch, without a change to any weight.

A longer write vector writes more wherever its unit is active: act . (w + dw) is
act . w + act . dw. So what a row's edit adds can be added to the MLP's output for this
row alone, and hundreds of edits, each tried on a photograph of its own, run in full batches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch

from mmn_utils.interventions.edit import Edit, check_fits

_Adds = tuple[torch.Tensor, torch.Tensor]  # units (B, n) long and what each adds (B, n, d)


class RowEdits:
    """What each row's edit adds to the layers' outputs; ``keep`` follows a shrinking batch."""

    def __init__(self, model, edits: Sequence[Edit | None]) -> None:
        self.rows = len(edits)
        self.hooks: list[int] = []  # ids, for what asks whether somebody else is there
        self._adds = {layer: _padded(model, edits, layer) for layer in _layers(edits)}

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these of the present rows only, in this order."""
        kept = torch.as_tensor(rows, dtype=torch.long)
        self.rows = len(kept)
        self._adds = {
            layer: tuple(part[kept.to(part.device)] for part in adds)
            for layer, adds in self._adds.items()
        }

    def hook(self, layer: int):
        """Make the forward hook for the module whose input is the layer's activation."""

        def write(_module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
            if len(output) != self.rows:
                raise ValueError(
                    f"a batch of {len(output)} rows within edits for {self.rows}; give one edit, "
                    "or None, for each row"
                )
            units, deltas = self._adds[layer]
            tokens = output.shape[1]
            active = inputs[0].gather(2, units[:, None].expand(-1, tokens, -1))
            return output + (active.to(deltas) @ deltas).to(output)

        return write


def _layers(edits: Sequence[Edit | None]) -> list[int]:
    """List the layers that any of the edits changes."""
    return sorted({neuron.layer for edit in edits if edit is not None for neuron in edit.neurons})


def _padded(model, edits: Sequence[Edit | None], layer: int) -> _Adds:
    """Lay the edits of one layer out row by row; shorter ones add nothing to unit 0."""
    own = [_of_layer(edit, layer) for edit in edits]
    device, most = model.act_module(layer).weight.device, max(len(places) for places in own)
    units = torch.zeros(len(edits), most, dtype=torch.long)
    deltas = torch.zeros(len(edits), most, model.sizes.width)
    for row, (edit, places) in enumerate(zip(edits, own, strict=True)):
        if places:
            units[row, : len(places)] = torch.tensor([edit.neurons[i].unit for i in places])
            deltas[row, : len(places)] = edit.deltas[places]
    return units.to(device), deltas.to(device)


def _of_layer(edit: Edit | None, layer: int) -> list[int]:
    """Return the places of an edit's neurons in one layer."""
    return [i for i, neuron in enumerate(edit.neurons) if neuron.layer == layer] if edit else []


@contextmanager
def apply_by_row(model, edits: Sequence[Edit | None]) -> Iterator[RowEdits]:
    """Let row i of the batches within be as ``edit.apply`` of ``edits[i]`` would have it.

    Up to rounding, as sums are added up in another order; None is no edit. Every batch has
    a row for each edit; where rows end early, tell ``keep`` which go on. Nothing is written
    into the weights, but while the context lasts the model's ``revision`` says that it is
    changed. ``ValueError`` for another model's edit, and a batch of other rows.
    """
    model.require_editable()
    for edit in {id(edit): edit for edit in edits if edit is not None}.values():
        check_fits(model, edit)
    names = " ".join(edit.identity if edit is not None else "-" for edit in edits)
    revision, changed = model.revision, RowEdits(model, edits)
    with ExitStack() as stack:
        stack.callback(setattr, model, "revision", revision)
        model.revision = f"{revision}+rows-{hashlib.sha256(names.encode()).hexdigest()[:12]}"
        for layer in _layers(edits):
            hook = model.act_module(layer).register_forward_hook(changed.hook(layer))
            stack.callback(hook.remove)
            changed.hooks.append(hook.id)
        yield changed
