"""The final norm with its scale frozen: what it does to one share of the residual stream.

RMSNorm divides by a root mean square and multiplies by a gain; LayerNorm takes the mean
away first and adds a shift. At one token the divisor is one number, and with that number
held the norm is linear, so shares of the residual stream become shares of the logit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

_SIZE = 64.0  # of the probes: makes the norm's epsilon vanish, and is exact in 16 bits
_ROUNDING = {torch.float16: 1e-2, torch.bfloat16: 3e-2}  # of the norm's output; else 1e-4


@dataclass(frozen=True, eq=False)
class FrozenNorm:
    """x to ``gain`` * (x, less its mean if ``centred``) / scale + ``shift``, (d) float32 each."""

    norm: nn.Module
    gain: torch.Tensor
    shift: torch.Tensor
    centred: bool

    def fold(self, rows: torch.Tensor) -> torch.Tensor:
        """Put the norm, but for its scale, into rows of the unembedding (T, d)."""
        return self._centre(rows * self.gain)

    def scale(self, residual: torch.Tensor) -> torch.Tensor:
        """Return what the norm divides each token of the residual stream (T, d) by: (T,).

        Read off what the norm itself makes of it. ``ValueError`` for a norm that does
        something else.
        """
        dtype = next(self.norm.parameters()).dtype
        out = self.norm(residual.to(dtype)).float() - self.shift
        linear = self.gain * self._centre(residual.float())
        scale = linear.square().sum(-1) / (linear * out).sum(-1)
        apart = (linear / scale[:, None] - out).norm(dim=-1) / out.norm(dim=-1)
        if not bool((apart < _ROUNDING.get(dtype, 1e-4)).all()):
            raise ValueError(
                f"the final norm ({type(self.norm).__name__}) is no gain after a mean and a "
                "scale; use contribution_norm='none'"
            )
        return scale

    def _centre(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(-1, keepdim=True) if self.centred else x


@torch.no_grad()
def frozen_norm(model, contribution_norm: str) -> FrozenNorm | None:
    """Return the frozen final norm for ``final``, None for ``none``; ``ValueError`` else.

    Found by asking the norm, so that no list of classes is needed: a vector of zeros gives
    the shift, a constant one vanishes where the mean is taken away, and one of alternating
    signs, whose mean is 0, gives the gain.
    """
    if contribution_norm not in ("none", "final"):
        raise ValueError(f"contribution_norm={contribution_norm!r}: give 'none' or 'final'")
    if contribution_norm == "none":
        return None
    norm, constant = model.final_norm, torch.ones(model.sizes.width, device=model.device)
    signs = constant.clone()
    signs[1::2] = -1
    probes = torch.stack([0 * constant, _SIZE * constant, _SIZE * signs])
    shift, flat, mixed = norm(probes.to(next(norm.parameters()).dtype)).float()
    gain = (mixed - shift) * signs
    centred = bool((flat - shift).abs().max() < 1e-3 * gain.abs().max())
    return FrozenNorm(norm, gain, shift, centred)
