"""Let torchvision be imported beside a torch build without its compiled operators.

The package index's torchvision is compiled against the CUDA build of torch. Beside
a CPU-only torch its extension cannot be loaded, its operators are never declared,
and ``import torchvision`` stops at ``operator torchvision::nms does not exist``.
timm and transformers import torchvision but call neither operator here, so their
schemas are all that is missing. Import this module before any of the three.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_library: torch.library.Library | None = None  # declarations live as long as this object


def _load_compiled_operators() -> None:
    """Load torchvision's extension the way its own import does, if it can be loaded."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    for extension in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(extension))
        except OSError:
            continue


def declare_missing_operators() -> list[str]:
    """Declare the operators that are really absent; return their names."""
    global _library
    _load_compiled_operators()
    missing = [name for name in SCHEMAS if not hasattr(torch.ops.torchvision, name)]
    if missing:
        _library = _library or torch.library.Library("torchvision", "FRAGMENT")
        for name in missing:
            _library.define(SCHEMAS[name])
    return missing


declare_missing_operators()
