"""A batch that goes in parts: the tables of one pass, with the memory of a part."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from mmn_utils.neurons import attribution as module
from mmn_utils.neurons.attribution import ENOUGH, attributions, rows_together
from mmn_utils.neurons.ranking import RANKS
from mmn_utils.neurons.targets import embedded
from mmn_utils.running.planning.tally import peak
from tests.neurons import every_noun, one_each
from tests.tiny import tiny_limber


@pytest.fixture
def passes(monkeypatch):
    """Count the rows of each pass back; ``of(n)`` has n rows or captions go together."""
    seen = []
    for name in ("backward", "backward_by_turns"):
        own = getattr(module, name)

        def counted(model, images, targets, *more, own=own, **options):
            seen.append(len(targets))
            return own(model, images, targets, *more, **options)

        monkeypatch.setattr(module, name, counted)

    def of(rows: int) -> list[int]:
        monkeypatch.setattr(module, "rows_together", lambda *_: rows)
        seen.clear()
        return seen

    return of


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """Compare tables, whichever of two nearly equal scores is the last."""
    keys = ["image", "target", "token", "layer", "unit", "patch"]
    both = one.merge(other, on=keys, suffixes=("", "_other"))
    groups = len(one.drop_duplicates(["image", "target"]))
    assert len(one) == len(other)
    assert len(both) >= len(one) - groups
    assert list(one["image"].drop_duplicates()) == list(other["image"].drop_duplicates())
    for column in ("score", "activation"):
        np.testing.assert_allclose(both[column], both[f"{column}_other"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("images", ["pictures", "prompt"])
@pytest.mark.parametrize("positions", [None, slice(2, 5)])
def test_rows_in_parts_are_those_of_one_pass(model, prompt, images, positions, passes):
    given = prompt if images == "prompt" else one_each.IMAGES
    score = partial(attributions, model, given, one_each.TARGETS, k=20, positions=positions)
    seen = passes(100)
    whole = score(ranks=tuple(RANKS))
    assert seen == [4]
    seen = passes(3)
    parts = score(ranks=tuple(RANKS))
    assert seen == [3, 1]
    for rank in RANKS:
        same(parts[rank], whole[rank])


@pytest.mark.parametrize("images", ["pictures", "prompt"])
def test_nouns_of_one_caption_stay_together(any_model, images, passes):
    pictures = every_noun.IMAGES
    given = embedded(any_model, pictures) if images == "prompt" else pictures
    score = partial(attributions, any_model, given, every_noun.TARGETS, k=20)
    passes(100)
    whole = score()
    seen = passes(1)
    parts = score()
    assert seen == [3, 4]  # of either picture
    for rank in ("max", "sum"):
        same(parts[rank], whole[rank])


def test_a_batch_takes_the_memory_of_its_parts(passes):
    model = tiny_limber()
    with torch.no_grad():
        prompt = model.prompt(one_each.IMAGES)
    prompt = prompt.select([i % 4 for i in range(16)])
    targets = [module.Target(str(i), "noun", 100 + i, (7, 11, 300)) for i in range(16)]
    score = partial(attributions, model, prompt, targets, k=5)
    passes(16)
    whole = peak(score)
    passes(4)
    assert peak(score) < 0.35 * whole


def test_rows_go_together_as_far_as_a_cpu_gains_by_it_and_memory_allows(monkeypatch):
    model = tiny_limber()
    assert rows_together(model, 10) == ENOUGH // 10 + 1
    assert rows_together(model, ENOUGH) == rows_together(model, 10 * ENOUGH) == 1
    sizes = model.sizes
    one = 10 * sizes.layers * (4 * sizes.units + 9 * sizes.width) * 4
    for held, expected in ((3.5 * one, 3), (one / 2, 1)):
        monkeypatch.setattr(module, "HELD", held)
        assert rows_together(model, 10) == expected
    model.language_model.to("meta")
    assert rows_together(model, 10) > 1000
