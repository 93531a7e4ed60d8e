"""Modules made of weights that are there: linear maps, and copies in another type.

A copy is to compute beside a model without a trace on it.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def linear_of(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """Make a linear map of a weight (out, in) and a bias (out) as they are, without a copy."""
    part = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    state = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    part.load_state_dict(state, assign=True)
    return part


def agree(mine: Tensor, own: Tensor) -> bool:
    """Say whether a module written another way gives what the own one does, up to rounding."""
    rounding = 64 * torch.finfo(own.dtype).eps
    mine, own = mine.reshape(own.shape).double(), own.double()
    return bool((mine - own).abs().max() <= rounding * own.abs().max())


def precise_copy(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Copy a module with its floating point weights and buffers in ``dtype``, without hooks.

    What is in that type already is shared, so that only other weights take memory. What
    Accelerate wraps around a module's forward is left off.
    """
    new = copy.copy(module)
    facts = new.__dict__
    for kind in ("_parameters", "_buffers"):
        facts[kind] = {name: _as(value, dtype) for name, value in facts[kind].items()}
    facts["_modules"] = {
        name: child if child is None else precise_copy(child, dtype)
        for name, child in facts["_modules"].items()
    }
    facts.update({name: type(facts[name])() for name in _HOOKS})
    if "_old_forward" in facts:
        facts.pop("forward")
    return new


def _as(value: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    floating = value is not None and value.is_floating_point()
    return value.detach().to(dtype) if floating else value
