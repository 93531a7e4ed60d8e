"""Captions that go on from where they leave a draft: greedy, several tokens to a pass.

What a changed model says in the place of a word is often followed by what followed that word.
So behind each new token the next few of the draft are tried in the same pass, and those stand
that are the likeliest still. A caption that has left its draft for good, as those do that repeat
one word, soon goes on token by token: what one row tries in vain, all rows of a batch pay for. The
captions are those of greedy generation up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmn_utils.models.finite import refuse
from mmn_utils.models.prompts import Prompt
from mmn_utils.neurons.captions import leave_behind

AHEAD = 4  # tokens tried at a time: of more, more are wasted than won
TRIED = 64  # tokens tried by all rows together: with more, a pass is no longer nearly free
PATIENCE = 2  # tries in vain after which a draft is given up; a word may have two tokens


@dataclass
class Follower:
    """A caption so far, ``ids``, the ``draft`` that it goes by, and the next ``place`` in it.

    ``misses`` counts the tries since the last one that was right.
    """

    ids: list[int]
    draft: Sequence[int]
    place: int
    misses: int = 0

    @classmethod
    def leaving(cls, draft: Sequence[int], step: int) -> Follower:
        """Leave a draft behind its first ``step`` tokens."""
        return cls(list(draft[:step]), draft, step)

    def say(self, token: int) -> None:
        """Take a token in, and go on behind it in the draft: where that has it nearest by."""
        self.ids.append(token)
        met = [place for place, other in enumerate(self.draft) if other == token]
        self.place = 1 + min(met, key=lambda place: abs(place - self.place), default=self.place)

    def guess(self, limit: int, ahead: int = AHEAD) -> list[int]:
        """Return the tokens to be tried next, ``ahead`` at most."""
        if self.misses >= PATIENCE:
            return []
        return list(self.draft[self.place : self.place + min(ahead, limit - len(self.ids))])

    def take(
        self, likely: Sequence[int], guess: Sequence[int], ends: Container[int], limit: int
    ) -> int:
        """Take in the likeliest tokens while those tried were right; returns how many were.

        ``likely[i]`` is the likeliest behind ``i`` of the tokens tried.
        """
        if guess:
            self.misses = 0 if guess[0] == likely[0] else self.misses + 1
        for right, token in enumerate(likely):
            self.say(token)
            if self.done(ends, limit) or right == len(guess) or guess[right] != token:
                return right
        return len(guess)

    def done(self, ends: Container[int], limit: int) -> bool:
        """Say whether the caption has ended."""
        return len(self.ids) >= limit or (bool(self.ids) and self.ids[-1] in ends)


@torch.no_grad()
def follow(
    model,
    prompt: Prompt,
    begun: tuple[Tensor, Any],
    followers: Sequence[Follower],
    limit: int,
    kept: Callable[[list[int]], None] | None,
    images: Sequence[str],
) -> None:
    """Let each row's caption go on to its end, or to ``limit`` tokens.

    ``begun`` are the logits (B, V) where drafts were left and the cache of a pass over the
    prompt, in which what follows there is hidden. When some rows have ended (``leave_behind``), the
    others go on without them, and ``kept`` is told which of the present rows those are.
    ``ValueError`` with the picture's id in ``images`` where logits are not finite.
    """
    logits, past, ends = begun[0][:, None], begun[1], model.end_tokens
    rows, width = list(range(len(followers))), 0
    guesses: list[list[int]] = [[] for _ in rows]
    while True:
        likely = logits.argmax(-1)
        finite = logits.gather(-1, likely[..., None])[..., 0].isfinite().tolist()
        read = []
        for row, mine, guess, fine in zip(rows, likely.tolist(), guesses, finite, strict=True):
            one = followers[row]
            ended = one.done(ends, limit)
            read.append(0 if ended else 1 + one.take(mine, guess, ends, limit))
            if not all(fine[: read[-1]]):
                refuse(model, row, images)
        prompt = _hide(prompt, width, read)
        going = [n for n, row in enumerate(rows) if not followers[row].done(ends, limit)]
        if not going:
            return
        if leave_behind(going, rows):
            past.batch_select_indices(torch.tensor(going, device=model.device))
            prompt, rows = prompt.select(going), [rows[n] for n in going]
            if kept is not None:
                kept(going)
        ahead = min(AHEAD, TRIED // len(rows))
        guesses = [followers[row].guess(limit, ahead) for row in rows]
        tails = [[followers[row].ids[-1], *guess] for row, guess in zip(rows, guesses, strict=True)]
        width = max(map(len, tails))
        prompt = _extended(model, prompt, tails, width)
        logits, past = model.forward(
            prompt.tail(width), past=past, use_cache=True, last_only=False, last=width
        )


def _extended(model, prompt: Prompt, tails: Sequence[Sequence[int]], width: int) -> Prompt:
    """Append tokens to each row, shorter ones padded."""
    ids = torch.zeros(len(tails), width, dtype=torch.long, device=model.device)
    mask = torch.zeros_like(ids)
    for row, tail in enumerate(tails):
        ids[row, : len(tail)] = torch.tensor(tail)
        mask[row, : len(tail)] = 1
    return prompt.extend(model.embed(ids), mask)


def _hide(prompt: Prompt, width: int, read: Sequence[int]) -> Prompt:
    """Hide, of the last ``width`` tokens of each row, all but the first few."""
    if not width:
        return prompt
    mask, start = prompt.mask.clone(), prompt.mask.shape[1] - width
    for row, count in zip(mask, read, strict=True):
        row[start + count :] = 0
    return prompt.hidden(mask)
