"""A file or a folder for each system; ``load_model`` finds them by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch

from mmn_utils.models.base import VisionLanguageModel
from mmn_utils.models.computing import INT8, attend, round_to_int8
from mmn_utils.models.folders import FACTS, read_record
from mmn_utils.models.hub import MissingParts, require_files
from mmn_utils.models.limber import MINIATURES, build_limber, load_miniature
from mmn_utils.models.placement import PLACED, why_absent
from mmn_utils.models.products import quicken
from mmn_utils.presets import data_path, from_here, load_yaml

__all__ = ["MissingParts", "VisionLanguageModel", "build_limber", "load_model"]

_SYSTEMS = ("limber", "llava", "instructblip", "mplug_owl2")  # module and loader have the name
_CHECKPOINTS = {"llava15": ("llava", "llava-hf/llava-1.5-7b-hf")}  # of a system, by a short name
_TRIALS = ("trial", "trial/llava")  # of the true classes, small, with random weights
_FOLDERS = {f"miniature/{system}": system for system in _SYSTEMS[1:]}
_SMOL = ("smol", "smol/untrained-encoder", "smol/untrained-projection")
_VARIANTS = {**dict.fromkeys(_TRIALS, "trial"), **dict.fromkeys(_SMOL, "smol")}  # their loaders
_OWN = (*MINIATURES, *_FOLDERS, *_VARIANTS, *_SYSTEMS, *_CHECKPOINTS)
_HUB_NAME = re.compile(r"(?!(?:miniature|smol)/)[\w.-]+/[\w.-]+")
_REVISED = re.compile(r"(.+)@([\w./-]+)")


def load_model(
    name_or_path: str | Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype | str | None = None,
    chat_template: str | None = None,
    attention: str | None = None,
    **facts,
) -> VisionLanguageModel:
    """Load a system by name, by its folder, by its name on the hub, or by a file of settings.

    A name may end in a revision of the hub: ``owner/repository@main``, ``limber@float16``.
    ``facts`` are those of the system's loader: for ``limber`` projection, encoder,
    language_model, tokenizer, revision. ``dtype`` may be a name such as "bfloat16", or "int8":
    weights of the language model that eight bits hold, sums in float32 (``round_to_int8``).
    ``attention`` is eager or sdpa (``attend``). ``chat_template``, its text or a file, is for
    models that ``auto`` loads alone. A YAML file has the key ``model`` and, beside it, facts such
    as ``chat_template`` or ``attention``. A folder with ``facts.json`` or ``vision.json`` is a
    miniature, any other is loaded as ``load_auto`` does. Paths are from here or the repository.
    ``MissingParts`` for weights, else ``ValueError``.
    """
    name, facts = _with_revision(str(name_or_path), facts)
    if name.endswith(".yaml"):
        asked = {"chat_template": chat_template, "attention": attention}
        given = {key: value for key, value in asked.items() if value} | facts
        return load_model(**{**_settings(name), "device": device, "dtype": dtype, **given})
    small = dtype == INT8
    model = _load(name, device, "float32" if small else dtype, chat_template, facts)
    if attention:
        attend(model, attention)
    if small:
        round_to_int8(model)
    for part in model.modules():
        quicken(part)
    return model


def _load(
    name: str, device: str, dtype: torch.dtype | str | None, chat_template: str | None, facts: dict
) -> VisionLanguageModel:
    """Load a system by its name or its folder, as it computes by itself."""
    options = {"device": _device(device, name), "dtype": _dtype(dtype), **facts}
    if chat_template:
        _require_auto(name)
        options["chat_template"] = chat_template
    if name in MINIATURES:
        return load_miniature(name, **options)
    if name in _SYSTEMS:
        return _loader(name)(**options)
    if name in _CHECKPOINTS:
        return _load_checkpoint(name, options)
    if name in _VARIANTS:
        return _loader(_VARIANTS[name])(name, **options)
    if name in _FOLDERS:
        return _load_folder(name, data_path(*name.split("/")), _FOLDERS[name], options)
    folder = from_here(name)
    if (folder / FACTS).is_file():
        return _load_folder(name, folder, read_record(folder)["system"], options)
    if (folder / "vision.json").is_file():
        return load_miniature(folder=folder, **options)
    if (folder / "config.json").is_file():
        return _loader("auto")(folder, **options)
    if not folder.exists() and _HUB_NAME.fullmatch(name):
        return _loader("auto")(name, **options)
    names = ", ".join(_OWN)
    raise ValueError(
        f"model = {name!r} is neither a name ({names}) nor a folder with a miniature's "
        f"{FACTS} or vision.json or a model's config.json, nor owner/repository on the hub"
    )


def _settings(name: str) -> dict:
    """Read a file of settings: the model, as ``name_or_path``, and its facts.

    A path in ``chat_template`` is looked up beside the file.
    """
    path = from_here(name)
    if not path.is_file():
        raise ValueError(f"model = {name!r}: there is no such file of settings")
    found = load_yaml(path)
    if not (isinstance(found, dict) and isinstance(found.get("model"), str)):
        raise ValueError(f"{path} must be a mapping with the key model, a name or a folder")
    refused = {"name_or_path", "device", "dtype"} & found.keys()
    if refused or found["model"].endswith(".yaml"):
        raise ValueError(f"{path}: give {', '.join(sorted(refused)) or 'a model'} elsewhere")
    template = str(found.get("chat_template", ""))
    if "{" not in template and (path.parent / template).is_file():
        found["chat_template"] = str(path.parent / template)
    return {"name_or_path": found.pop("model"), **found}


def _require_auto(name: str) -> None:
    folder = from_here(name)
    own = any((folder / file).is_file() for file in (FACTS, "vision.json"))
    if name in _OWN or own:
        raise ValueError(f"{name} has a prompt of its own: leave chat_template empty")


def _with_revision(name: str, facts: dict) -> tuple[str, dict]:
    """Take a revision off a name, into the loader's facts; a folder keeps its name."""
    found = _REVISED.fullmatch(name)
    if found is None or from_here(name).exists():
        return name, facts
    if facts.get("revision") not in (None, found[2]):
        raise ValueError(f"model = {name!r}, but revision = {facts['revision']!r}: give one")
    return found[1], {**facts, "revision": found[2]}


