"""The training curves that are kept beside the weights, read again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd


def items_seen(folder: Path, files: Sequence[str]) -> float:
    """Return how much trainings saw one after the other, by their curves; NaN where one lacks."""
    return sum(training_curve(folder / file)["items"].max() for file in files)


def training_curve(path: Path) -> pd.DataFrame:
    """Read a stored training curve: items seen and loss, without rows that report no loss.

    Takes what the trainings write: a header with ``items`` or ``images``, or none and
    images, loss and speed. Empty where there is no file.
    """
    if not path.is_file():
        return pd.DataFrame({"items": [], "loss": []})
    table = pd.read_csv(path)
    if "loss" not in table:
        table = pd.read_csv(path, names=["items", "loss", "speed"])
    table = table.rename(columns={"images": "items"})
    return table.dropna(subset="loss").reset_index(drop=True)
