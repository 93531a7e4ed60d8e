"""What it costs to find a concept's neurons: contribution against attribution.

Paper B's abstract: without gradients neurons are found more efficiently. Seconds differ from
machine to machine and from run to run; what is counted here does not: floating point operations
by the formulas of ``torch.utils.flop_counter`` (matrix products, convolutions, attention,
forwards and backwards), and the most bytes that tensors hold at one time beside the weights.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from mmn_utils.measures.estimates import Estimate
from mmn_utils.neurons.attribution import attribution
from mmn_utils.neurons.contribution import contribution
from mmn_utils.neurons.targets import Target
from mmn_utils.studies.subjects import Subjects

METHODS: dict[str, Callable[..., Any]] = {"contribution": contribution, "attribution": attribution}
COUNTS = {"operations": "operations, millions", "bytes": "memory, MB"}
_ATEN = torch.ops.aten
FORMULAS = {
    **flop_registry,  # which lacks attention's kernels for processors
    _ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        _ATEN._scaled_dot_product_flash_attention
    ],
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _ATEN._scaled_dot_product_flash_attention_backward
    ],
}


class Counter(TorchDispatchMode):
    """Count the floating point operations, and the bytes of all tensors, made in the context.

    ``live`` bytes are those of tensors that still exist, views counting once with what they look
    at, ``peak`` the most there were after an operation; what an operation needs within itself is
    not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.live = self.peak = 0
        self._known: dict[int, weakref.finalize] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = function(*args, **kwargs)
        formula = FORMULAS.get(function._overloadpacket)
        if formula is not None:
            self.operations += formula(*args, **kwargs, out_val=made)
        given = {one._cdata for one in _storages((args, kwargs))}
        for storage in _storages(made):
            if storage._cdata not in given:
                self._add(storage)
        self.peak = max(self.peak, self.live)
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        known = self._known.get(storage._cdata)
        if known is None or not known.alive:  # an address may be used again
            size = storage.nbytes()
            self.live += size
            self._known[storage._cdata] = weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self.live -= size


def _storages(values: Any) -> Iterator[torch.UntypedStorage]:
    for one in tree_leaves(values):
        if isinstance(one, torch.Tensor) and one.layout is torch.strided:
            yield one.untyped_storage()


@contextmanager
def _without_collector() -> Iterator[None]:
    """Let tensors go when nothing refers to them and never by the garbage collector's chance."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def counted(function: Callable[[], Any]) -> dict[str, int]:
    """Call a function and count: {"operations": floating point operations, "bytes": peak}."""
    with _without_collector(), Counter() as counter:
        function()
    return {"operations": counter.operations, "bytes": counter.peak}


def cost_rows(model, some: Subjects, *, k: int = 100) -> pd.DataFrame:
    """Count what each method costs for all concepts of each photograph, from its pixels on.

    One row a photograph: image, concepts, contribution_operations, contribution_bytes, and the
    same of attribution. Each photograph is a batch of its own. Counts follow from the shapes of
    tensors alone: photographs of one size whose captions have their concepts at the same steps
    are counted once.
    """
    known: dict[tuple, dict[str, int]] = {}
    rows = []
    for photograph, targets in zip(some.photographs, some.every, strict=True):
        picture = photograph.open()
        shape = (picture.size, *(len(target.prefix) for target in targets))
        if shape not in known:
            known[shape] = _counts(model, picture, targets, k)
        rows.append({"image": photograph.id, "concepts": len(targets), **known[shape]})
    return pd.DataFrame(rows)


def _counts(model, picture, targets: Sequence[Target], k: int) -> dict[str, int]:
    pictures = [picture] * len(targets)
    return {
        f"{name}_{count}": value
        for name, method in METHODS.items()
        for count, value in counted(partial(method, model, pictures, targets, k=k)).items()
    }


def cost_exhibit(
    level: dict[str, Estimate], names: dict[str, str], unit: float = 1e6
) -> pd.DataFrame:
    """Lay the counts out, a row a method; ``level`` by the columns of ``cost_rows``."""
    rows = []
    for method in METHODS:
        row = {"method": names[method]}
        for count, title in COUNTS.items():
            one = level[f"{method}_{count}"]
            row[title] = f"{one.value / unit:.4g}"
        rows.append(row)
    return pd.DataFrame(rows)
