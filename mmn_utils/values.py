"""Values of parameters: their types, what they may be, and how text becomes one."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from yaml import YAMLError

from mmn_utils.plain_yaml import load_yaml, read_yaml

CHOICES = "choices.yaml"  # beside the notebooks: what a parameter may be where that is little


def conform(name: str, value: Any, default: Any) -> Any:
    """Return ``value`` in the type of ``default``, or refuse it.

    An int is welcome where a float is meant; nothing else is converted: no text for a
    number, no truth value for an int. Lists are checked item by item, dicts key by key
    (keys left out keep their default).
    """
    if type(default) is float and type(value) in (int, float):
        if not math.isfinite(value):
            raise ValueError(f"{name} = {value!r} must be finite")
        return float(value)
    if type(value) is not type(default):
        raise ValueError(
            f"{name} = {value!r} is of type {type(value).__name__}, but must be of type "
            f"{type(default).__name__} like its default {default!r}{_type_hint(value, default)}"
        )
    if isinstance(default, list):
        return _conform_list(name, value, default)
    if isinstance(default, dict):
        return _conform_dict(name, value, default)
    return value


def _conform_list(name: str, value: list, default: list) -> list:
    if not default:
        for item in value:
            check_allowed(name, item)
        return list(value)
    example = next((item for item in default if type(item) is float), default[0])
    return [conform(f"{name}[{i}]", item, example) for i, item in enumerate(value)]


def _conform_dict(name: str, value: dict, default: dict) -> dict:
    if not default:
        check_allowed(name, value)
        return dict(value)
    refuse_unknown(value, default, f"a key of {name}")
    return {
        key: conform(f"{name}[{key!r}]", value[key], default[key]) if key in value else default[key]
        for key in default
    }


def _type_hint(value: Any, default: Any) -> str:
    """Say how a value of the wrong type would have been written in the right one."""
    if isinstance(default, str):
        return "; write it in quotes, and give it to papermill by -r instead of -p"
    if isinstance(value, str) and isinstance(default, list | dict):
        return "; papermill's -p takes no lists: use python -m mmn_utils.running"
    if isinstance(default, bool):
        return "; write true or false"
    number = isinstance(value, str) and re.fullmatch(r"[-+\d_.:eE]+", value)
    return "; write the number in plain digits, without '_', ':' and quotes" if number else ""


def read_value(name: str, text: str, default: Any) -> Any:
    """Read the text of a command-line argument in the type of ``default``.

    Text stays text where a str is meant (``-p run 007`` is the run ``007``); anything
    else is read as YAML and must then have the right type.
    """
    if isinstance(default, str):
        return text
    if type(default) is float:
        try:
            return conform(name, float(text), default)
        except ValueError:
            raise ValueError(f"{name} = {text!r} is not a finite number") from None
    try:
        value = read_yaml(text)
    except YAMLError as error:
        raise ValueError(f"{name} = {text!r} cannot be read as YAML: {error}") from None
    return conform(name, value, default)


def check_allowed(where: str, value: Any) -> None:
    """Raise ValueError for a value of a type that no parameter has, in a list or dict too."""
    if isinstance(value, list | dict):
        for item in value if isinstance(value, list) else value.values():
            check_allowed(where, item)
    elif not isinstance(value, bool | int | float | str):
        raise ValueError(
            f"{where} = {value!r}: a default must be a bool, int, float, str, list or dict, "
            "so that its type can be checked"
        )


def check_choices(values: Mapping[str, Any], folder: Path) -> None:
    """Raise ValueError for a value that is not among those that its parameter may have.

    ``folder`` is the notebooks'; where it has no ``choices.yaml``, nothing is enumerated.
    """
    path = folder / CHOICES
    if path.is_file():
        _check("", values, load_yaml(path))


def _check(inside: str, values: Mapping[str, Any], choices: Mapping[str, Any]) -> None:
    for name in filter(values.__contains__, choices):
        full = f"{inside}[{name!r}]" if inside else name
        if isinstance(choices[name], dict):
            _check(full, values[name], choices[name])
        elif values[name] not in choices[name]:
            raise ValueError(f"{full} = {values[name]!r}: {suggest(values[name], choices[name])}")


def refuse_unknown(names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raise ValueError for a name that is not among the known ones, with the nearest of them."""
    known = list(known)
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is not {what}; {suggest(str(name), known)}")


def suggest(name: str, known: list[str]) -> str:
    """Say which known name is meant, perhaps, and which there are."""
    close = difflib.get_close_matches(name, known, n=1)
    listed = f"known: {', '.join(known) or 'none'}"
    return f"did you mean {close[0]!r}? ({listed})" if close else listed
