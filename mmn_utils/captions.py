"""Greedy captions, in batches, with the cache of keys and values.

The paper samples at temperature 0, which is the most probable token at each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .models.base import Prompt


@dataclass(frozen=True)
class Caption:
    """A caption: its text without outer blanks, and its token ids without end of text."""

    text: str
    ids: tuple[int, ...]


@torch.no_grad()
def generate(model, prompt: Prompt, max_new_tokens: int = 20) -> list[Caption]:
    """Continue each row greedily until end of text or ``max_new_tokens`` tokens.

    Rows that have ended wait for the others; what follows their end is not kept.
    ``ValueError`` where the caption might not fit into the model's positions.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens = {max_new_tokens}: a caption has at least one token")
    end = model.tokenizer.eos_token_id
    steps: list[Tensor] = []
    going = torch.ones(len(prompt), dtype=torch.bool, device=model.device)
    step, past = prompt, None
    for _ in range(max_new_tokens):
        logits, past = model.forward(step, past=past, use_cache=True)
        steps.append(logits.argmax(dim=-1))
        if end is not None:
            going &= steps[-1] != end
        if not going.any() or len(steps) == max_new_tokens:
            break
        prompt = prompt.extend(model.embed(steps[-1][:, None]))
        step = prompt.tail(1)
    return [_caption(model, row, end) for row in torch.stack(steps, dim=1).tolist()]


def _caption(model, ids: list[int], end: int | None) -> Caption:
    """Cut ids at the end of text and decode them."""
    if end in ids:
        ids = ids[: ids.index(end)]
    text = model.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return Caption(text.strip(), tuple(ids))


def caption_images(
    model, images: Sequence, max_new_tokens: int = 20, batch_size: int = 16
) -> list[Caption]:
    """Caption pictures with the system's own prefix, ``batch_size`` at a time."""
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}: give at least 1")
    captions: list[Caption] = []
    for start in range(0, len(images), batch_size):
        prompt = model.prompt(images[start : start + batch_size])
        captions += generate(model, prompt, max_new_tokens)
    return captions
