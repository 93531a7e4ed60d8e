"""The fields of COCO's records, in the spellings that files of this world have.

Each function returns what a field means, or raises ValueError with what it is and what would mend
it; who calls names the file and the record.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

_TRUE, _FALSE = ("1", "true", "yes"), ("", "0", "false", "no", "none")


def identity(record: Mapping[str, Any], name: str) -> str:
    """Return an id as text: 139, 139.0, "139" and "000000000139" are one; other texts stay."""
    value = record.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).strip():
        raise ValueError(f"its {name} is {value!r}: give a whole number or a text")
    text = str(value).strip()
    return text.lstrip("0") or "0" if text.isdecimal() else text


def flag(record: Mapping[str, Any], name: str) -> bool:
    """Return a truth value: 0, "0", false, null and nothing at all are no; 1, "1", true are yes."""
    value = record.get(name)
    text = str(int(value) if value in (0, 1) else value).strip().lower()
    if text not in (*_TRUE, *_FALSE):
        raise ValueError(f"its {name} is {value!r}: give 0 or 1")
    return text in _TRUE


def length(record: Mapping[str, Any], name: str) -> int | None:
    """Return a side in pixels, a whole number above 0, or None where none is given."""
    value = record.get(name)
    if value is None or value == "":
        return None
    found = _number(value)
    if not (found > 0 and found == math.floor(found)):
        raise ValueError(f"its {name} is {value!r}: give pixels, a whole number above 0")
    return int(found)


def amount(record: Mapping[str, Any], name: str) -> float:
    """Return a number that is not negative, 0 where none is given."""
    value = record.get(name)
    found = 0.0 if value is None else _number(value)
    if not found >= 0:
        raise ValueError(f"its {name} is {value!r}: give a number from 0 up, or leave it out")
    return found


def text(record: Mapping[str, Any], name: str) -> str:
    """Return a text without the blanks around it, "" for null and for nothing at all."""
    value = record.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"its {name} is {value!r}: give a text")
    return value.strip()


def _number(value: Any) -> float:
    """Return a finite number, or NaN, which no bound lets through."""
    if isinstance(value, bool) or not isinstance(value, Real | str):
        return math.nan
    try:
        found = float(value)
    except ValueError:
        return math.nan
    return found if math.isfinite(found) else math.nan
