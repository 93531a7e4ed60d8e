"""English words of SCOWL size 60, American and British; see README.md in this folder."""

from __future__ import annotations

import gzip
from functools import cache
from importlib.resources import files

FILE = "scowl_60.txt.gz"


@cache
def scowl_60() -> frozenset[str]:
    """Return the words (91,160 of them) as SCOWL writes them: ``horse``, ``Paris``, ``NASA``."""
    text = gzip.decompress(files(__package__).joinpath(FILE).read_bytes()).decode("utf-8")
    return frozenset(text.split("\n"))
