"""Could rounding alone have changed a caption? The margin of a change, and the noise of logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmn_utils.models.branches import Trunk, past_of_all


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


def rounding_noise(
    model, prompt, caption: Sequence[int], first_logits: torch.Tensor, trunk: Trunk | None = None
) -> float:
    """Measure how far a difference of two logits is off by rounding alone.

    The whole row's ``first_logits`` (steps, V), made in a batch and on its cache, against
    those of the same ``caption`` in one pass by itself, behind the ``trunk`` where rows share
    one: there they cannot differ. Four times the largest difference,
    twice for two logits and twice since one comparison does not meet the worst case; at the
    least, what the dtype cannot tell apart.
    """
    if not len(first_logits):
        return 0.0
    logits = _alone(model, prompt, list(caption[:-1]), trunk).float()
    together = first_logits[: len(logits)]
    finest = 2 * torch.finfo(model.dtype).eps * float(together.abs().max())
    return max(4 * float((logits - together).abs().max()), finest)


def _alone(model, prompt, ids: list[int], trunk: Trunk | None) -> torch.Tensor:
    """Return the logits (tokens + 1, V) behind a prompt and behind each of some tokens."""
    tokens = torch.tensor([ids], dtype=torch.long, device=prompt.embeds.device)
    if trunk is None:
        longer = prompt.extend(model.embed(tokens)) if ids else prompt
        return model.forward(longer, last_only=False, last=len(ids) + 1)[0][0]
    if not ids:
        return trunk.logits
    tail, past = prompt.next(model.embed(tokens)), past_of_all(trunk, [], 1)
    more, _ = model.forward(tail, past=past, use_cache=True, last_only=False, last=len(ids))
    return torch.cat([trunk.logits, more[0]])
