"""Variants of a prompt's last token side by side: tokens of one row that do not see each other.

Where only the last token differs, all that comes before it is the same for all variants. As rows
of a batch each would need a copy of the keys and values before it. As tokens of one row, at the
same position and under a mask by which each sees the tokens before and itself, they share them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from mmn_utils.memory import is_out_of_memory
from mmn_utils.models.capture import around, has_hooks
from mmn_utils.models.prompts import Prompt
from mmn_utils.models.upper import begin_at, can_begin_at, kept_below

ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True, eq=False)
class Abreast:
    """What variants of the last token share: the ``prompt`` (1, T, d) and what lies before it.

    ``pairs`` are keys and values (1, heads, T - 1, width) of each layer.
    """

    prompt: Prompt
    pairs: list[tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, model, prompt: Prompt, past) -> Abreast | None:
        """Take a prompt of one row, and the cache of a pass over it; None where there is no way.

        That is where a model is told more than embeddings, its cache is no plain one, or
        somebody's hook would see the variants instead of the prompt.
        """
        pairs = kept_below(past, model.sizes.layers)
        if prompt.extras or pairs is None or not model.architecture.stacked or is_hooked(model):
            return None
        return cls(prompt, [(keys[..., :-1, :], values[..., :-1, :]) for keys, values in pairs])

    def logits(self, model, layer: int, streams: Tensor) -> Tensor:
        """Read the logits (N, V) of variants, given as the stream (N, d) that ``layer`` reads."""
        count = len(streams)
        with begin_at(model, layer):
            out = model.language_model(
                inputs_embeds=streams[None],
                attention_mask=self._mask(count, streams),
                position_ids=self.prompt.positions[:, -1:].expand(1, count),
                past_key_values=self._past(layer),
                use_cache=True,
            )
        return out.logits[0, :, : model.sizes.vocabulary]

    def agrees(self, model, layer: int, stream: Tensor, logits: Tensor) -> bool:
        """Say whether the last token itself (d), beside another, has the logits (V) it should.

        Where a model makes something else of a ready mask, or of the positions, it has not.
        """
        if not can_begin_at(model, layer):
            return False
        try:
            found = self.logits(model, layer, torch.stack([-stream, stream]))[1].float()
        except (RuntimeError, ValueError, TypeError) as error:
            if is_out_of_memory(error):
                raise
            return False  # it takes no ready mask
        apart = (found - logits.float()).abs().max()
        return bool(apart <= ROUNDING.get(model.dtype, 0) * logits.float().abs().max())

    def _mask(self, count: int, like: Tensor) -> Tensor:
        """Let each of N tokens see the real ones before, and itself: (1, 1, N, T - 1 + N)."""
        lowest = torch.finfo(like.dtype).min
        before = torch.where(self.prompt.mask[:, :-1] > 0, 0.0, lowest).to(like)
        own = torch.full((count, count), lowest, dtype=like.dtype, device=like.device)
        own.fill_diagonal_(0)
        return torch.cat([before.expand(count, -1), own], dim=1)[None, None]

    def _past(self, layer: int) -> DynamicCache:
        """Make a cache of the tokens before, for the layers from one on; nothing is copied."""
        past = DynamicCache()
        past.layers = [DynamicLayer() for _ in self.pairs]
        for held, (keys, values) in zip(past.layers[layer:], self.pairs[layer:], strict=True):
            held.lazy_initialization(keys, values)
            held.keys, held.values = keys, values
        return past


def is_hooked(model) -> bool:
    """Say whether somebody's hook could see, or change, what the language model's layers do.

    One on any module of them, of what follows, or of what they lie in.
    """
    parts = model.architecture
    return has_hooks(around(model.language_model, (parts.layers, parts.norm, parts.unembed)))
