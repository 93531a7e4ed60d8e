"""One file per system; ``load_model`` finds them by name."""

from __future__ import annotations

from pathlib import Path

import torch

from ..presets import from_root
from .base import VisionLanguageModel
from .limber import MINIATURES, MissingParts, build_limber, load_limber, load_miniature

__all__ = ["MissingParts", "VisionLanguageModel", "build_limber", "load_model"]

_LOADERS = {"limber": load_limber}


def load_model(
    name_or_path: str | Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype | str | None = None,
    **facts,
) -> VisionLanguageModel:
    """Load a system by name, or a miniature of your own by its folder.

    ``facts`` are those of the system's loader: for ``limber`` projection, encoder,
    language_model, tokenizer, revision. ``dtype`` may be a name such as "bfloat16".
    Raises ``MissingParts`` where weights are missing, ``ValueError`` for other names.
    """
    name = str(name_or_path)
    dtype = _dtype(dtype)
    if name in MINIATURES:
        return load_miniature(name, device=device, dtype=dtype, **facts)
    if name in _LOADERS:
        return _LOADERS[name](device=device, dtype=dtype, **facts)
    folder = from_root(name_or_path)
    if (folder / "vision.json").is_file():
        return load_miniature(folder=folder, device=device, dtype=dtype, **facts)
    names = ", ".join([*MINIATURES, *_LOADERS])
    raise ValueError(
        f"model = {name!r} is neither a name ({names}) nor a folder with vision.json, "
        "language_model/ and the weights of a miniature"
    )


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Take a type by its name in torch."""
    if not isinstance(dtype, str):
        return dtype
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype = {dtype!r}: give float32, bfloat16 or float16")
    return found
