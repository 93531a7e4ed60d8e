"""Products with weights in float32 on a processor with AVX-512: by oneDNN instead of by MKL.

torch brings both, and gives products in float32 to MKL. MKL chooses by who made the processor,
and on AVX-512 that is not Intel's runs its kernels for AVX2, at half the pace; oneDNN asks which
instructions there are. Both sum in float32, in another order: over long rows its rounding is
twice as large. It compiles a kernel for each number of rows, and keeps it, some hundred
kilobytes. Who wants torch's own way, as for numbers that do not hang on the kind of processor,
sets ATEN_CPU_CAPABILITY=avx2 in the environment.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import flop_registry, register_flop_formula

FEWEST = 4  # rows from which it is faster: below, both wait for the weights
WORK = 1_000_000  # and products of numbers: below, what a call costs is more
_PRODUCT = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
CAPABLE = (  # the processor, and this build of torch
    _PRODUCT is not None
    and torch.backends.mkldnn.is_available()
    and torch.backends.mkl.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
)

if _PRODUCT is not None and _PRODUCT not in flop_registry:

    @register_flop_formula(_PRODUCT)
    def _operations(rows, weight, *_arguments, out_shape=None, **_options) -> int:
        """Count two operations for each entry of what comes out and each column of the weight."""
        return 2 * torch.Size(rows).numel() * weight[0]


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply rows (..., in) by a weight (out, in), a bias added: (..., out).

    As ``torch.nn.functional.linear`` but for rounding, and as differentiable in the rows.
    """
    if not _is_faster(rows, weight, bias):
        return F.linear(rows, weight, bias)
    if rows.requires_grad and torch.is_grad_enabled():
        flat = _Linear.apply(rows.reshape(-1, rows.shape[-1]), weight, bias)
        return flat.view(*rows.shape[:-1], len(weight))  # a view that may be written to
    return _product(rows, weight, bias)


class Linear(nn.Linear):
    """A linear map that computes by ``linear``."""

    def forward(self, input: Tensor) -> Tensor:
        """Multiply by the weight as it is now: (..., in) to (..., out)."""
        return linear(input, self.weight, self.bias)


PLAIN = (nn.Linear, Linear)  # types of maps that are a matrix and nothing else


def quicken(module: nn.Module) -> int:
    """Let the plain linear maps of a module compute by ``linear``; return how many do.

    Weights, hooks and copies stay as they are; where somebody wrapped a forward, it stays too.
    """
    plain = [m for m in module.modules() if type(m) is nn.Linear and "forward" not in m.__dict__]
    for one in plain:
        one.__class__ = Linear
    return len(plain)


def is_plain(module: nn.Module) -> bool:
    """Say whether a module is a matrix, and a bias, and nothing else."""
    return type(module) in PLAIN


class _Linear(torch.autograd.Function):
    """The product with a frozen weight: its gradient is a product with the weight turned."""

    @staticmethod
    def forward(ctx, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _product(rows, weight, bias)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return linear(gradient, weight.T), None, None


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _PRODUCT(rows, weight, bias, "none", [], "")


def _is_faster(rows: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Say whether oneDNN takes the product: float32 on a processor with AVX-512, weights frozen.

    Enough rows of it, and weights that lie dense: others take it long. Not where torch records
    what is done, or does it in another way (``torch.compile``, ``torch.jit``, ``torch.func``,
    forward differentiation, autocast): the operator is unknown there.
    """
    return (
        CAPABLE
        and not torch.compiler.is_compiling()
        and rows.dim() > 1
        and rows.numel() >= FEWEST * rows.shape[-1]
        and rows.numel() * weight.shape[0] >= WORK
        and rows.shape[-1] == weight.shape[-1]
        and type(rows) is Tensor
        and _is_plain(rows)
        and _is_frozen(weight)
        and weight.dim() == 2
        and (weight.is_contiguous() or weight.T.is_contiguous())
        and (bias is None or _is_frozen(bias))
        and (bias is None or (bias.shape == weight.shape[:1] and bias.is_contiguous()))
        and torch.backends.mkldnn.enabled
        and not _is_watched()
    )


def _is_plain(tensor: Tensor) -> bool:
    return tensor.is_cpu and tensor.dtype is torch.float32 and tensor.layout is torch.strided


def _is_frozen(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter) and _is_plain(tensor) and not tensor.requires_grad


def _is_watched() -> bool:
    return (
        forward_ad._current_level >= 0
        or bool(torch._C._functorch.peek_interpreter_stack())
        or torch._C._get_tracing_state() is not None
        or torch.is_autocast_enabled("cpu")
    )
