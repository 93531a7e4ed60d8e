"""What the papers print of neurons: addresses and the tokens that they decode to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mmn_utils.neurons.table import Neuron
from mmn_utils.presets import data_path

# Preset's system: the table that prints its neurons, and what the table calls it.
TABLES = {
    "limber": ("A-table-S1", ""),
    "llava": ("B-table-2", "LLaVA"),
    "instructblip": ("B-table-2", "InstructBLIP"),
    "mplug_owl2": ("B-table-2", "mPLUG-Owl2"),
}


@dataclass(frozen=True)
class PrintedList:
    """One neuron as it is printed, and its tokens, most probable first.

    ``blanks``: whether the tokens are printed with their leading blanks.
    """

    neuron: Neuron
    tokens: tuple[str, ...]
    blanks: bool


def printed_lists(system: str, folder: str | Path | None = None) -> list[PrintedList]:
    """Return the lists that are printed of a system's neurons, each neuron once.

    ``folder`` holds the tables, data/golden by default. ``ValueError`` for a system of which
    neither paper prints neurons.
    """
    if system not in TABLES:
        raise ValueError(
            f"neither paper prints neurons of {system!r}, so there is nothing to compare; take a "
            f"preset whose model is one of {', '.join(TABLES)}"
        )
    name, called = TABLES[system]
    path = Path(folder or data_path("golden")) / f"{name}.csv"
    if not path.is_file():
        raise FileNotFoundError(f"no table at {path}; give the folder that has {name}.csv")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    lists = _rows_of_a(table) if not called else _rows_of_b(table[table["model"] == called])
    return list({one.neuron: one for one in reversed(lists)}.values())[::-1]


def _rows_of_a(table: pd.DataFrame) -> list[PrintedList]:
    columns = [column for column in table if column.startswith("token_")]
    rows = zip(table["neuron"], table[columns].itertuples(index=False, name=None), strict=True)
    return [
        PrintedList(Neuron.parse(neuron), tuple(filter(None, tokens)), True)
        for neuron, tokens in rows
    ]


def _rows_of_b(table: pd.DataFrame) -> list[PrintedList]:
    rows = zip(table["neuron"], table["top tokens"], strict=True)
    return [PrintedList(Neuron.parse(name), tuple(text.split(", ")), False) for name, text in rows]
