"""Learning from captions: which scenes a step shows, what is said of them, and the loss.

Every system of the miniature that reads pictures is taught in this one way: image tokens
stand in a prompt, and the words of one of the scene's five captions are predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmn_utils.miniature.scenes.sets import SceneSet
from mmn_utils.miniature.world import World
from mmn_utils.training.loop import Summand, fast_autocast

CAPTION_LENGTH = 20  # tokens of the longest caption, full stop and end of text
Ids = tuple[list[int], list[int]]


class CaptionIds:
    """Token ids of the five captions of each scene, padded with -100."""

    def __init__(self, scenes: SceneSet, world: World, tokenizer):
        ends = [tokenizer.eos_token_id]
        self.ids = np.full((len(scenes), 5, CAPTION_LENGTH), -100, dtype=np.int64)
        known: dict[str, list[int]] = {}
        for i in range(len(scenes)):
            for j, text in enumerate(scenes.captions(i, world)):
                if text not in known:
                    known[text] = tokenizer.encode(f" {text}.") + ends
                self.ids[i, j, : len(known[text])] = known[text]


@dataclass(frozen=True)
class Drawn:
    """What one step shows: scenes (B,), ids of a caption of each (B, L), -100 behind its end."""

    rows: np.ndarray
    labels: Tensor

    def parts(self, size: int) -> Iterator[tuple[float, Drawn]]:
        """Yield the scenes ``size`` at a time, with the share of all words that is theirs.

        Sums over parts of share times loss are the loss of the whole: what is worked on
        at a time then stays in the processor's cache.
        """
        words = int((self.labels >= 0).sum())
        for start in range(0, len(self.rows), size):
            part = Drawn(self.rows[start : start + size], self.labels[start : start + size])
            yield int((part.labels >= 0).sum()) / words, part


def in_parts(drawn: Drawn, size: int, loss_of: Callable[[Drawn], Tensor]) -> list[Summand]:
    """Return the summands of the loss of what is drawn, of ``size`` scenes each."""

    def summand(share: float, part: Drawn) -> Tensor:
        return share * loss_of(part)

    return [partial(summand, share, part) for share, part in drawn.parts(size)]


@dataclass(frozen=True)
class Batches:
    """Scenes and captions, a pure function of (seed, step).

    ``ids`` (N, 5, L) are those of ``CaptionIds``; ``plainest`` is the share of examples
    that take the plainest of the five captions.
    """

    ids: np.ndarray
    size: int
    seed: Sequence[int]
    plainest: float = 0.6

    def at(self, step: int) -> Drawn:
        """Draw the batch of a step."""
        rng = np.random.default_rng((*self.seed, step))
        rows = np.sort(rng.integers(len(self.ids), size=self.size))
        rest = (1 - self.plainest) / 4
        form = rng.choice(5, size=self.size, p=[self.plainest, rest, rest, rest, rest])
        labels = torch.from_numpy(self.ids[rows, form])
        return Drawn(rows, labels[:, : int((labels >= 0).sum(1).max())])


def caption_loss(
    logits_for: Callable,
    embed: Callable,
    around: Ids,
    soft: Tensor,
    labels: Tensor,
    smoothing: float = 0.0,
) -> Tensor:
    """Return the cross-entropy of captions in their prompts, behind image tokens.

    ``logits_for`` takes embeddings (B, T, d) and a number n to the logits (B, n, V) of the
    last n tokens; ``embed`` ids to embeddings; ``around`` are the ids before and behind the
    picture. ``soft`` (B, n, d) are the image tokens; ``labels`` (B, L) ids, -100 for none,
    of which ``smoothing`` is the share that all tokens have alike.
    """
    before, behind = (torch.tensor(ids, dtype=torch.long) for ids in around)
    spoken = labels[:, :-1].clamp(min=0)
    words = torch.cat([behind.expand(len(labels), -1), spoken], dim=1)
    with fast_autocast():
        parts = (embed(before.expand(len(labels), -1)), soft.float(), embed(words))
        logits = logits_for(torch.cat(parts, dim=1), labels.shape[1])
    return F.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), label_smoothing=smoothing
    )
