"""A norm with its scale frozen: what it does to one share of what it reads.

RMSNorm divides by a root mean square and multiplies by a gain; LayerNorm takes the mean
away first and adds a shift. At one token the divisor is one number, and with that number
held the norm is linear, so shares of what it reads become shares of what it gives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmn_utils.models.copies import precise_copy

_SIZE = 64.0  # of the probes: makes the norm's epsilon vanish
_ROUNDING = 1e-4  # of the norm's output


@dataclass(frozen=True, eq=False)
class FrozenNorm:
    """x to ``gain`` * (x, less its mean if ``centred``) / scale + ``shift``, (d) each.

    ``norm`` and numbers are in float32, or in float64 where the model's norm is.
    """

    norm: nn.Module
    gain: Tensor
    shift: Tensor
    centred: bool

    def fold(self, rows: Tensor) -> Tensor:
        """Put the norm, but for its scale, into rows (..., d) that are read behind it."""
        return self._centre(rows * self.gain)

    def share(self, vectors: Tensor) -> Tensor:
        """Send vectors (..., d) that are written before the norm through it, but for its scale."""
        return self.gain * self._centre(vectors)

    def scale(self, read: Tensor) -> Tensor:
        """Return what the norm divides each token of what it reads (..., d) by: (...,).

        Read off what the norm itself makes of it. ``ValueError`` for a norm that does
        something else.
        """
        read = read.to(self.gain.dtype)
        out, linear = self.norm(read) - self.shift, self.share(read)
        size = linear.square().sum(-1)
        scale = size / (linear * out).sum(-1)
        # nothing has no shares, whatever divides it
        scale = torch.where(size == 0, torch.ones_like(scale), scale)
        apart = (linear / scale[..., None] - out).norm(dim=-1)
        if not bool((apart <= _ROUNDING * out.norm(dim=-1)).all()):
            raise ValueError(
                f"the norm ({type(self.norm).__name__}) is no gain after a mean and a scale, so "
                "nothing has a share in it; for the final one use contribution_norm='none'"
            )
        return scale

    def _centre(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.centred else x


@torch.no_grad()
def freeze(norm: nn.Module, width: int, device) -> FrozenNorm:
    """Find gain and shift of a norm over ``width`` entries, and whether it takes a mean away.

    Found by asking a copy of the norm, so that no list of classes is needed: a vector of zeros
    gives the shift, a constant one vanishes where the mean is taken away, and one of
    alternating signs, whose mean is 0, gives the gain.
    """
    own = next((parameter.dtype for parameter in norm.parameters()), torch.float32)
    norm = precise_copy(norm, torch.promote_types(own, torch.float32))
    constant = torch.ones(width, device=device, dtype=torch.promote_types(own, torch.float32))
    signs = constant.clone()
    signs[1::2] = -1
    shift, flat, mixed = norm(torch.stack([0 * constant, _SIZE * constant, _SIZE * signs]))
    gain = (mixed - shift) * signs
    centred = bool((flat - shift).abs().max() < 1e-3 * gain.abs().max())
    return FrozenNorm(norm, gain.to(constant), shift.to(constant), centred)
