"""Could rounding alone have changed a caption? The margin of a change, and the noise of logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def margin(whole: list[int], logits: torch.Tensor, row: list[int], gaps: torch.Tensor) -> float:
    """Return how clearly two captions part where they first do, NaN if they do not.

    ``logits`` (steps, V) of the whole caption's run, ``gaps`` (steps) of the row's. A gap
    within rounding in either run could have made the difference, or hidden it.
    """
    for step, (mine, other) in enumerate(zip(whole, row, strict=False)):
        if mine != other:
            gap = logits[step, mine] - logits[step, other]
            return float(min(gap.cpu(), gaps[step].cpu()))
    return float("nan")


def rounding_noise(model, prompt, caption: Sequence[int], first_logits: torch.Tensor) -> float:
    """Measure how far a difference of two logits is off by rounding alone.

    The whole row's ``first_logits`` (steps, V), made in a batch and on its cache, against
    those of the same ``caption`` in one pass by itself. Four times the largest difference,
    twice for two logits and twice since one comparison does not meet the worst case; at the
    least, what the dtype cannot tell apart.
    """
    if not len(first_logits):
        return 0.0
    ids = list(caption[:-1])
    alone = prompt
    if ids:
        alone = prompt.extend(model.embed(torch.tensor([ids], device=prompt.embeds.device)))
    last = alone.embeds.shape[1] - prompt.embeds.shape[1] + 1
    logits = model.forward(alone, last_only=False, last=last)[0][0].float()
    together = first_logits[: len(logits)]
    finest = 2 * torch.finfo(model.dtype).eps * float(together.abs().max())
    return max(4 * float((logits - together).abs().max()), finest)