def _load_checkpoint(name: str, options: dict) -> VisionLanguageModel:
    """Load a checkpoint that has a short name of its own."""
    system, checkpoint = _CHECKPOINTS[name]
    model = _loader(system)(**{"checkpoint": checkpoint, **options})
    model.name = name
    return model


def _load_folder(name: str, folder: Path, system: str, options: dict) -> VisionLanguageModel:
    """Load a folder with facts."""
    if system not in _SYSTEMS[1:]:
        raise ValueError(f"{folder} holds a {system!r}; known are {', '.join(_SYSTEMS[1:])}")
    require_files(name, [folder / FACTS])
    return _loader(system)(folder, **options)


def _loader(system: str) -> Callable[..., VisionLanguageModel]:
    """Import a system's module only when it is asked for."""
    return getattr(import_module(f".{system}", __name__), f"load_{system}")


def _device(device: str, name: str) -> str:
    """Refuse a device that is not here, before anything is read.

    And to place a system of one's own by Accelerate, which knows transformers' alone.
    """
    if device == PLACED and name in _OWN:
        raise ValueError(f"device = {PLACED!r}, but {name} is put as a whole: give cuda or cpu")
    if reason := why_absent(device):
        raise ValueError(
            f"device = {device!r} is not here ({reason}): give device = 'cpu', or install a build "
            "of torch that finds this machine's accelerator"
        )
    return device


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """Take a type by its name in torch."""
    if not isinstance(dtype, str):
        return dtype
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype = {dtype!r}: give float32, bfloat16, float16 or int8")
    return found
