"""Numbers that a type cannot hold: weights, and logits of pictures, that are not finite.

float16 ends at 65504. What is larger becomes infinite, and soon no number at all, of which
the most probable token is still one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_REMEDY = "load the model with dtype='bfloat16', which reaches as far as float32"


class NotFinite(ValueError):
    """A weight or a result is infinite or no number; the message says which, and the remedy."""


def require_finite_weights(name: str, *parts: nn.Module) -> None:
    """Raise ``NotFinite`` naming the first weight of some modules that is not finite.

    ``name`` is that of the system. Weights that are not here (meta) or quantised are left out.
    """
    for part in parts:
        for key, weight in part.named_parameters():
            if not _is_finite(weight.detach()):
                wrong = int((~weight.detach().isfinite()).sum())
                half = weight.dtype == torch.float16
                raise NotFinite(
                    f"{wrong} of the {weight.numel()} numbers in the weight {key} of {name} are "
                    f"not finite in {weight.dtype}; "
                    f"{_REMEDY if half else 'fetch or save the weights again'}"
                )


def _is_finite(weight: Tensor) -> bool:
    """Say whether all numbers are finite, by the two outermost: no copy is made."""
    small = not weight.is_floating_point() or weight.element_size() < 2
    if small or weight.is_meta or not weight.numel():
        return True
    low, high = torch.aminmax(weight)
    return bool(low.isfinite() & high.isfinite())


def require_finite(
    model, values: Tensor, images: Sequence[str] | None = None, what: str = "logits"
) -> None:
    """Raise ``NotFinite`` naming the first picture of whose ``values`` (B, ...) one is not finite.

    ``images`` are the rows' ids; without them a picture is named by its place in the batch.
    """
    wrong = (~values.isfinite()).flatten(1).any(1) if values.ndim > 1 else ~values.isfinite()
    if wrong.any():
        refuse(model, int(wrong.nonzero()[0]), images, what)


def refuse(model, row: int, images: Sequence[str] | None, what: str = "logits") -> None:
    """Raise ``NotFinite`` for the picture in a row of a batch."""
    named = f"picture {images[row]!r}" if images else f"the picture in row {row} of the batch"
    half = model.dtype == torch.float16
    remedy = _REMEDY if half else "leave the picture out, or undo what was changed in the model"
    raise NotFinite(f"the {what} of {named} are not finite in {model.dtype}; {remedy}")
