"""What was required beforehand, row by row of the quality table: claims, met or missed."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

from mmn_utils.miniature.systems import LIMBER

HEART = "layer with|naming the concept"  # units past the first layer that write the concept's words


def asked(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of ``quality_table`` of which something is required."""
    return table[table["required"] != ""]


def claim_id(measure: str) -> str:
    """Return a measure's id in the ledger of claims: ``C-iou-top-over-random``."""
    return "C-" + re.sub("[^a-z0-9]+", "-", measure.lower()).strip("-")


def claims(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return what was found for each requirement, by the claim's id, as ``Run.claim`` takes it.

    ``found`` and ``ci`` are None where a value or its interval could not be measured.
    """
    return {
        claim_id(row.measure): {
            "found": row.value if np.isfinite(row.value) else None,
            "ci": (row.ci_low, row.ci_high) if np.isfinite(row.ci_low) else None,
            "n": row.n,
        }
        for row in asked(table).itertuples()
    }


def summary(table: pd.DataFrame) -> dict[str, Any]:
    """Return all values by measure, the rows that were asked, and which are met and missed.

    ``heart``: whether those that ask for the paper's central effect are all met.
    """
    rows = asked(table)
    heart = rows[rows["measure"].str.contains(HEART)]
    met, missed = (list(rows["measure"][rows["meets"] == verdict]) for verdict in ("yes", "no"))
    return {
        "value": table.set_index("measure")["value"].to_dict(),
        "asked": rows.to_dict("records"),
        "met": met,
        "missed": missed,
        "untested": len(rows) - len(met) - len(missed),
        "heart": bool((heart["meets"] == "yes").all()),
    }


def system_claims(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return what was found for each of paper B's systems that is there, by the claim's id.

    ``table`` as from ``systems_table``. Each is judged beside ``limber``, the value of
    ``LIMBER``, by ``more``, how much its first nouns are right beyond those.
    """
    there = table[table["scenes"] > 0].set_index("system")
    return {
        f"C-captions-{name.lower()}": {
            "found": row["first_noun"],
            "ci": (row["ci_low"], row["ci_high"]),
            "n": int(row["scenes"]),
            "limber": there.loc[LIMBER, "first_noun"],
            "more": row["more"],
        }
        for name, row in there.drop(index=LIMBER).iterrows()
    }
