"""Where a model is put: on the device that is named, or on the one that Accelerate finds for it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

PLACED = "auto"  # as a device: by Accelerate's map, straight from the files
_AWAY = ("cpu", "disk", "meta")


def why_absent(device: str) -> str:
    """Say why torch cannot use a device, in its own words; "" where it can, and for ``PLACED``."""
    if device == PLACED:
        return ""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return ""


def require_accelerate() -> None:
    """Raise ``ValueError`` where Accelerate is not installed, before anything is read."""
    if find_spec("accelerate") is None:
        raise ValueError(
            f"device = {PLACED!r} places a model by Accelerate, which is not installed; "
            "pip install accelerate, or give a device, such as cuda or cpu"
        )


def on_one_device(model: nn.Module, folder: Path) -> nn.Module:
    """Return a model that Accelerate put on one device as a whole; ``ValueError`` for others.

    What it leaves on the CPU or the disk it fetches layer by layer in each pass: write vectors
    could then neither be read nor changed. A model over several GPUs would give each layer's
    gradients and activations on another.
    """
    places = sorted({str(place) for place in getattr(model, "hf_device_map", {}).values()})
    if len(places) < 2:
        return model
    left = [place for place in places if place in _AWAY]
    what = f"leaves parts of it on {' and '.join(left)}" if left else "spreads it over several"
    raise ValueError(
        f"{folder} does not fit one device: Accelerate {what} ({', '.join(places)}). Take a GPU "
        "with more memory, dtype = bfloat16, or a smaller model of the family"
    )
