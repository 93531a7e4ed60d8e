"""A run with one figure, one table and one claim, for the tests of this room."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from mmn_utils.exhibits import plots
from mmn_utils.exhibits.ledger import enter
from mmn_utils.exhibits.saving import Run

NUMBERS = pd.DataFrame({"k": [0, 50], "value": [1.0, 0.123456789], "low": [0.9, np.nan]})
TABLE = pd.DataFrame({"neuron": ["L1.u2", "L3.u4"], "tokens": [" a|b", "50% & _x"], "n": [3, 4]})
PARAMETERS = {"preset": "ci", "run": "test", "seed": 3}


def draw():
    plots.use_style()
    fig, ax = plt.subplots(figsize=(3, 2))
    plots.line_with_interval(ax, [0, 1], [1, 0.5], [0.9, 0.4], [1.1, 0.6], "multimodal")
    ax.imshow(np.random.default_rng(0).random((4, 4)), extent=(0, 1, 0, 1))
    ax.legend()
    plt.close(fig)
    return fig


def fill(run: Run) -> None:
    run.save_figure("A-fig-1", draw(), NUMBERS, "A caption with <b>signs</b> & 3 units.")
    run.save_table("A-table-1", TABLE, "A table.", numbers=NUMBERS,
                   paper=pd.DataFrame({"what": ["random"], "score": [0.3627]}))  # fmt: skip
    enter(run.folder, "A-1", "A-fig-1", claim="Half of the top units are interpretable.",
          paper_value="50 %", value=0.25, ci=(0.2, 0.3), n=40, holds=False)  # fmt: skip
