"""How much of a list is left, against sets that are counted by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mmn_utils.running.switches.lists import overlaps


def listed(units: dict[tuple[str, str], list[int]]) -> pd.DataFrame:
    """A neuron table: for each picture and noun the units, best first, all of layer 1."""
    rows = [
        {"image": image, "target": noun, "token": 1, "layer": 1, "unit": unit, "patch": 0,
         "score": float(len(some) - i), "activation": 1.0}
        for (image, noun), some in units.items()
        for i, unit in enumerate(some)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_overlap_is_the_share_of_the_first_that_are_among_the_first():
    hundred, other = list(range(100)), [*range(10), *range(200, 290)]
    usual = listed({("a", "dog"): hundred, ("b", "cat"): hundred, ("c", "cup"): hundred})
    put = listed({("a", "dog"): other, ("b", "cat"): hundred[::-1], ("c", "bowl"): hundred})
    found = overlaps(usual, put)  # of c another noun is said
    assert found[20].value == pytest.approx((10 / 20 + 0) / 2)
    assert found[100].value == pytest.approx((10 / 100 + 1) / 2)
    assert found[20].n == found[100].n == 2
    assert found[20].low < found[20].value < found[20].high


def test_a_picture_counts_once_however_many_nouns_it_has():
    hundred = list(range(100))
    usual = {("a", "dog"): hundred, ("a", "cat"): hundred, ("b", "cup"): hundred}
    put = usual | {("a", "dog"): list(range(500, 600))}
    found = overlaps(listed(usual), listed(put))
    assert found[20].value == pytest.approx(np.mean([np.mean([0, 1]), 1]))
    assert found[20].n == 2


def test_a_unit_that_is_listed_at_two_patches_counts_once():
    twice = [0, *range(100)]
    found = overlaps(listed({("a", "x"): twice}), listed({("a", "x"): list(range(100))}))
    assert found[20].value == found[100].value == 1


def test_lists_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="no picture has the same noun"):
        overlaps(listed({("a", "x"): [1]}), listed({("a", "y"): [1]}))
    with pytest.raises(ValueError, match="a list has 30 units, 100 are compared"):
        overlaps(*[listed({("a", "x"): list(range(30))})] * 2)
