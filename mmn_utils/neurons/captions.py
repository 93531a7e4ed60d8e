"""Greedy captions, in batches, with the cache of keys and values.

The paper samples at temperature 0, which is the most probable token at each step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from mmn_utils.memory import in_batches
from mmn_utils.models.base import Prompt
from mmn_utils.models.capture import spare_last
from mmn_utils.models.finite import refuse


@dataclass(frozen=True)
class Caption:
    """A caption: its text without outer blanks, and its token ids without the one that ended it."""

    text: str
    ids: tuple[int, ...]


@torch.no_grad()
def generate(
    model,
    prompt: Prompt,
    max_new_tokens: int = 20,
    begun: tuple[Tensor, Any] | None = None,
    kept: Callable[[list[int]], None] | None = None,
    images: Sequence[str] | None = None,
) -> list[Caption]:
    """Continue each row greedily until one of ``end_tokens`` or ``max_new_tokens`` tokens.

    What follows a row's end is not kept; when some rows have ended (``leave_behind``), the others
    go on without them, and ``kept`` is told which of the present rows those are. ``begun`` hands
    over the logits (B, V) and the cache of a pass over the prompt that has been made.
    ``ValueError`` where the caption might not fit into the model's positions, and, with the
    picture's id in ``images``, its name in the prompt or its row, where its logits are not
    finite.
    """
    images = images or prompt.names
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens = {max_new_tokens}: a caption has at least one token")
    logits, past = begun or _begin(model, prompt)
    ends, rows = model.end_tokens, list(range(len(prompt)))
    ids: list[list[int]] = [[] for _ in rows]
    for step in range(1, max_new_tokens + 1):
        tokens, finite = _likeliest(logits)
        for row, token, fine in zip(rows, tokens.tolist(), finite, strict=True):
            if not fine and ends.isdisjoint(ids[row]):
                refuse(model, row, images)
            ids[row].append(token)
        going = [place for place, row in enumerate(rows) if ends.isdisjoint(ids[row])]
        if not going or step == max_new_tokens:
            break
        prompt = prompt.next(model.embed(tokens[:, None]))
        if leave_behind(going, rows):
            past.batch_select_indices(torch.tensor(going, device=model.device))
            prompt, rows = prompt.select(going), [rows[place] for place in going]
            if kept is not None:
                kept(going)
        logits, past = model.forward(prompt, past=past, use_cache=True)
    return [as_caption(model, row) for row in ids]


def _begin(model, prompt: Prompt) -> tuple[Tensor, Any]:
    """Run the prompt: logits (B, V) behind it and its cache."""
    with spare_last(model, int(prompt.ends.min())):
        return model.forward(prompt, use_cache=True)


def leave_behind(going: Sequence[int], rows: Sequence[int]) -> bool:
    """Say whether to go on with some rows alone: an eighth or more of the present ones has ended.

    The cache of those that go on is then copied, which costs about as much as one step reads.
    """
    return len(going) <= 7 / 8 * len(rows)


def _likeliest(logits: Tensor) -> tuple[Tensor, list[bool]]:
    """Find the most probable token of each row of (B, V), and whether its logit is finite.

    Where any logit is no number, ``argmax`` takes that one.
    """
    tokens = logits.argmax(dim=-1)
    return tokens, logits.gather(1, tokens[:, None])[:, 0].isfinite().tolist()


def as_caption(model, ids: Sequence[int]) -> Caption:
    """Cut token ids at the first that ends a caption, and decode them."""
    ends = model.end_tokens
    ids = list(takewhile(lambda token: token not in ends, ids))
    text = model.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return Caption(text.strip(), tuple(ids))


def caption_images(
    model,
    images: Sequence,
    max_new_tokens: int = 20,
    batch_size: int = 20,
    names: Sequence[str] | None = None,
) -> list[Caption]:
    """Caption pictures with the system's own prefix, ``batch_size`` at a time.

    ``names`` are what errors call the pictures by, their places among ``images`` by default.
    """
    names = [str(place) for place in range(len(images))] if names is None else names

    def compute(some: range) -> list[Caption]:
        batch = slice(some.start, some.stop)
        prompt = model.prompt(images[batch])
        return generate(model, prompt, max_new_tokens, images=names[batch])

    parts = in_batches(compute, range(len(images)), batch_size)
    return [caption for part in parts for caption in part]
