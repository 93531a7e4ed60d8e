"""A run with one figure, one table and one claim, for the tests of this room."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from mmn_utils.datasets.published import PublishedClaim
from mmn_utils.exhibits import plots
from mmn_utils.exhibits.formats import to_csv
from mmn_utils.exhibits.judging import Judged, Verdict
from mmn_utils.exhibits.ledger import CLAIM_COLUMNS, enter, row_of
from mmn_utils.exhibits.saving import Run
from mmn_utils.measures.estimates import Estimate

NUMBERS = pd.DataFrame({"k": [0, 50], "value": [1.0, 0.123456789], "low": [0.9, np.nan]})
TABLE = pd.DataFrame({"neuron": ["L1.u2", "L3.u4"], "tokens": [" a|b", "50% & _x"], "n": [3, 4]})
PAPER = PublishedClaim(
    "A-1", "", "Half of the units are interpretable.", "section 2.2", "text", "50 %", 0.5, "exact"
)
UNTESTED = Judged(None, Verdict("not tested"), Verdict("not tested"))
PARAMETERS = {"preset": "ci", "run": "test", "seed": 3}


def open_run(root: Path, exhibits: Path) -> Run:
    """Open a run of a tiny model in a folder."""
    return Run("test", "02_attribution", PARAMETERS, model={"name": "tiny", "revision": "r1"},
               data="scenes", seed=3, root=root, exhibits=exhibits)  # fmt: skip


def draw():
    plots.use_style()
    fig, ax = plt.subplots(figsize=(3, 2))
    plots.line_with_interval(ax, [0, 1], [1, 0.5], [0.9, 0.4], [1.1, 0.6], "multimodal")
    ax.imshow(np.random.default_rng(0).random((4, 4)), extent=(0, 1, 0, 1))
    ax.legend()
    plt.close(fig)
    return fig


def entered(folder: Path, id: str, exhibit: str, **cells) -> None:
    """Write a claim into a run's ledger as it is, beside those that are there."""
    row = dict.fromkeys(CLAIM_COLUMNS, "") | {"id": id, "exhibit": exhibit, "paper": id[0]}
    row |= {"statement": f"The statement of {id}.", "where": "section 1; figure 2"}
    row |= {"test": "above 0", "holds": "yes", "stability": "1", "value": "0.5", "n": "40"} | cells
    table = pd.DataFrame([row])
    path = folder / "claims.csv"
    if path.is_file():
        table = pd.concat([pd.read_csv(path, dtype=str, keep_default_na=False), table])
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(to_csv(table), encoding="utf-8")


def fill(run: Run) -> None:
    run.save_figure("A-fig-1", draw(), NUMBERS, "A caption with <b>signs</b> & 3 units.")
    run.save_table("A-table-1", TABLE, "A table.", numbers=NUMBERS,
                   paper=pd.DataFrame({"what": ["random"], "score": [0.3627]}))  # fmt: skip
    found = Judged(Estimate(0.25, 0.2, 0.3, 40), Verdict("no", 1.0), Verdict("no", 0.97), 0.5)
    enter(run.folder, "A-fig-1", {"A-1": row_of("A-1", "A-fig-1", PAPER, "share, near .5", found)})
