"""Write ``docs/families.csv``: ``python -m tests.models.auto.families [TYPE ...]``.

Types that are named are examined anew; the other rows stay.
"""

from __future__ import annotations

import sys

import pandas as pd

from tests.models.auto.families.table import FILE, TYPES, examine


def main(names: list[str]) -> None:
    """Examine types, all without names, and write the table."""
    old = {} if not FILE.is_file() else {r["type"]: r for r in _rows()}
    chosen = names or list(TYPES)
    for name in chosen:
        old[name] = examine(name)
        print(
            *(old[name][key] for key in ("type", "loads", "doctor", "check", "reason")), sep=" | "
        )
        table = pd.DataFrame([old[one] for one in TYPES if one in old])
        table.to_csv(FILE, index=False, lineterminator="\n")


def _rows() -> list[dict]:
    return pd.read_csv(FILE, keep_default_na=False).to_dict("records")


if __name__ == "__main__":
    main(sys.argv[1:])
