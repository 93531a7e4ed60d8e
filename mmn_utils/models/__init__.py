"""A file or a folder for each system; ``load_model`` finds them by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch

from mmn_utils.models.base import VisionLanguageModel
from mmn_utils.models.folders import FACTS, read_record
from mmn_utils.models.hub import MissingParts, require_files
from mmn_utils.models.limber import MINIATURES, build_limber, load_miniature
from mmn_utils.presets import data_path, from_root

__all__ = ["MissingParts", "VisionLanguageModel", "build_limber", "load_model"]

_SYSTEMS = ("limber", "llava", "instructblip", "mplug_owl2")  # module and loader have the name
_FOLDERS = {f"miniature/{system}": system for system in _SYSTEMS[1:]}
_HUB_NAME = re.compile(r"(?!miniature/)[\w.-]+/[\w.-]+")


def load_model(
    name_or_path: str | Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype | str | None = None,
    **facts,
) -> VisionLanguageModel:
    """Load a system by name, by its folder, or by its name on the hub.

    ``facts`` are those of the system's loader: for ``limber`` projection, encoder,
    language_model, tokenizer, revision. ``dtype`` may be a name such as "bfloat16". A
    folder with ``facts.json`` or ``vision.json`` is a miniature; any other model of
    transformers that describes pictures is loaded as ``auto.load_auto`` does. Raises
    ``MissingParts`` where weights are missing, ``ValueError`` for other names.
    """
    name = str(name_or_path)
    options = {"device": device, "dtype": _dtype(dtype), **facts}
    if name in MINIATURES:
        return load_miniature(name, **options)
    if name in _SYSTEMS:
        return _loader(name)(**options)
    if name in _FOLDERS:
        return _load_folder(name, data_path(*name.split("/")), _FOLDERS[name], options)
    folder = from_root(name_or_path)
    if (folder / FACTS).is_file():
        return _load_folder(name, folder, read_record(folder)["system"], options)
    if (folder / "vision.json").is_file():
        return load_miniature(folder=folder, **options)
    if (folder / "config.json").is_file():
        return _loader("auto")(folder, **options)
    if not folder.exists() and _HUB_NAME.fullmatch(name):
        return _loader("auto")(name, **options)
    names = ", ".join([*MINIATURES, *_FOLDERS, *_SYSTEMS])
    raise ValueError(
        f"model = {name!r} is neither a name ({names}) nor a folder with a miniature's "
        f"{FACTS} or vision.json or a model's config.json, nor owner/repository on the hub"
    )


def _load_folder(name: str, folder: Path, system: str, options: dict) -> VisionLanguageModel:
    """Load a folder with facts."""
    if system not in _SYSTEMS[1:]:
        raise ValueError(f"{folder} holds a {system!r}; known are {', '.join(_SYSTEMS[1:])}")
    require_files(name, [folder / FACTS])
    return _loader(system)(folder, **options)


def _loader(system: str) -> Callable[..., VisionLanguageModel]:
    """Import a system's module only when it is asked for."""
    return getattr(import_module(f".{system}", __name__), f"load_{system}")


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Take a type by its name in torch."""
    if not isinstance(dtype, str):
        return dtype
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype = {dtype!r}: give float32, bfloat16 or float16")
    return found
