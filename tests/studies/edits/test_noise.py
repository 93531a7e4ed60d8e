"""Noise on write vectors over photographs: who is perturbed, what is averaged, what is shown."""

from __future__ import annotations

import pandas as pd
import pytest

from mmn_utils.interventions.drafts import drafts_of
from mmn_utils.models.base import state_hash
from mmn_utils.studies import edits as study
from tests.interventions.planted import neuron

MADE_UP = pd.DataFrame(
    [("1", "cat", "multimodal", True, False, 2.0), ("1", "cat", "random", False, True, 4.0),
     ("1", "dog", "multimodal", False, True, 2.0), ("1", "dog", "random", False, True, 4.0),
     ("2", "cat", "multimodal", True, False, 2.0), ("2", "cat", "random", True, True, 4.0)],
    columns=["image", "target", "condition", "changed", "kept", "relative"],
).assign(before="before", after="after")  # fmt: skip


@pytest.fixture(scope="module")
def drafts(system, photographs, captions):
    return drafts_of(system, photographs, captions, max_new_tokens=4)


def test_the_first_photographs_with_a_noun_are_perturbed(system, photographs, drafts, said):
    known = [[], *said[1:]]  # the first caption has no noun
    weights = state_hash(system.language_model)
    table = study.noise.table(system, drafts, photographs, known, 1, n_images=2, sigma=30.0, seed=1)
    assert state_hash(system.language_model) == weights
    assert table["image"].tolist() == ["b", "b", "c", "c"]
    assert table["condition"].tolist() == ["multimodal", "random"] * 2
    assert table["neurons"][0] == str(neuron("horse"))
    assert table["before"].tolist() == ["horse grass"] * 2 + ["boat grass"] * 2
    assert table.groupby("condition")["changed"].mean().to_dict() == {"multimodal": 1, "random": 0}


def test_captions_without_nouns_have_nothing_to_perturb(system, photographs, drafts):
    with pytest.raises(ValueError, match="no noun in 6 captions"):
        study.noise.table(system, drafts, photographs, [[]] * 6, 1, n_images=4)


def test_what_was_perturbed_is_counted():
    found = study.noise.extent(MADE_UP)
    assert (found["images"], found["nouns"]) == (2, 3)
    assert found["relative"] == {"multimodal": 2.0, "random": 4.0}


def test_a_table_is_laid_out_as_in_the_paper():
    table = MADE_UP.assign(after=MADE_UP["condition"] + MADE_UP["image"] + MADE_UP["target"])
    shown = study.noise.exhibit(table, 1)
    assert shown["concept"].tolist() == ["cat", "dog"]
    assert shown["noise on top neurons"].tolist() == ["multimodal1cat", "multimodal1dog"]
    assert shown["noise on random neurons"].tolist() == ["random1cat", "random1dog"]
    assert shown["word kept, top"].tolist() == [False, True]
    assert shown["noise / write vector, random"].tolist() == [4.0, 4.0]
    assert study.noise.exhibit(table, 2)["image"].tolist() == ["1", "1", "2"]


def test_a_receipt_tells_what_was_touched(system, findings):
    receipt = study.noise.receipt(
        system, findings[0].first(1), sigma=10.0, seed=2, max_new_tokens=4
    )
    assert receipt.neurons == (neuron("horse"),)
    assert receipt.caption_before == ("horse grass",)
    assert receipt.caption_changed
    assert receipt.weights_before == receipt.weights_after != receipt.weights_within
