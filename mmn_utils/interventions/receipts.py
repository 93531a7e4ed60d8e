"""What interventions hand back: what the model said before and within, and hashes of weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from mmn_utils.models.base import state_hash
from mmn_utils.neurons.captions import generate


class NothingTouched(RuntimeError):
    """An intervention ended without having written a single activation."""


@dataclass(kw_only=True)
class Comparison:
    """What a model did before an intervention and within it.

    ``logit_change``, the largest absolute change of the next token's logits, and the captions
    are there if a prompt was given to measure them on. Hashes are of the MLPs of the layers.
    """

    logit_change: float | None = None
    caption_before: tuple[str, ...] | None = None
    caption_after: tuple[str, ...] | None = None
    weights_before: str | None = None
    weights_after: str | None = None

    @property
    def caption_changed(self) -> bool | None:
        """Say whether any caption changed; None if none was made."""
        return None if self.caption_before is None else self.caption_before != self.caption_after

    def compare(self, before, after) -> None:
        """Write down what ``probe`` found before and after."""
        self.logit_change = float((after[0] - before[0]).abs().max())
        self.caption_before, self.caption_after = before[1], after[1]


@torch.no_grad()
def probe(model, prompt, max_new_tokens: int):
    """Measure logits (B, V) and captions of a prompt, if there is one."""
    if prompt is None:
        return None
    logits, _ = model.forward(prompt)
    return logits.float(), tuple(c.text for c in generate(model, prompt, max_new_tokens))


def weights_hash(model, layers: Iterable[int] | None = None) -> str:
    """Hash the MLPs of some layers, all by default, to 16 hexadecimal digits."""
    layers = range(model.sizes.layers) if layers is None else layers
    pairs = [(model.pre_module(layer), model.act_module(layer)) for layer in layers]
    return state_hash(*(module for pair in pairs for module in pair))
