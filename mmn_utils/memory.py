"""Memory: batches that become smaller where it is short, and what is left over given back."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

Result = TypeVar("Result")

# What allocators say: CUDA's and MPS's have a class of their own, the CPU's has none.
SAYINGS = ("can't allocate memory", "not enough memory", "out of memory")


# The variable of the environment that holds the most items of any batch, where it is set: for
# machines short of memory, and to see whether anything depends on what is computed together.
ROWS = "MMN_ROWS"


class OutOfMemory(RuntimeError):
    """Not even one item at a time fits; the message has the remedy."""


def in_batches(
    compute: Callable[[Any], Result], items: Sequence, size: int, what: str = "pictures"
) -> list[Result]:
    """Call ``compute`` with consecutive parts of ``items``, ``size`` long; list what it returns.

    Where memory is out, the part is halved and so are all that follow, with a line that says
    so; ``compute`` must therefore leave nothing behind when it fails. ``OutOfMemory`` where one
    item alone does not fit, ``ValueError`` for a size below 1.
    """
    return Fit(size, what).run(compute, items)


class Fit:
    """The size of batch that has fitted so far; ``run`` halves it where memory is out."""

    def __init__(self, size: int, what: str = "pictures") -> None:
        if size < 1:
            raise ValueError(f"batch_size = {size!r}: give at least 1")
        self.size, self.what = min(size, _most() or size), what

    def run(self, compute: Callable[[Any], Result], items: Sequence) -> list[Result]:
        """Compute all parts of ``items``; see ``in_batches``."""
        found, start = [], 0
        while start < len(items):
            part = items[start : start + self.size]
            try:
                found.append(compute(part))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error)  # the error itself holds on to what fills the memory
            else:
                start += len(part)
                continue
            self._shrink(len(part), reason)
        return found

    def _shrink(self, tried: int, reason: str) -> None:
        """Halve the size and free what can be freed."""
        if tried == 1:
            raise OutOfMemory(
                f"out of memory with one of the {self.what} alone; load the system in bfloat16 "
                "(dtype), take a device with more memory, or ask for less (max_new_tokens, k); "
                f"make plan says what a preset needs ({reason})"
            )
        self.size = tried // 2
        print(
            f"out of memory with {tried} {self.what} at a time; going on with {self.size}",
            file=sys.stderr,
            flush=True,
        )
        gc.collect(1)  # what has just failed is young
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


def _most() -> int | None:
    """Read ``MMN_ROWS``; None where it is not set."""
    text = os.environ.get(ROWS, "")
    if text and not (text.isdecimal() and int(text) > 0):
        raise ValueError(f"{ROWS} = {text!r}: give a whole number of 1 or more, or unset it")
    return int(text) if text else None


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory is out, on whatever device."""
    if isinstance(error, OutOfMemory | MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(saying in text for saying in SAYINGS)


def give_back() -> None:
    """Give memory in which nothing lies any more back to the system, where the C library can.

    It keeps what a stage has freed, in pieces that tensors of the next one's sizes do not fit
    into, so that without this a process grows from stage to stage.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)
