"""MLPs and layers written another way: the same sums, with modules where neurons can be read.

A model computes what it did, up to the order of summation; weights are shared, not copied.

============  ==========================================================================
fused gate    one linear map gives gate and up: two maps on views of its rows (``SplitMLP``)
crossing      a layer that attends to the picture alone has its attention under the name that
              the others have; its MLP acts only at tokens that may see the picture, so the
              units are silent at the others (``RowMask``)
flattened     linear maps that a layer gives (B T, d) read and write (B, T, d) (``InRows``)
============  ==========================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmn_utils.models.copies import agree, linear_of

CROSSING = ("cross_attn",)  # attention of a layer that reads the picture, in the place of its own
FLATTENED = ("self_attn_layer_norm", "fc1", "fc2")  # of a layer: a norm that reads rows, the maps
ROWS = "full_text_row_masked_out_mask"  # (B, 1, T, 1): 0 at tokens that see no picture


class SplitMLP(nn.Module):
    """A gated MLP whose gate and up were one linear map ``fused``: ``down(act(gate x) * up x)``."""

    def __init__(self, fused: nn.Linear, down: nn.Linear, act: nn.Module, gate_first: bool) -> None:
        super().__init__()
        first, second = (_rows(fused, half) for half in (0, 1))
        self.gate_proj, self.up_proj = (first, second) if gate_first else (second, first)
        self.act_fn, self.down_proj = act, down

    def forward(self, x: Tensor) -> Tensor:
        """Write (..., d) for the normed stream (..., d)."""
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


def _rows(fused: nn.Linear, half: int) -> nn.Linear:
    """Make a linear map of one half of another's outputs, on views of its weights."""
    units = fused.out_features // 2
    rows = slice(half * units, (half + 1) * units)
    state = {name: value.detach()[rows] for name, value in fused.named_parameters()}
    return linear_of(**state).requires_grad_(False)


@torch.no_grad()
def split_fused(mlp: nn.Module) -> SplitMLP | None:
    """Split an MLP of two linear maps, the first with two outputs for each unit; None for others.

    Which half is the gate, numbers say.
    """
    parts = list(mlp.children())
    linear = [part for part in parts if isinstance(part, nn.Linear)]
    acts = [part for part in parts if not any(True for _ in part.parameters())]
    acts = [part for part in acts if not isinstance(part, (nn.Dropout, nn.Identity))]
    if len(linear) != 2 or len(acts) != 1 or len(parts) - len(linear) - len(acts) > 1:
        return None
    fused, down = sorted(linear, key=lambda part: part.out_features != 2 * _other(linear, part))
    if fused.out_features != 2 * down.in_features or fused.weight.is_meta:
        return None
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, fused.in_features, generator=generator).to(fused.weight)
    split = [SplitMLP(fused, down, acts[0], gate_first) for gate_first in (True, False)]
    try:
        own = mlp(x)
        same = [agree(one(x), own) for one in split]
    except (TypeError, RuntimeError, AttributeError):  # of another build
        return None
    return next((one for one, fits in zip(split, same, strict=True) if fits), None)


def _other(linear: list[nn.Linear], part: nn.Linear) -> int:
    """Return how many values the other of two linear maps reads."""
    return linear[1 if part is linear[0] else 0].in_features


class RowMask(nn.Module):
    """The nonlinearity of an MLP that acts at some tokens only: zero at the others.

    ``rows`` (B, T, 1) is what the layer was last given; None: all tokens.
    """

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.act, self.rows = act, None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, units)."""
        activated = self.act(x)
        return activated if self.rows is None else activated * self.rows.to(activated)


def align_crossing(layers: nn.ModuleList, attentions: tuple[str, ...]) -> tuple[int, ...]:
    """Give layers that attend to the picture alone the others' names; returns which they are."""
    usual = next((n for n in attentions if any(hasattr(layer, n) for layer in layers)), None)
    found = []
    for index, layer in enumerate(layers):
        other = next((name for name in CROSSING if hasattr(layer, name)), None)
        if usual is None or other is None:
            continue
        if not hasattr(layer, usual):
            _rename(layer, other, usual)
            layer.mlp.act_fn = RowMask(layer.mlp.act_fn)
        if other not in layer._modules:
            found.append(index)
    return tuple(found)


def _rename(layer: nn.Module, old: str, new: str) -> None:
    """Give a layer's attention another name, in place, and tell its MLP at which tokens it acts."""
    kind = type(layer)

    def forward(self, *args, **kwargs):
        rows = kwargs.get(ROWS)
        self.mlp.act_fn.rows = None if rows is None else rows[:, 0]
        return kind.forward(self, *args, **kwargs)

    names = {old: property(lambda self: getattr(self, new)), "forward": forward}
    layer.add_module(new, layer._modules.pop(old))
    layer.__class__ = type(kind.__name__, (kind,), names)


@dataclass
class _Shape:
    """Rows and tokens of the pass that is running."""

    rows: int = 1
    tokens: int = -1


class Watched(nn.Module):
    """A module of a layer that reads (B, T, d), and tells others B and T."""

    def __init__(self, inner: nn.Module, shape: _Shape) -> None:
        super().__init__()
        self.inner, self.shape = inner, shape

    def forward(self, x: Tensor) -> Tensor:
        """Do what the module does."""
        self.shape.rows, self.shape.tokens = x.shape[:2]
        return self.inner(x)


class InRows(nn.Module):
    """A linear map that is given (B T, d) and sees (B, T, d)."""

    def __init__(self, inner: nn.Linear, shape: _Shape) -> None:
        super().__init__()
        self.inner, self.shape = inner, shape

    def forward(self, x: Tensor) -> Tensor:
        """Map (B T, d), or (B, T, d)."""
        if x.ndim == 3:
            return self.inner(x)
        return self.inner(x.unflatten(0, (self.shape.rows, self.shape.tokens))).flatten(0, 1)


def unflatten(layer: nn.Module) -> None:
    """Let the linear maps of a layer that flattens its tokens see them in rows, in place."""
    parts = [layer._modules.get(name) for name in FLATTENED]
    if None in parts or isinstance(parts[0], Watched):
        return
    shape = _Shape()
    for name, part, kind in zip(FLATTENED, parts, (Watched, InRows, InRows), strict=True):
        setattr(layer, name, kind(part, shape))
