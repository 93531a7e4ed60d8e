"""Soft prompts as words: read patch by patch, put beside other texts, compared by picture."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from mmn_utils.measures.estimates import difference_of, mean_of
from mmn_utils.neurons.captions import Caption
from mmn_utils.neurons.decoding import nearest_tokens
from mmn_utils.studies import soft_prompts
from mmn_utils.studies.agreement import listed, other_images
from mmn_utils.studies.annotations import human_nouns
from mmn_utils.studies.subjects import Subjects
from tests.studies.boxes import boxed
from tests.tiny import tiny_limber


@pytest.fixture(scope="module")
def system():
    return tiny_limber()


# --- from vectors to words ---------------------------------------------------------------


def test_soft_prompts_are_read_patch_by_patch(system, tmp_path):
    photographs = boxed(tmp_path)[:4]
    found = soft_prompts.nearest_to_patches(system, photographs, k=3, batch_size=3)
    soft = system.soft_prompt([p.open() for p in photographs])
    assert found.texts.shape == found.cosines.shape == (4, system.image_tokens.count)
    ids, expected = nearest_tokens(system, soft[3], 3)
    assert np.allclose(found.cosines[3], expected[:, 0].numpy(), atol=1e-5)
    assert found.texts[3, 5] == listed(system.token_strings[i] for i in ids[5].tolist())
    with pytest.raises(ValueError, match="no photographs"):
        soft_prompts.nearest_to_patches(system, [])


def test_vectors_are_read_alike_and_different_tokens_counted(system):
    table = system.language_model.get_input_embeddings().weight.detach()
    found = soft_prompts.nearest_to_vectors(system, 3 * table[[7, 9, 7]], k=1)
    assert found.texts.tolist() == [system.token_strings[i].strip() for i in (7, 9, 7)]
    assert np.allclose(found.cosines, 1, atol=1e-5)
    assert found.different == 2


# --- five kinds of text ------------------------------------------------------------------


def of_texts(texts: np.ndarray) -> soft_prompts.Nearest:
    return soft_prompts.Nearest(texts.astype(object), np.zeros(texts.shape), 0)


@pytest.fixture
def sample(tmp_path) -> Subjects:
    photographs = boxed(tmp_path)
    captions = [Caption(f"caption {p.id}", ()) for p in photographs]
    return Subjects(photographs, captions, [None] * 5, [None] * 5)


def test_each_photograph_has_five_kinds_of_text(sample):
    own = np.array([[f"{i}-{p}" for p in range(4)] for i in range(5)])
    chance = np.array([f"r{i}" for i in range(9)])
    found = soft_prompts.five_kinds(
        sample, of_texts(own), of_texts(chance), 2, np.random.default_rng(3)
    )
    assert tuple(found.of) == soft_prompts.KINDS
    assert all(len(lists) == 5 for lists in found.of.values())
    for i, patches in enumerate(found.patches):
        assert sorted(patches) == [0, 1, 2, 3]
        assert found.of["prompts"][i] == [f"{i}-{p}" for p in patches]
    assert found.of["captions"][2] == ["caption 2"]
    assert {text for lists in found.of["random"] for text in lists} <= set(chance)
    assert {len(lists) for lists in found.of["random"]} == {4}

    again = np.random.default_rng(3)  # the draws, in their order
    again.permuted(np.tile(np.arange(4), (5, 1)), axis=1)
    again.integers(0, 9, (5, 4))
    partner = other_images(5, again)
    assert found.of["shuffled"] == [found.of["prompts"][i] for i in partner]
    nouns = [[", ".join(human_nouns(p, 2, again))] for p in sample.photographs]
    assert found.of["coco"] == nouns


def test_the_costly_judge_sees_the_first_of_each_and_a_table_of_one():
    lists = {
        kind: [[f"{kind}{i}{p}" for p in range(6)] for i in "ab"] for kind in ("random", "prompts")
    }
    few = soft_prompts.Texts({**lists, "captions": [["c"], ["d"]]}, np.zeros((2, 6))).first(2, 4)
    assert few["random"] == [["randoma0", "randoma1"], ["randomb0", "randomb1"]]
    assert few["captions"] == [["c"], ["d"]]
    assert few["table prompts"] == [[f"promptsa{p}" for p in range(4)], []]


# --- one picture, patch by patch ---------------------------------------------------------

SCORES = pd.DataFrame(
    [("prompts", "a, b", 9.0), ("table prompts", "horse, x", 0.5), ("table prompts", "y, z", 0.1),
     ("table random", "y, hat", 0.2), ("table random", "Horse, hat", 0.2)],
    columns=["condition", "text", "bertscore"],
)  # fmt: skip


def test_patches_stand_beside_random_vectors_and_are_averaged():
    table = soft_prompts.patch_table(SCORES, [7, 3, 5])
    assert table["patch"].tolist() == ["7", "3"]
    assert table.iloc[0].tolist() == ["7", "horse, x", 0.5, "y, hat", 0.2]
    last = soft_prompts.with_average(table).iloc[-1]
    assert last.tolist() == ["average", "", 0.3, "", 0.2]


def test_two_columns_are_compared_row_by_row():
    found = soft_prompts.side_by_side(soft_prompts.patch_table(SCORES, [7, 3]), ["horse", "hat"])
    assert (found.prompts, found.random) == pytest.approx((0.3, 0.2))
    assert (found.wins, found.named) == (1, (1, 2))
    assert found.spread == pytest.approx(np.std([0.5, 0.1], ddof=1) / 2)


# --- all pictures ------------------------------------------------------------------------


@pytest.fixture
def wide() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    base = rng.normal(0, 1, 40)
    shifts = dict(zip(soft_prompts.KINDS, (0, 0, 1, 20, 40), strict=True))
    return pd.DataFrame({kind: base + shift for kind, shift in shifts.items()})


def test_distances_are_between_the_columns_named(wide):
    tests = soft_prompts.distances(wide, wide.assign(random=wide["prompts"] + 99))
    assert tests["mean over patches: prompts, random"].d.value == 0
    assert tests["mean over patches: prompts, random"].p == 1
    assert tests["best patch: prompts, random"].d.value == 1
    assert tests["prompts, reference nouns"].d.value == 1
    assert 0 < tests["best patch: prompts, prompts of another picture"].d.value < 1


def test_score_columns_keep_means_and_bests_apart(wide):
    wide.index = pd.Index([f"i{n}" for n in range(40)], name="image")
    table = soft_prompts.score_columns(wide, wide + 1)
    assert table.columns.tolist() == [
        "image", *soft_prompts.KINDS, "best_random", "best_prompts", "best_shuffled",
    ]  # fmt: skip
    assert np.allclose(table["best_prompts"], table["prompts"] + 1)


def test_scores_of_both_judges_have_a_row_each_for_every_photograph(wide):
    wide.index = pd.Index([f"i{n}" for n in range(40)], name="image")
    table = soft_prompts.by_judge({"clipscore": wide, "bertscore": wide / 100})
    assert table.columns.tolist() == ["judge", "image", *soft_prompts.KINDS]
    assert len(table) == 80
    last = table.iloc[-1]
    assert (last["judge"], last["image"]) == ("bertscore", "i39")
    assert last["coco"] == wide["coco"].iloc[-1] / 100


def test_kinds_are_compared_picture_by_picture(wide):
    found = soft_prompts.compared(wide, seed=2)
    assert found.same.value == 0
    assert found.own.value == pytest.approx(-1)
    assert found.above == difference_of(wide["captions"], wide["prompts"], 2)
    assert found.way["captions"].value == pytest.approx(0.5)
    assert found.means["coco"] == mean_of(wide["coco"], 2)


def test_the_papers_table_is_read_by_judge_and_kind():
    printed = soft_prompts.printed_means()
    assert printed["clipscore"]["coco"] == 27.89
    assert printed["bertscore"]["prompts"] == 0.3291
    assert "shuffled" not in printed["clipscore"]


def test_random_directions_have_no_length_in_the_result(system):
    vectors = torch.randn(5, system.sizes.width)
    one, other = (soft_prompts.nearest_to_vectors(system, v, 2) for v in (vectors, 9 * vectors))
    assert one.texts.tolist() == other.texts.tolist()
