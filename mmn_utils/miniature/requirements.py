"""What was required beforehand, row by row of the quality table: met or missed."""

from __future__ import annotations

from typing import Any

import pandas as pd

HEART = "layer with|naming the concept"  # units past the first layer that write the concept's words


def asked(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of ``quality_table`` of which something is required."""
    return table[table["required"] != ""]


def summary(table: pd.DataFrame) -> dict[str, Any]:
    """Return all values by measure, the rows that were asked, and which are met and missed.

    ``n`` has the number of scenes by measure. ``heart``: whether those that ask for the paper's
    central effect are all met.
    """
    rows = asked(table)
    heart = rows[rows["measure"].str.contains(HEART)]
    met, missed = (list(rows["measure"][rows["met"] == verdict]) for verdict in ("yes", "no"))
    by_measure = table.set_index("measure")
    return {
        "value": by_measure["value"].to_dict(),
        "n": by_measure["n"].to_dict(),
        "asked": rows.to_dict("records"),
        "met": met,
        "missed": missed,
        "untested": len(rows) - len(met) - len(missed),
        "heart": bool((heart["met"] == "yes").all()),
    }
