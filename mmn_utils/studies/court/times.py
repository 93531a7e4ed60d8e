"""How long scores take and what memory they need: a table that is measured once and kept.

Times differ from run to run, and a run of the same preset is to give the same numbers. So they
are measured by a benchmark (``tests/benchmarks/bench_scores.py``), all in one run on one thread,
and read from ``data/court/times.csv``: of each system and score the processor time and the peak
memory, in units of one forward pass over the same prompt, and where that was.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mmn_utils.presets import data_path

COLUMNS = ["model", "score", "time", "memory", "threads", "measured"]


def times_path() -> Path:
    """Return the path of the table."""
    return data_path("court", "times.csv")


def read(path: str | Path | None = None) -> pd.DataFrame:
    """Read the table; one without rows where there is none. ``ValueError`` for another table."""
    path = Path(path or times_path())
    if not path.is_file():
        return pd.DataFrame(columns=COLUMNS)
    found = pd.read_csv(path)
    if list(found.columns) != COLUMNS:
        raise ValueError(
            f"{path} has columns {list(found.columns)}, not {COLUMNS}; make it again: "
            "python -m tests.benchmarks.bench_scores"
        )
    return found


def timed(costs: pd.DataFrame, model: str, path: str | Path | None = None) -> pd.DataFrame:
    """Put the measured time of each score, column ``time``, beside what it was counted to cost.

    NaN where the model's scores, or one of them, have not been measured.
    """
    found = read(path)
    own = found[found["model"] == model].set_index("score")["time"]
    return costs.assign(time=costs["score"].map(own).astype(float))


def where(model: str, path: str | Path | None = None) -> str:
    """Say where a model's scores were measured; nothing where they were not."""
    found = read(path)
    own = found[found["model"] == model]
    if own.empty:
        return ""
    threads = int(own["threads"].iloc[0])
    return f"{own['measured'].iloc[0]}, {threads} thread{'s' if threads > 1 else ''}"
