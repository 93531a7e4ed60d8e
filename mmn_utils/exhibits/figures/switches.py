"""Claims against switches: one cell a verdict, framed where it is another than by default."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mmn_utils.exhibits import plots
from mmn_utils.exhibits.judging import NO, NOT_TESTED, OPEN, YES
from mmn_utils.exhibits.switches import DEFAULT, Verdicts, said

FACES = {YES: "multimodal", NO: "prompts", OPEN: "coco", NOT_TESTED: "random"}
NAMES = {YES: "holds", NO: "does not hold", OPEN: "open (?)", NOT_TESTED: "not tested"}
ROW, HEAD, FOOT = 0.25, 1.5, 0.3  # inches
LETTERS = 66  # of a line of a statement
PRINT = 6.0  # points
LEFT = 0.49  # share of the width that statements take


def matrix(tables: Sequence[Verdicts]) -> Figure:
    """Draw each preset's matrix beneath the other: claims are rows, settings columns."""
    heights = [len(table.matrix) * ROW + HEAD for table in tables]
    height = sum(heights) + FOOT
    fig = Figure(figsize=(plots.WIDTH["page"], height))
    fig.set_layout_engine("none")  # places are computed here
    top = height - FOOT
    columns = max(table.matrix.shape[1] for table in tables)
    for table, tall in zip(tables, heights, strict=True):
        share = (0.99 - LEFT) * table.matrix.shape[1] / columns
        bottom = (top - tall) / height
        ax = fig.add_axes((LEFT, bottom, share, (tall - HEAD) / height))
        _panel(ax, table)
        top -= tall
    _legend(fig, height)
    return fig


def _panel(ax: Axes, table: Verdicts) -> None:
    cells = table.matrix
    for y, (claim, verdicts) in enumerate(cells.iterrows()):
        for x, verdict in enumerate(verdicts):
            if verdict:
                _cell(ax, x, y, verdict, verdict != table.default[claim])
            else:
                ax.add_patch(_white(x - 0.46, y - 0.44, 0.92, 0.88))
    ax.set(xlim=(-0.5, cells.shape[1] - 0.5), ylim=(len(cells) - 0.5, -0.5))
    ax.set_yticks(range(len(cells)), [_wrapped(table, claim) for claim in cells.index])
    heads = [DEFAULT if one == DEFAULT else said(one, how) for one, how in cells.columns]
    ax.set_xticks(range(cells.shape[1]), heads, rotation=90)
    ax.xaxis.tick_top()
    ax.tick_params(length=0, labelsize=PRINT)
    ax.grid(False)
    title = f"Paper {cells.index[0][0]}, on {table.preset}"
    ax.text(-0.7, -0.9, title, ha="right", va="bottom", fontsize=8, weight="bold")
    for spine in ax.spines.values():
        spine.set_visible(False)


def _cell(ax: Axes, x: float, y: float, verdict: str, differs: bool) -> None:
    """Draw a verdict; one that differs from the default's in a frame, and in words."""
    face = plots.palette(FACES[verdict])
    ax.add_patch(Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, facecolor=face, linewidth=0))
    if differs:
        frame = {"facecolor": "none", "edgecolor": plots.INK, "linewidth": 1.6}
        ax.add_patch(Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, **frame))
        short = {NOT_TESTED: "–", OPEN: "?"}.get(verdict, verdict)
        ax.text(x, y, short, ha="center", va="center", fontsize=PRINT, color="white", weight="bold")


def _white(*place: float) -> Rectangle:
    """Outline a cell without a verdict."""
    return Rectangle(
        place[:2], *place[2:], facecolor="white", edgecolor=plots.palette("random"), linewidth=0.4
    )


def _wrapped(table: Verdicts, claim: str) -> str:
    return textwrap.fill(table.statement(claim), LETTERS)


def _legend(fig: Figure, height: float) -> None:
    faces = [Rectangle((0, 0), 1, 1, facecolor=plots.palette(FACES[one])) for one in NAMES]
    frame = Rectangle((0, 0), 1, 1, facecolor="none", edgecolor=plots.INK, linewidth=1.6)
    white = _white(0, 0, 1, 1)
    fig.legend(
        [*faces, white, frame],
        [*NAMES.values(), "not concerned, or not run", "differs from the default"],
        loc="upper center",
        bbox_to_anchor=(0.5, 1),
        ncols=6,
        fontsize=7,
        handlelength=1.2,
    )
