"""Greedy captions, in batches, with the cache of keys and values.

The paper samples at temperature 0, which is the most probable token at each step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmn_utils.models.base import Prompt
from mmn_utils.models.capture import spare_last


@dataclass(frozen=True)
class Caption:
    """A caption: its text without outer blanks, and its token ids without end of text."""

    text: str
    ids: tuple[int, ...]


@torch.no_grad()
def generate(
    model,
    prompt: Prompt,
    max_new_tokens: int = 20,
    begun: tuple[Tensor, Any] | None = None,
    kept: Callable[[list[int]], None] | None = None,
) -> list[Caption]:
    """Continue each row greedily until end of text or ``max_new_tokens`` tokens.

    What follows a row's end is not kept; when half of the rows have ended, the others go on
    without them, and ``kept`` is told which of the present rows those are. ``begun`` hands
    over the logits (B, V) and the cache of a pass over the prompt that has been made.
    ``ValueError`` where the caption might not fit into the model's positions.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens = {max_new_tokens}: a caption has at least one token")
    logits, past = begun or _begin(model, prompt)
    end, rows = model.tokenizer.eos_token_id, list(range(len(prompt)))
    ids: list[list[int]] = [[] for _ in rows]
    for step in range(1, max_new_tokens + 1):
        tokens = logits.argmax(dim=-1)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            ids[row].append(token)
        going = [place for place, row in enumerate(rows) if end not in ids[row]]
        if not going or step == max_new_tokens:
            break
        prompt = prompt.extend(model.embed(tokens[:, None]))
        if len(going) <= len(rows) / 2:
            past.batch_select_indices(torch.tensor(going, device=model.device))
            prompt, rows = prompt.select(going), [rows[place] for place in going]
            if kept is not None:
                kept(going)
        logits, past = model.forward(prompt.tail(1), past=past, use_cache=True)
    return [as_caption(model, row) for row in ids]


def _begin(model, prompt: Prompt) -> tuple[Tensor, Any]:
    """Run the prompt: logits (B, V) behind it and its cache."""
    with spare_last(model, int(prompt.ends.min())):
        return model.forward(prompt, use_cache=True)


def as_caption(model, ids: Sequence[int]) -> Caption:
    """Cut token ids at the end of text and decode them."""
    end, ids = model.tokenizer.eos_token_id, list(ids)
    if end in ids:
        ids = ids[: ids.index(end)]
    text = model.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return Caption(text.strip(), tuple(ids))


def caption_images(
    model, images: Sequence, max_new_tokens: int = 20, batch_size: int = 20
) -> list[Caption]:
    """Caption pictures with the system's own prefix, ``batch_size`` at a time."""
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}: give at least 1")
    captions: list[Caption] = []
    for start in range(0, len(images), batch_size):
        prompt = model.prompt(images[start : start + batch_size])
        captions += generate(model, prompt, max_new_tokens)
    return captions
