"""Whether a figure can be read: no small print, no labels over one another, known colours."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from matplotlib.axis import Axis
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from mmn_utils.exhibits import plots

SMALLEST = 6.0  # points, on a page
NEUTRAL = {"#ffffff", "#000000", plots.INK.lower(), plots.STYLE["grid.color"].lower()}


def assert_legible(fig: Figure, also: Iterable[str] = ()) -> None:
    """Fail where a figure has print under 6 pt at page width, tick labels over one another,
    or a mark in a colour that is neither of the palette nor among ``also``.
    """
    fig.draw_without_rendering()  # a closed figure has no canvas that draws
    shrink = min(1.0, plots.WIDTH["page"] / fig.get_figwidth())
    for text in fig.findobj(Text):
        if text.get_visible() and text.get_text().strip():
            size = text.get_fontsize() * shrink
            assert size >= SMALLEST, f"{text.get_text()!r} is of {size:.2g} points"
    known = {to_hex(colour) for colour in (*plots.COLOURS.values(), *also)} | NEUTRAL
    for ax in fig.axes:
        if ax.get_visible() and ax.axison:
            assert_apart(ax.xaxis)
            assert_apart(ax.yaxis)
        strange = {to_hex(colour) for colour in _marks(ax)} - known
        assert not strange, f"{sorted(strange)} are no colours of the palette"


def assert_apart(axis: Axis) -> None:
    """Fail where two neighbouring tick labels of an axis touch, upright or turned."""
    low, high = sorted(axis.get_view_interval())
    ticks = [(tick.get_loc(), tick.label1) for tick in axis.get_major_ticks()]
    labels = [
        label
        for place, label in ticks  # axes that share theirs have some that are not shown
        if low <= place <= high and label.get_visible() and label.get_text().strip()
    ]
    labels.sort(key=lambda label: label.get_position()[axis.axis_name == "y"])
    for one, next in pairwise(labels):
        assert not _touch(one, next), f"{one.get_text()!r} and {next.get_text()!r} touch"


def _touch(one: Text, other: Text) -> bool:
    boxes = [label.get_window_extent() for label in (one, other)]
    if not boxes[0].overlaps(boxes[1]):
        return False
    turned = math.radians(one.get_rotation() % 180)
    if not turned:
        return True
    # parallel lines of print: apart when their distance is a line's height
    anchors = [label.get_transform().transform(label.get_position()) for label in (one, other)]
    along = np.subtract(anchors[1], anchors[0])
    distance = abs(along[1] * math.cos(turned) - along[0] * math.sin(turned))
    lines = one.get_text().count("\n") + 1
    return distance < lines * one.get_fontsize() * one.get_figure(root=True).dpi / 72


def _marks(ax) -> list:
    """Return the colours of lines, bars and points that belong to the axes."""
    lines = [line.get_color() for line in ax.lines if line.get_linestyle() != "None"]
    bars = [patch.get_facecolor() for patch in ax.patches if isinstance(patch, Rectangle)]
    points = [
        colour
        for some in ax.collections
        if isinstance(some, PathCollection)
        for colour in some.get_facecolor()
    ]
    assert all(isinstance(line, Line2D) for line in ax.lines)
    return [*lines, *bars, *points]
