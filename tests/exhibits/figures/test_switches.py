"""The matrix of claims against switches, as it is drawn."""

from __future__ import annotations

from collections import Counter

import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from mmn_utils.exhibits import plots, switches
from mmn_utils.exhibits.figures import switches as figures
from tests.exhibits.legible import assert_legible
from tests.exhibits.verdict_tables import write_both


@pytest.fixture
def drawn(tmp_path):
    plots.use_style()
    folder = write_both(tmp_path)
    return figures.matrix([switches.read(name, folder) for name in ("first", "second")])


def test_every_verdict_is_a_cell_and_what_differs_is_framed(drawn):
    first, second = drawn.axes
    faces = Counter(
        to_hex(patch.get_facecolor())
        for patch in first.findobj(Rectangle)
        if patch.get_fill() and patch is not first.patch and patch.get_facecolor()[3] > 0
    )
    colours = {verdict: plots.palette(name).lower() for verdict, name in figures.FACES.items()}
    assert faces[colours["yes"]] == 2 + 3 + 1 + 1
    assert faces[colours["no"]] == 1 + 1
    assert faces[colours["open"]] == 1 + 1 + 1
    assert sorted(text.get_text() for text in first.texts if text.get_text() in "yesno?") == [
        "?", "yes", "yes",
    ]  # fmt: skip
    assert not [text for text in second.texts if text.get_text() in ("yes", "no", "?", "–")]


def test_the_matrix_is_legible_and_names_every_setting(drawn):
    assert_legible(drawn)
    first = drawn.axes[0]
    assert [label.get_text() for label in first.get_xticklabels()] == [
        "default", "rank_by: sum", "target: probability", "dtype: bfloat16",
    ]  # fmt: skip
    assert first.get_yticklabels()[0].get_text() == "What A-fig-1-x states."
