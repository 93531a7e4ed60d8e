"""Norms behind attention and MLP: found by what they read, and folded into write vectors."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from mmn_utils.models.architectures import Architecture
from mmn_utils.models.auto.modules import Unsupported
from mmn_utils.models.auto.sums import Pass


def with_norms(model: nn.Module, found: Architecture, seen: Pass, fold_norms: bool) -> Architecture:
    """Take the norms behind attention and MLP into account; fold the latter if asked to."""
    norm = _norm_behind(model, found, seen, found.act)
    if norm and not fold_norms:
        kind = type(model.get_submodule(f"{found.layers}.0")).__name__
        raise Unsupported(
            f"{norm} of {type(model).__name__}'s {kind} stands between what the MLP writes and the "
            "residual stream, so write vectors do not enter the stream as they are; give "
            "fold_norms=True to fold it into them (see fold_norm for what an activation then is)"
        )
    behind = _norm_behind(model, found, seen, found.attention)
    found = replace(found, attention=behind or found.attention)
    return fold_norm(model, found, norm) if norm else found


def _norm_behind(model: nn.Module, found: Architecture, seen: Pass, path: str) -> str | None:
    """Find the module of every layer that reads just what ``path`` writes, if there is one."""
    layers = model.get_submodule(found.layers)

    def reads(index: int, name: str) -> bool:
        read = seen.read.get(f"{found.layers}.{index}.{name}")
        written = seen.written[f"{found.layers}.{index}.{path}"]
        return read is not None and torch.equal(read, written)

    names = [name for name, _ in layers[0].named_children()]
    return next((n for n in names if all(reads(i, n) for i in range(len(layers)))), None)


class FoldedNorm(nn.Module):
    """The second matrix of an MLP and the RMS norm behind it, as write vectors of scaled units.

    With W the matrix, g the norm's gain and r(y) = (mean y^2 + eps)^(-1/2), the norm of W a
    times g is (g W) (a r(W a)): ``write`` holds g W, and what it reads, a r(W a), takes the
    activation's place. Then columns of ``write`` are what the units add to the stream.
    """

    def __init__(self, matrix: nn.Linear, gain: Tensor, eps: float) -> None:
        super().__init__()
        self.matrix, self.eps = matrix, eps
        units, width = matrix.in_features, matrix.out_features
        self.write = nn.Linear(units, width, bias=False, device="meta")
        weight = (gain[:, None] * matrix.weight.detach().float()).to(matrix.weight)
        self.write.load_state_dict({"weight": weight}, assign=True)
        self.requires_grad_(False)

    def forward(self, activation: Tensor) -> Tensor:
        """Scale the activations (B, T, units) as the norm would, then write (B, T, d)."""
        y = self.matrix(activation)
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        scale = torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return self.write(activation * scale.to(activation))


def fold_norm(model: nn.Module, architecture: Architecture, norm: str) -> Architecture:
    """Fold the norm behind every MLP into write vectors, in place; returns the new paths.

    The model computes what it did, up to rounding. A neuron's activation is then divided by
    the root mean square of what its MLP writes at that token, so an intervention on it
    leaves that scale as it is, as one does that freezes the final norm; and an edit of a
    write vector likewise. Costs a second copy of the MLPs' second matrices. ``Unsupported``
    for a matrix with a bias or another kind of norm.
    """
    for index, layer in enumerate(model.get_submodule(architecture.layers)):
        matrix, where = layer.get_submodule(architecture.act), f"{architecture.layers}.{index}"
        if matrix.bias is not None:
            raise Unsupported(f"{where}.{architecture.act} has a bias, which {norm} would scale")
        gain, eps = _rms(layer.get_submodule(norm), matrix, f"{where}.{norm}")
        place, _, name = architecture.act.rpartition(".")
        setattr(layer.get_submodule(place), name, FoldedNorm(matrix, gain, eps))
        setattr(layer, norm, nn.Identity())
    return replace(architecture, act=f"{architecture.act}.write")


@torch.no_grad()
def _rms(norm: nn.Module, matrix: nn.Linear, where: str) -> tuple[Tensor, float]:
    """Measure gain (d) and eps of an RMS norm by what it does; ``Unsupported`` for another kind."""
    eps = getattr(norm, "eps", None) or getattr(norm, "variance_epsilon", 0.0)
    width, device = matrix.out_features, matrix.weight.device
    gain = norm(torch.ones(1, width, device=device))[0] * math.sqrt(1 + eps)
    x = torch.randn(4, width, generator=torch.Generator().manual_seed(0)).to(device)
    x = x * torch.tensor([1e-3, 0.1, 1.0, 30.0], device=device)[:, None]
    expected = gain * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    if not torch.allclose(norm(x), expected, rtol=1e-4, atol=1e-6):
        raise Unsupported(f"{where} is a {type(norm).__name__}, no RMS norm; it cannot be folded")
    return gain, eps
