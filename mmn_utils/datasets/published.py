"""The papers' own numbers, as their tables print them: ``data/golden``."""

from __future__ import annotations

import pandas as pd

from mmn_utils.presets import data_path


def published(exhibit: str) -> pd.DataFrame | None:
    """Return the paper's own numbers for an exhibit, or None where it prints none."""
    path = data_path("golden", f"{exhibit}.csv")
    return pd.read_csv(path, keep_default_na=False) if path.is_file() else None
