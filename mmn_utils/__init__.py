"""Find, decode, test, ablate and edit multimodal neurons of vision-language models.

The names below are for a script of one's own; each is a thin composition of what the notebooks
use, and is imported when it is first asked for.

    import mmn_utils as mmn

    system = mmn.load("miniature")
    picture = mmn.example()
    neurons = mmn.top_neurons(system, picture)
    print(mmn.decode(system, neurons.head(5)))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mmn_utils import compat  # noqa: F401  (before torchvision, whoever imports it)

if TYPE_CHECKING:
    from mmn_utils.face import (
        Neuron,
        ablate,
        caption,
        decode,
        doctor,
        edit,
        example,
        heat_map,
        load,
        photographs,
        targets,
        top_neurons,
    )

__all__ = [
    "Neuron",
    "ablate",
    "caption",
    "decode",
    "doctor",
    "edit",
    "example",
    "heat_map",
    "load",
    "photographs",
    "targets",
    "top_neurons",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("mmn_utils.face"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
