"""Failures of a model's own code while it is examined become refusals with their reason."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mmn_utils.models.auto.modules import Unsupported

_FAILURES = (AssertionError, AttributeError, LookupError, TypeError, RuntimeError)


@contextmanager
def refused(what: str) -> Iterator[None]:
    """Turn what goes wrong inside a model's or processor's code into ``Unsupported``.

    The message names ``what``, the error, and the function that raised it. Errors that say
    themselves what to do (``ValueError``), and memory that runs out, pass through.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except _FAILURES as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        said = str(error).strip().splitlines()
        raise Unsupported(
            f"{what} cannot be examined: {type(error).__name__} in {place.name} of "
            f"{Path(place.filename).name}: {said[0] if said else 'no message'}"
        ) from error
