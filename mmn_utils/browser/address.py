"""A view as an address, such as ``#L7.u15772@image&noun=horse``, and back; the front's own kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, unquote

from mmn_utils.browser.atlas.words import ENDS
from mmn_utils.neurons.table import tidy_address

View = dict[str, Any]
EMPTY: View = {
    "image": None, "noun": None, "method": "attribution", "neuron": None, "chosen": [],
    "patch": None, "quantile": 0.95, "search": None, "map": "one",
}  # fmt: skip
MAPS = ("one", "several", "mean")


def write(view: Mapping[str, Any]) -> str:
    """Return a view's address; what is as it was in the beginning is left out."""
    view = {**EMPTY, **view}
    head = "#" + _quoted(view["neuron"] or "")
    if view["image"] is not None:
        head += f"@{_quoted(view['image'])}"
    rest = {
        "noun": view["noun"] is not None and _quoted(view["noun"]),
        "method": view["method"] != EMPTY["method"] and _quoted(view["method"]),
        "quantile": view["quantile"] != EMPTY["quantile"] and f"{view['quantile']:.12g}",
        "chosen": ",".join(map(_quoted, view["chosen"])),
        "map": view["map"] != EMPTY["map"] and view["map"],
        "patch": view["patch"] is not None and str(view["patch"]),
        "search": view["search"] and f"{view['search']['end']}:{_quoted(view['search']['word'])}",
    }
    return "&".join([head, *(f"{name}={text}" for name, text in rest.items() if text)])


def read(address: str) -> tuple[View, list[str]]:
    """Read an address leniently: the view, and what was not understood, in words."""
    view, trouble = {**EMPTY, "chosen": []}, []
    head, *rest = address.strip().removeprefix("#").split("&")
    neuron, at, image = head.partition("@")
    if at:
        view["image"] = unquote(image) or None
    if neuron:
        view["neuron"] = _neuron(unquote(neuron), trouble)
    for piece in filter(None, rest):
        name, _, text = piece.partition("=")
        if name not in _READERS:
            trouble.append(f"{name!r} is no part of an address")
            continue
        value = _READERS[name](text, trouble)
        view[name] = view[name] if value is None else value
    return view, trouble


def _quoted(text: str) -> str:
    return quote(str(text), safe="!~*'()")


def _neuron(text: str, trouble: list[str]) -> str | None:
    try:
        return tidy_address(text)
    except ValueError as error:
        trouble.append(str(error))
        return None


def _chosen(text: str, trouble: list[str]) -> list[str]:
    found = (_neuron(unquote(one), trouble) for one in text.split(",") if one)
    return [one for one in found if one is not None]


def _quantile(text: str, trouble: list[str]) -> float | None:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        trouble.append(f"the quantile {text!r} is no fraction from 0 to 1")
        return None
    return value


def _patch(text: str, trouble: list[str]) -> int | None:
    if not (text.isascii() and text.isdecimal()):
        trouble.append(f"the patch {text!r} is no number from 0")
        return None
    return int(text)


def _search(text: str, trouble: list[str]) -> dict[str, str] | None:
    end, _, word = text.partition(":")
    if end not in ENDS or not unquote(word):
        trouble.append(f"the search {text!r} reads writes:WORD or suppresses:WORD")
        return None
    return {"word": unquote(word), "end": end}


def _map(text: str, trouble: list[str]) -> str | None:
    if text not in MAPS:
        trouble.append(f"the map {text!r} is none of {', '.join(MAPS)}")
        return None
    return text


_READERS: Mapping[str, Callable[[str, list[str]], Any]] = {
    "noun": lambda text, trouble: unquote(text) or None,
    "method": lambda text, trouble: unquote(text) or None,
    "quantile": _quantile,
    "chosen": _chosen,
    "map": _map,
    "patch": _patch,
    "search": _search,
}
