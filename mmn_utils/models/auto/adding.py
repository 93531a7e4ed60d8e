"""How a decoder layer adds up: its stream in, attention, MLP and what else is added, with factors.

Norms behind attention and MLP are known by what they read, factors by solving for them; what
so is found must give the layer's output at every token, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmn_utils.models.architectures import Adds
from mmn_utils.models.auto.modules import Unsupported
from mmn_utils.models.frozen_norm import freeze

Parts = dict[str, tuple[Tensor, Tensor]]  # path to what a module reads and gives
_NOTHING = 1e-4  # of a factor
_QUANTISED = 0.05  # most that rounding what a matrix reads changes, relative


@dataclass(frozen=True)
class Layer:
    """What one layer adds to the stream, paths inside it, and with which factors."""

    attention: str
    mlp_norm: str | None
    also: tuple[str, ...]
    adds: Adds


@dataclass(frozen=True, eq=False)
class _Sum:
    """A layer's output as a sum: ``out`` and its terms (1, T, d), the stream first."""

    out: Tensor
    terms: tuple[Tensor, ...]

    def holds(self, factors: Sequence[float]) -> bool:
        """Say whether the terms times factors are the output, up to the rounding of each."""
        scaled = [factor * term.double() for factor, term in zip(factors, self.terms, strict=True)]
        size = self.out.double().abs() + sum(term.abs() for term in scaled)
        return bool(((self.out - sum(scaled)).abs() <= 8 * self._eps * size).all())

    def solved(self) -> list[float]:
        """Solve for the factors."""
        columns = torch.stack([term.double().flatten() for term in self.terms], dim=1)
        whole = torch.linalg.lstsq(columns, self.out.double().flatten()[:, None])
        return whole.solution[:, 0].tolist()

    @property
    def _eps(self) -> float:
        return max(torch.finfo(term.dtype).eps for term in (self.out, *self.terms))


def add_up(
    layer: nn.Module, paths: tuple[str, str], where: str, parts: Parts, stream: Tensor, out: Tensor
) -> Layer:
    """Find what makes a layer's output of its stream (1, T, d); ``Unsupported`` if nothing does.

    ``paths``: of what gives attention's output in the layer, and of the MLP's second matrix.
    """
    for path in paths:
        if path not in parts:
            raise Unsupported(f"{where} does not call its {path}, so nothing can be read there")
    mixed, act = paths
    _require_linear(layer.get_submodule(act), f"{where}.{act}", *parts[act])
    attention = _behind(parts, mixed) or mixed
    norm = _behind(parts, act)
    if norm is not None:
        _require_norm(layer, norm, parts[norm][0], where)
    terms = stream, parts[attention][1], parts[norm or act][1]
    known = {attention, norm or act}
    for also in ((), *((path,) for path in _others(parts, known, out))):
        added = _Sum(out, (*terms, *(parts[path][1] for path in also)))
        factors = _factors(layer, added)
        if factors is not None:
            return Layer(attention, norm, also, _adds(factors))
    raise Unsupported(
        f"{where} ({type(layer).__name__}) adds more, or other, than its {attention} and "
        f"{norm or act} give"
    )


def _behind(parts: Parts, path: str) -> str | None:
    """Find the module that reads just what ``path`` gives; not one that only passes it on."""
    given = parts[path][1]
    for name, (read, written) in parts.items():
        same = read.shape == given.shape == written.shape and torch.equal(read, given)
        if same and not torch.equal(read, written):
            return name
    return None


def _require_linear(matrix: nn.Module, where: str, read: Tensor, written: Tensor) -> None:
    """Check that the second matrix of an MLP writes its weight times what it reads, if rounded."""
    if not matrix.weight.is_floating_point() or matrix.weight.is_meta:
        return  # what units write cannot be read then, which ``write_vectors`` says
    bias = getattr(matrix, "bias", None)
    linear = F.linear(read, matrix.weight.to(read), bias if bias is None else bias.to(read))
    apart = float((written - linear).norm() / linear.norm().clamp(min=1e-30))
    if apart > _QUANTISED:
        raise Unsupported(
            f"{where}, a {type(matrix).__name__}, does not give its weight times what it reads "
            f"(off by {apart:.0%}; weights quantised on the fly, or scaled), so its columns are "
            "not what units write"
        )


def _require_norm(layer: nn.Module, path: str, read: Tensor, where: str) -> None:
    """Check that a module behind the MLP is a norm whose scale can be frozen."""
    norm = layer.get_submodule(path)
    try:
        freeze(norm, read.shape[-1], read.device).scale(read)
    except (ValueError, RuntimeError, TypeError) as error:
        raise Unsupported(
            f"{where}.{path}, a {type(norm).__name__}, stands between what the MLP writes and the "
            "residual stream and is no norm (a gain after a mean and a scale), so units have no "
            "shares in what it gives"
        ) from error


def _others(parts: Parts, known: set[str], out: Tensor) -> Iterator[str]:
    """Go through the modules that may add something more, those of known terms left out."""
    for path, (_, written) in parts.items():
        if written.shape != out.shape or path in known:
            continue
        if not any(torch.equal(written, parts[other][1]) for other in known):
            yield path


def _factors(layer: nn.Module, added: _Sum) -> list[float] | None:
    """Find factors with which a sum holds, rather those that the layer holds; None if none do."""
    plain = [1.0] * len(added.terms)
    if added.holds(plain):
        return plain
    solved = added.solved()
    if min(map(abs, solved)) < _NOTHING:
        return None  # what does not count by itself may be inside another term
    held = [1.0, *numbers(layer)]
    whole = nearest(solved[0], held)
    named = [whole, *(whole * nearest(factor / solved[0], held) for factor in solved[1:])]
    return next((factors for factors in (named, solved) if added.holds(factors)), None)


def _adds(factors: Sequence[float]) -> Adds:
    whole, *rest = factors
    attention, mlp, *also = (factor / whole for factor in rest)
    return Adds(whole, attention, mlp, tuple(also))


def numbers(module: nn.Module) -> Iterator[float]:
    """Go through the single numbers that a module holds, as attributes or tensors."""
    tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    yield from (float(value) for value in tensors if value.numel() == 1)
    yield from (float(value) for value in vars(module).values() if type(value) in (int, float))


def nearest(factor: float, known: Iterable[float], within: float = 1e-4) -> float:
    """Take the known number that a factor is, up to the rounding of solving for it."""
    close = [value for value in known if abs(factor - value) <= within * abs(value)]
    return min(close, key=lambda value: abs(value - factor), default=factor)
