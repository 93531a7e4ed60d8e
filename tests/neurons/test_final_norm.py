"""The frozen final norm against its definition."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from mmn_utils.neurons.final_norm import frozen_norm


class OnePlus(nn.Module):
    """An RMS norm whose gain is one more than its weight, as some families have it."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * (1 + self.weight)


def lively(norm: nn.Module, dtype=torch.float32) -> SimpleNamespace:
    """Give a norm random weights and dress it as a model."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    width = next(norm.parameters()).shape[0]
    norm = norm.to(dtype)
    return SimpleNamespace(
        final_norm=norm, device=torch.device("cpu"), sizes=SimpleNamespace(width=width)
    )


def by_formula(norm: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the divisor (T,) and the matrix (d, d) of the rest, from the definition."""
    width = x.shape[-1]
    if isinstance(norm, nn.LayerNorm):
        centre = torch.eye(width) - 1 / width
        return (x.var(-1, unbiased=False) + norm.eps).sqrt(), norm.weight[:, None] * centre
    gain = 1 + norm.weight if isinstance(norm, OnePlus) else norm.weight
    eps = 1e-6
    return (x.square().mean(-1) + eps).sqrt(), torch.diag(gain)


@pytest.mark.parametrize("size", [1e-3, 1.0, 300.0])
@pytest.mark.parametrize(
    "build",
    [nn.LayerNorm, LlamaRMSNorm, OnePlus, partial(nn.RMSNorm, eps=1e-6)],
    ids=["layer", "llama", "one plus", "rms"],
)
def test_the_frozen_norm_is_the_formula(build, size):
    model = lively(build(24))
    generator = torch.Generator().manual_seed(1)
    x, rows = torch.randn(2, 7, 24, generator=generator)
    x = size * (x + 0.7)  # with a mean
    frozen = frozen_norm(model, "final")
    with torch.no_grad():
        scale, matrix = by_formula(model.final_norm, x)
        torch.testing.assert_close(frozen.scale(x), scale, rtol=1e-4, atol=0)
        torch.testing.assert_close(frozen.fold(rows), rows @ matrix, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("build", [nn.LayerNorm, LlamaRMSNorm])
def test_the_frozen_norm_in_16_bits(build, dtype):
    model = lively(build(256), dtype)
    x = torch.randn(5, 256, generator=torch.Generator().manual_seed(1)).to(dtype).float()
    with torch.no_grad():
        scale, _ = by_formula(model.final_norm.float(), x)
        model.final_norm.to(dtype)
        torch.testing.assert_close(frozen_norm(model, "final").scale(x), scale, rtol=3e-3, atol=0)


def test_a_norm_of_another_kind_is_refused():
    model = lively(nn.Sequential(nn.LayerNorm(24), nn.Tanh()))
    with pytest.raises(ValueError, match="Sequential"):
        frozen_norm(model, "final").scale(torch.randn(2, 24))
