"""What the operations alone allow: how fast ours could be, were all of it one large product.

A way of answering has to multiply so many numbers, whatever it does about memory, caches and
calls. Those least operations at the pace that one large product has on this machine, measured in
the same run, are a time that no way of computing the same in float32 gets below by better order;
the plain way's time over it is the ceiling of the ratio. An aim above it cannot be met without
computing something else.

Counted are the products with weights and those of the encoder; attention, a hundredth at these
lengths, norms and the like are left out, which puts the ceiling too high if anything.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmn_utils.running.planning.measuring import multiply_rate

KEYS = ("self_attn.k_proj", "self_attn.v_proj")


@dataclass(eq=False)
class Operations:
    """Operations of a system's parts, one token or one picture: a product and a sum are two."""

    model: object

    @cached_property
    def layer(self) -> int:
        """Count those of one layer."""
        return sum(map(_of, _linear(self.model.layer(0))))

    @cached_property
    def keys(self) -> int:
        """Count those of one layer's keys and values."""
        return sum(_of(self.model.layer(0).get_submodule(name)) for name in KEYS)

    @cached_property
    def written(self) -> int:
        """Count those of one layer's second matrix."""
        return _of(self.model.act_module(0))

    @cached_property
    def head(self) -> int:
        """Count those of the unembedding."""
        return 2 * self.model.unembedding[0].numel()

    @cached_property
    def picture(self) -> int:
        """Count those of encoding and projecting one picture."""
        pixels = torch.zeros(1, 3, *[self.model.image_tokens.pixels] * 2)
        with torch.no_grad(), FlopCounterMode(display=False) as counted:
            self.model.projection(self.model.encoder.features(pixels))
        return counted.get_total_flops()

    @property
    def token(self) -> int:
        """Count those of one token of a caption: all layers, and the unembedding."""
        return self.model.sizes.layers * self.layer + self.head

    def prompt(self, tokens: int, layer: int = -1, read: int = 1) -> int:
        """Count those of a prompt that first differs at the activation of a layer; -1: from below.

        The last layer is needed at the last ``read`` tokens alone, but for its keys and values.
        """
        last = self.model.sizes.layers - 1
        if layer == last:
            return read * (self.written + self.head)
        between = tokens * (last - 1 - layer) * self.layer
        own = tokens * self.written if layer >= 0 else 0
        return own + between + tokens * self.keys + read * (self.layer - self.keys + self.head)


def _linear(module: nn.Module) -> Iterator[nn.Linear]:
    return (one for one in module.modules() if isinstance(one, nn.Linear))


def _of(module: nn.Linear) -> int:
    return 2 * module.weight.numel()


def pace() -> float:
    """Measure the operations a second of one large product on one thread, of processor time."""
    torch.set_num_threads(1)
    return multiply_rate("cpu", torch.float32, time.process_time)


@dataclass
class Meter:
    """Where the plain way's processor time goes: passes over many tokens, over one, all else."""

    prompts: float = 0.0
    tokens: float = 0.0
    begun: list[float] = field(default_factory=list)

    @contextmanager
    def on(self, language: nn.Module) -> Iterator[None]:
        """Read the clock around each pass of a language model."""

        def before(_module, _args, _kwargs) -> None:
            self.begun.append(time.process_time())

        def after(_module, _args, _kwargs, out) -> None:
            taken = time.process_time() - self.begun.pop()
            embeds = _kwargs.get("inputs_embeds")
            if embeds is not None and embeds.shape[1] > 1:
                self.prompts += taken
            else:
                self.tokens += taken

        hooks = [
            language.register_forward_pre_hook(before, with_kwargs=True),
            language.register_forward_hook(after, with_kwargs=True),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


@dataclass(frozen=True)
class Found:
    """Two ways' seconds, and what bounds them; ``same`` are the plain way's with our products.

    ``least`` operations of the answer, at ``pace`` a second; ``prompts`` and ``tokens`` are the
    shares of the plain way's time that passes over prompts, and over one token, take.
    """

    plain: float
    same: float
    ours: float
    least: float | None
    pace: float
    prompts: float
    tokens: float

    @property
    def ratio(self) -> float:
        """How many times as long the plain way takes."""
        return self.plain / self.ours

    @property
    def alike(self) -> float:
        """How many times as long the plain way takes with our products."""
        return self.same / self.ours

    @property
    def ceiling(self) -> float:
        """What the ratio could be at most; NaN where no operations were counted."""
        return self.plain * self.pace / self.least if self.least else float("nan")

    def __str__(self) -> str:
        told = f"plain over ours {self.ratio:.2f} x, with our products {self.alike:.2f} x"
        if not self.least:
            return told
        return (
            f"{told}; the operations alone, {self.least / 1e9:.0f} G at {self.pace / 1e9:.0f} G a "
            f"second, allow {self.ceiling:.2f} x (plain: {self.plain:.1f} s, {self.prompts:.0%} "
            f"of it prompts, {self.tokens:.0%} single tokens; ours {self.ours:.1f} s)"
        )


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Count the tokens with which two captions begin alike."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
                min(len(one), len(other)))  # fmt: skip
