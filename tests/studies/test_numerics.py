"""What stays where a system computes otherwise: all where it does not, else what was planted."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import torch

from mmn_utils.neurons.captions import caption_images
from mmn_utils.neurons.targets import Target
from mmn_utils.studies import numerics
from mmn_utils.studies.subjects import Subjects, top_neurons
from tests.tiny import tiny_limber, tiny_photographs
from tests.tiny_gated import TinyGated

LONGEST, K = 4, 5


@pytest.fixture(scope="module")
def gated():
    return TinyGated()


@pytest.fixture
def some(gated, tmp_path) -> Subjects:
    photographs = [replace(one, id=id) for one, id in
                   zip(tiny_photographs(tmp_path, 3), "cab", strict=True)]  # fmt: skip
    images = [photograph.open() for photograph in photographs]
    captions = caption_images(gated, images, LONGEST, 3, list("cab"))
    targets = [[Target(p.id, "horse", 300, c.ids[:1])] for p, c in
               zip(photographs, captions, strict=True)]  # fmt: skip
    return Subjects(photographs, captions, targets)


def compared(some: Subjects, expected: pd.DataFrame, **models) -> pd.DataFrame:
    return numerics.moved(some, expected, models, k=K, max_new_tokens=LONGEST, batch_size=2)


def test_a_system_is_like_itself_and_another_is_not(gated, some):
    expected = top_neurons(gated, some, k=K)
    rows = compared(some, expected, same=lambda: gated, other=lambda: TinyGated(seed=3))
    assert rows["image"].tolist() == list("cab") * 2
    assert rows.groupby("way")["same"].mean()["same"] == 1
    assert rows.groupby("way")["same_caption"].mean()["same"] == 1
    other = rows[rows["way"] == "other"]
    assert other["same"].max() < 1
    assert other["same_caption"].max() == 0


def test_the_share_is_of_the_units_that_are_in_both_lists(gated, some):
    expected = top_neurons(gated, some, k=K)
    away = expected["image"].eq("a") & expected.groupby("image").cumcount().isin([1, 3])
    nowhere = min(set(range(48)) - set(expected["unit"]))  # in no list
    expected["unit"] = expected["unit"].where(~away, nowhere)
    rows = compared(some, expected, same=lambda: gated).set_index("image")
    assert rows["same"].to_dict() == {"c": 1, "a": pytest.approx(3 / 5), "b": 1}


def test_a_caption_is_the_same_word_for_word_or_not(gated, some):
    first = replace(some.captions[0], text=some.captions[0].text + " field")
    changed = Subjects(some.photographs, [first, *some.captions[1:]], some.every)
    rows = compared(changed, top_neurons(gated, some, k=K), same=lambda: gated)
    assert rows["same_caption"].tolist() == [0, 1, 1]


def test_models_are_made_when_their_turn_comes(gated, some):
    made = []
    ways = {name: lambda name=name: made.append(name) or gated for name in ("x", "y")}
    rows = compared(some.select(["a"]), top_neurons(gated, some, k=K), **ways)
    assert made == ["x", "y"]
    assert rows["way"].tolist() == ["x", "y"]


def breaks_off(model, before: str) -> None:
    with numerics.attending_otherwise(model) as other:
        assert {before, other} == {"sdpa", "eager"}
        assert model.language_model.config._attn_implementation == other
        raise RuntimeError


@pytest.mark.parametrize("before", ["sdpa", "eager"])
def test_attention_is_computed_otherwise_until_the_end_whatever_happens(before):
    model = TinyGated()
    model.language_model.set_attn_implementation(before)
    with pytest.raises(RuntimeError):
        breaks_off(model, before)
    assert model.language_model.config._attn_implementation == before


def test_other_attention_is_used(some, monkeypatch):
    model, asked = TinyGated(), []
    attend = torch.nn.functional.scaled_dot_product_attention

    def counted(*args, **options):
        asked.append(1)
        return attend(*args, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    model.language_model.set_attn_implementation("sdpa")
    prompt = model.prompt([some.photographs[0].open()])
    fused, _ = model.forward(prompt)
    assert len(asked) == model.sizes.layers
    with numerics.attending_otherwise(model) as other:
        plain, _ = model.forward(prompt)
    assert other == "eager"
    assert len(asked) == model.sizes.layers  # not once more
    torch.testing.assert_close(fused, plain, atol=1e-5, rtol=1e-5)


def test_a_class_with_one_implementation_is_left_alone():
    model = tiny_limber()  # GPT-J
    before = model.language_model.config._attn_implementation
    with numerics.attending_otherwise(model) as other:
        assert other is None
        assert model.language_model.config._attn_implementation == before


def test_a_summary_has_the_ways_in_their_order_with_intervals():
    rows = pd.DataFrame(
        {
            "image": list("abab"),
            "way": ["z", "z", "y", "y"],
            "same": [1.0, 0.5, 0.0, 0.5],
            "same_caption": [1.0, 0.0, 1.0, 1.0],
        }
    )
    table = numerics.summary(rows)
    assert table["computed in"].tolist() == ["z", "y"]
    assert [cell.split(" ")[0] for cell in table["top units that stay"]] == ["75.0%", "25.0%"]
    assert [cell.split(" ")[0] for cell in table["captions that stay"]] == ["50%", "100%"]
    assert table.map(lambda cell: "[" in cell).iloc[:, 1:].all(axis=None)
