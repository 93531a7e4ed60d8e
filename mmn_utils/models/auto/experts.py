"""A mixture of experts as one wide gated MLP: each unit of each expert is a unit of the layer.

The block's own router runs as it is, with stand-ins for its experts that note what it sends
them. Units of an expert that was not routed have activation zero, those of one that was have
the router's weight in it, so that activations times write vectors are what the block adds. A
shared expert's units stand behind the others'. All experts are computed, which costs as many
times the routed ones' operations as there are experts for each that is routed to.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mmn_utils.models.architectures import Experts
from mmn_utils.models.capture import output_of
from mmn_utils.models.copies import agree, linear_of

GATE_UP, DOWN = "gate_up_proj", "down_proj"  # parameters (experts, ...) of all experts
SHARED = ("shared_expert", "shared_experts")
ROUTERS = ("router", "gate")


class _Routed(nn.Module):
    """Stands for the experts: notes tokens, which experts get them and with which weights."""

    def forward(self, tokens: Tensor, index: Tensor | None = None, weights: Tensor | None = None):
        """Add nothing."""
        self.seen = index, weights
        return torch.zeros_like(tokens)


class _Ones(nn.Module):
    """Stands for the shared expert, to see by what its output is multiplied."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Write ones."""
        return torch.ones_like(tokens)


class SpreadExperts(nn.Module):
    """A block of experts whose units are those of one gated MLP: ``pre`` gives Z.

    ``block`` is the model's own, its experts under the name ``place``; ``weights`` are gate, up
    (units, d) and down (d, units); ``before``: the router's weights multiply what experts read,
    not what they write.
    """

    def __init__(
        self,
        block: nn.Module,
        place: str,
        weights: tuple[Tensor, ...],
        act: nn.Module,
        before: bool,
    ) -> None:
        super().__init__()
        experts = getattr(block, place)
        self.count, self.place, self.before = len(getattr(experts, DOWN)), place, before
        shared = next((name for name in SHARED if hasattr(block, name)), None)
        beside = [] if shared is None else _linear_weights(getattr(block, shared))
        self.shared = len(beside[0]) if beside else 0
        self.units = len(weights[0]) // self.count
        gate, up, down = (
            torch.cat([part, more], dim=axis) if beside else part
            for part, more, axis in zip(weights, beside or weights, (0, 0, 1), strict=True)
        )
        self.gate_proj, self.up_proj, self.down_proj = map(linear_of, (gate, up, down))
        self.pre, self.act_fn = nn.Identity(), act
        self.block = _emptied(block, {place: _Routed(), **({shared: _Ones()} if shared else {})})

    @property
    def experts(self) -> Experts:
        """How units belong to experts."""
        return Experts(self.count, self.units, self.shared)

    def forward(self, x: Tensor):
        """Write (B, T, d) for the normed stream (B, T, d), with what else the block returns."""
        out = self.block(x)
        factor, rest = (out[0], out[1:]) if isinstance(out, tuple) else (out, ())
        weights = self._weights(x)
        each = weights.repeat_interleave(self.units, dim=-1)
        alone = factor.reshape(x.shape)[..., :1].expand(*x.shape[:-1], self.shared)
        z, up = self.gate_proj(x), self.up_proj(x)
        if self.before:
            beside = torch.cat([each, torch.ones_like(alone)], dim=-1).to(x)
            activation = self.act_fn(self.pre(z * beside)) * (up * beside)
        else:
            activation = self.act_fn(self.pre(z)) * up * torch.cat([each, alone], dim=-1).to(x)
        out = self.down_proj(activation)
        return (out, *rest) if rest else out

    def _weights(self, x: Tensor) -> Tensor:
        """Write out the router's weights of all experts, zero where not routed: (B, T, experts)."""
        index, weights = getattr(self.block, self.place).seen
        if index is None:
            router = next(
                getattr(self.block, name) for name in ROUTERS if hasattr(self.block, name)
            )
            dense = router(x.flatten(0, -2))[0]
        else:
            dense = weights.new_zeros(len(index), self.count + 1)  # the last: to nobody
            dense = dense.scatter_add(1, index, weights)[:, : self.count]
        return dense.unflatten(0, x.shape[:-1])


@torch.no_grad()
def spread_experts(block: nn.Module) -> SpreadExperts | None:
    """Spread a block of experts; None for what is none, or does other than what is known.

    How the weights lie, which half is the gate and where the router's weights multiply is
    settled by numbers.
    """
    place = next((name for name, part in block.named_children() if _are_experts(part)), None)
    if place is None:
        return None
    experts = getattr(block, place)
    weight, act = getattr(experts, DOWN), getattr(experts, "act_fn", None)
    if weight.is_meta or act is None:
        return None
    for weights in _layouts(getattr(experts, GATE_UP).detach(), weight.detach()):
        x = torch.randn(1, 8, len(weights[2]), generator=torch.Generator().manual_seed(0))
        x = x.to(weight)
        for before in (False, True):
            try:
                spread = SpreadExperts(block, place, weights, act, before)
                same = agree(output_of(spread(x)), output_of(block(x)))
            except (TypeError, RuntimeError, AttributeError):  # of another build
                continue
            if same:
                return spread.requires_grad_(False)
    return None


def _are_experts(part: nn.Module) -> bool:
    weights = dict(part.named_parameters(recurse=False))
    return set(weights) == {GATE_UP, DOWN} and all(w.ndim == 3 for w in weights.values())


def _layouts(gate_up: Tensor, down: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Go through gate, up (units, d) and down (d, units) as the weights of all experts may lie."""
    for turned, swapped in itertools.product((False, True), repeat=2):
        first, last = (w.transpose(1, 2) if turned else w for w in (gate_up, down))
        if first.shape[1] != 2 * last.shape[2] or first.shape[2] != last.shape[1]:
            continue
        gate, up = (half.flatten(0, 1) for half in first.chunk(2, dim=1))
        gate, up = (up, gate) if swapped else (gate, up)
        yield gate, up, last.transpose(0, 1).flatten(1)


def _linear_weights(mlp: nn.Module) -> list[Tensor]:
    return [getattr(mlp, f"{name}_proj").weight.detach() for name in ("gate", "up", "down")]


def _emptied(block: nn.Module, stand_ins: dict[str, nn.Module]) -> nn.Module:
    """Copy a block with some children replaced; everything else is shared."""
    new = block.__class__.__new__(block.__class__)
    new.__dict__.update(block.__dict__)
    new.__dict__["_modules"] = {**block._modules, **stand_ins}
    return new
