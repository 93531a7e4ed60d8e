"""Let torchvision be imported beside a torch build without its compiled operators.

The package index's torchvision is compiled against the CUDA build of torch. Beside
a CPU-only torch its extension cannot be loaded, its operators are never declared,
and ``import torchvision`` stops at ``operator torchvision::nms does not exist``.
timm and transformers import torchvision but call neither operator here, so their
schemas are all that is missing.

Importing this package is enough, and costs nothing: the operators are looked at when
torchvision is about to be imported, by whomever.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from pathlib import Path

SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_libraries: list = []  # a declaration lives as long as its torch.library.Library


def _load_compiled_operators() -> None:
    """Load torchvision's extension the way its own import does, if it can be loaded."""
    import torch

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
    import torch

    _load_compiled_operators()
    missing = [name for name in SCHEMAS if not hasattr(torch.ops.torchvision, name)]
    if missing:
        _libraries.append(torch.library.Library("torchvision", "FRAGMENT"))
        for name in missing:
            _libraries[-1].define(SCHEMAS[name])
    return missing


class _BeforeTorchvision(MetaPathFinder):
    """Declares what is missing when torchvision is first looked for, and finds nothing itself."""

    def find_spec(self, name, path=None, target=None) -> None:
        if name == "torchvision" and self in sys.meta_path:
            sys.meta_path.remove(self)
            declare_missing_operators()


if "torchvision" not in sys.modules:
    sys.meta_path.insert(0, _BeforeTorchvision())


@contextlib.contextmanager
def unavailable(name: str) -> Iterator[None]:
    """Let an optional package look as if it were not installed to what is imported meanwhile."""
    if name in sys.modules:  # too late, and no harm
        yield
        return
    sys.modules[name] = None
    try:
        yield
    finally:
        del sys.modules[name]


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers' loading bars out of notebooks; also a decorator."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
