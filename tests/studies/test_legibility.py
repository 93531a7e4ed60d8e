"""Lists by several ways, what their units write, and what becomes of both in planted systems."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from mmn_utils.exhibits.figures.real import named
from mmn_utils.neurons.attribution import attribution
from mmn_utils.neurons.captions import Caption
from mmn_utils.neurons.decoding import interpretable
from mmn_utils.neurons.effects import exact_ablation
from mmn_utils.neurons.table import Neuron, neuron_table, neurons_of
from mmn_utils.neurons.targets import Target
from mmn_utils.studies import legibility
from mmn_utils.studies.subjects import Subjects
from tests.interventions.planted import LAYER, UNITS, planted, token
from tests.tiny import tiny_limber, tiny_photographs
from tests.tiny_gated import TinyGated

PLANTED = {(LAYER, unit) for unit in UNITS.values()}
TOLD = ("a horse in a field.", "a dog and a cat", "a boat on the water")


@pytest.fixture(scope="module", params=[tiny_limber, TinyGated], ids=["alone", "behind text"])
def system(request):
    return request.param()


@pytest.fixture
def some(tmp_path) -> Subjects:
    """Three subjects, whose ids are in no order, with reference captions."""
    photographs = [
        replace(one, id=id, captions=(told, "another"))
        for one, id, told in zip(tiny_photographs(tmp_path, 3), "cab", TOLD, strict=True)
    ]
    targets = [Target(p.id, "horse", 300 + i, (5,) * i) for i, p in enumerate(photographs)]
    captions = [Caption(p.captions[0], (1,)) for p in photographs]
    return Subjects(photographs, captions, [[target] for target in targets])


def listed(**images: list[tuple[int, int, float]]) -> pd.DataFrame:
    """A neuron table of units, given as (layer, unit, activation), best first."""
    return neuron_table(
        {"image": image, "target": "horse", "token": 0, "layer": layer, "unit": unit, "patch": 0,
         "score": -float(place), "activation": activation}
        for image, units in images.items()
        for place, (layer, unit, activation) in enumerate(units)
    )  # fmt: skip


def units_of(table: pd.DataFrame, image: str) -> list[tuple[int, int]]:
    part = table[table["image"] == image]
    return list(zip(part["layer"], part["unit"], strict=True))


# --- other inputs -------------------------------------------------------------------------


def test_told_in_words_all_but_the_image_tokens_stays(system, some):
    for row, text in enumerate(("A horse in a field.", "A dog and a cat.", "A boat on the water.")):
        prompt, words = legibility.described_in_words(system, some, row)
        shown, image = system.prompt([some.photographs[row].open()]), system.image_tokens
        ids = system.tokenizer.encode(text)
        assert torch.equal(prompt.embeds[0, words], system.embed(torch.tensor(ids)))
        assert torch.equal(prompt.embeds[:, : image.start], shown.embeds[:, : image.start])
        behind = shown.embeds[:, image.start + image.count :]
        assert torch.equal(prompt.embeds[:, -behind.shape[1] :], behind)
        # a blank stands between the caption and the prefix: the prefix's own, or a new line
        between = prompt.embeds[0, words.stop : prompt.embeds.shape[1] - behind.shape[1]]
        gap = [] if system.prefix.startswith(" ") else system.tokenizer.encode("\n")
        assert torch.equal(between, system.embed(torch.tensor(gap, dtype=torch.long)))


def test_each_image_token_becomes_the_word_of_the_highest_cosine(system, some):
    prompt, positions = legibility.snapped(system, some, 1)
    assert positions is None  # the image tokens' places
    shown, image = system.prompt([some.photographs[1].open()]), system.image_tokens
    table = system.language_model.get_input_embeddings().weight[: system.sizes.vocabulary].numpy()
    span = slice(image.start, image.start + image.count)
    for old, new in zip(shown.embeds[0, span].numpy(), prompt.embeds[0, span].numpy(), strict=True):
        cosines = table @ old / np.linalg.norm(table, axis=1) / np.linalg.norm(old)
        assert np.array_equal(new, table[cosines.argmax()])
    assert torch.equal(prompt.embeds[:, : span.start], shown.embeds[:, : span.start])
    assert torch.equal(prompt.embeds[:, span.stop :], shown.embeds[:, span.stop :])


@pytest.mark.parametrize("captions", [(), (" . ",)])
def test_a_photograph_without_a_caption_is_refused_before_anything_is_computed(
    system, some, captions, monkeypatch
):
    monkeypatch.setattr(legibility, "by_methods", None)
    bare = Subjects([*some.photographs[:2], replace(some.photographs[2], captions=captions)],
                    some.captions, some.every)  # fmt: skip
    with pytest.raises(
        ValueError, match=r"photograph 'b' comes without a caption, .* with captions"
    ):
        legibility.lists_of(system, bare, 2, 4)
    with pytest.raises(ValueError, match="k = 5, depth = 4: give"):
        legibility.lists_of(system, some, 5, 4)


def test_a_list_is_that_of_its_input_and_follows_the_caption(system, some):
    words = legibility.described_in_words
    table = legibility.by_input(system, some, "words", words, 6)
    for row, target in enumerate(some.targets):
        prompt, where = words(system, some, row)
        expected = attribution(system, prompt, [target], k=6, positions=where)
        own = table[table["image"] == target.image].reset_index(drop=True)
        pd.testing.assert_frame_equal(own, expected, rtol=1e-5)
    other = replace(some.photographs[0], captions=("the train stops",))
    changed = Subjects([other, *some.photographs[1:]], some.captions, some.every)
    again = legibility.by_input(system, changed, "words", words, 6)
    assert units_of(again, "c") != units_of(table, "c")
    assert units_of(again, "a") == units_of(table, "a")


def test_there_are_six_lists_as_deep_as_asked(system, some):
    lists = legibility.lists_of(system, some, 3, 7)
    ways = ["picture", "picture_summed", "last_token", "last_active", "words", "snapped"]
    assert list(lists) == ways
    assert all(table.groupby("image").size().tolist() == [7] * 3 for table in lists.values())
    prompt, _ = legibility.snapped(system, some, 0)
    expected = attribution(system, prompt, [some.targets[0]], k=7)
    assert units_of(lists["snapped"], "c") == units_of(expected, "c")


# --- lists --------------------------------------------------------------------------------


def test_candidates_are_taken_in_turns_with_the_activation_of_their_best_place():
    first = listed(a=[(0, 1, 1.0), (0, 2, 2.0), (0, 3, 3.0)], b=[(2, 2, 9.0)])
    second = listed(a=[(1, 1, -1.0), (0, 1, -2.0), (0, 3, -3.0), (1, 4, -4.0)])
    found = legibility.candidates({"x": first, "y": second}, "a", 4)
    assert found.to_dict() == {(0, 1): 1.0, (1, 1): -1.0, (0, 2): 2.0, (0, 3): 3.0}
    assert list(found.index) == [(0, 1), (1, 1), (0, 2), (0, 3)]
    with pytest.raises(ValueError, match=r"6 units of photograph a are to be ablated, .* hold 5;"):
        legibility.candidates({"x": first, "y": second}, "a", 6)


def test_units_are_ablated_on_their_own_photograph_and_again_for_other_lists(system, some):
    lists = {"x": listed(**{image: [(0, 1, -1.0), (1, 2, 2.0), (2, 3, 3.0)] for image in "abc"})}
    found = legibility.exact(system, some, lists, 3)
    neurons = [Neuron(0, 1), Neuron(1, 2), Neuron(2, 3)]
    for photograph, target in zip(some.photographs, some.targets, strict=True):
        prompt = system.prompt([photograph.open()])
        expected = exact_ablation(system, prompt, target, neurons)
        own = found[found["image"] == photograph.id].reset_index(drop=True)
        assert neurons_of(own) == neurons_of(expected)
        assert np.allclose(own["score"], expected["score"], atol=1e-5)
        active = dict(zip(neurons_of(own), own["activation"], strict=True))
        assert active == {Neuron(0, 1): -1, Neuron(1, 2): 2, Neuron(2, 3): 3}
    other = {"x": listed(**{image: [(0, 4, 1.0), (1, 5, 2.0), (2, 6, 3.0)] for image in "abc"})}
    again = legibility.exact(system, some, other, 3)  # as many, and of the same photographs
    assert set(neurons_of(again)) == {Neuron(0, 4), Neuron(1, 5), Neuron(2, 6)}


def test_a_list_that_is_too_short_is_refused():
    table = listed(a=[(0, 1, 1.0), (0, 2, 1.0)], b=[(0, 1, 1.0)])
    assert units_of(legibility.top(table, 1), "a") == [(0, 1)]
    with pytest.raises(ValueError, match=r"2 units of photograph b are asked .* holds 1; rank"):
        legibility.top(table, 2)


# --- closed forms -------------------------------------------------------------------------


def test_generic_units_are_among_the_top_of_half_of_the_photographs():
    table = listed(
        a=[(0, 1, -1.0), (0, 2, 1.0), (0, 9, 1.0)],
        b=[(0, 2, 1.0), (0, 1, -1.0), (0, 8, 1.0)],
        c=[(0, 1, 1.0), (0, 3, 1.0), (0, 2, 1.0)],  # its third is not among the top two
        d=[(0, 4, 1.0), (1, 1, 1.0), (0, 7, 1.0)],  # the same number in another layer
    )
    generic = legibility.generic_units(table, 2)
    assert generic.values.tolist() == [[0, 1, 0.75], [0, 2, 0.5]]
    assert legibility.generic_units(table, 2, share=0.6)["unit"].tolist() == [1]
    left = legibility.without(table, generic)
    assert [units_of(left, image) for image in "abcd"] == [
        [(0, 9)], [(0, 8)], [(0, 3)], [(0, 4), (1, 1), (0, 7)],
    ]  # fmt: skip
    assert legibility.without(table, generic.iloc[:0]).equals(table)
    with pytest.raises(ValueError, match="2 units of photograph a are asked for"):
        legibility.top(left, 2)  # never fewer in silence


@pytest.mark.parametrize(("layers", "first"), [(3, 1), (30, 3), (20, 2)])
def test_the_first_tenth_of_the_layers(layers, first):
    table = listed(a=[(first - 1, 0, 1.0), (first, 0, 1.0), (0, 5, 1.0), (0, 6, 1.0)],
                   b=[(first, 0, 1.0), (first, 1, 1.0), (first, 2, 1.0), (0, 0, 1.0)])  # fmt: skip
    assert legibility.early_share(table, 3, layers).to_dict() == {"a": pytest.approx(2 / 3), "b": 0}
    both = legibility.side_by_side({"x": table, "y": table.iloc[::-1]}, 1, layers)
    assert both.columns.tolist() == ["image", "x", "y"]
    assert both.set_index("image")["x"].to_dict() == {"a": 1, "b": 0}


def test_the_same_units_are_counted_where_both_lists_have_the_photograph():
    first = listed(a=[(0, 1, 1.0), (0, 2, 1.0), (0, 3, 1.0)], b=[(0, 1, 1.0), (0, 2, 1.0)])
    second = listed(a=[(0, 2, 1.0), (1, 1, 1.0), (0, 1, 1.0)], c=[(0, 1, 1.0), (0, 2, 1.0)])
    assert legibility.same_units(first, second, 2).to_dict() == {"a": 1.0}


# --- what they write ----------------------------------------------------------------------


def across(along: torch.Tensor) -> torch.Tensor:
    """Draw three vectors (d, 3) that give the planted words a logit of 0."""
    drawn = 0.1 * torch.randn(len(along), 3, generator=torch.manual_seed(0))
    return drawn - along @ (along.T @ drawn)


@pytest.fixture(scope="module")
def writing():
    """A system of whose units one alone writes horse, one horses and one boat."""
    system = planted()
    words = system.language_model.lm_head.weight[[token(word) for word in UNITS]].detach()
    along = torch.linalg.qr(words.T).Q  # (d, 3); what lies across gives these words a logit of 0
    for layer in range(system.sizes.layers):
        weight = system.act_module(layer).weight
        planted_here = [unit for at, unit in PLANTED if at == layer]
        others = np.setdiff1d(np.arange(system.sizes.units), planted_here)
        weight.data[:, others] -= along @ (along.T @ weight.data[:, others])
        if planted_here:
            weight.data[:, planted_here] += across(along)  # they write other words, too
    return system


def of_horse(activation: float = 1.0) -> list[tuple[int, int, float]]:
    """Four units of which two write horse or horses, if their activation is positive."""
    return [(LAYER, UNITS[word], activation) for word in ("horse", "boat", "horses")] + [(0, 3, 1)]


def test_shares_are_those_that_were_planted(writing):
    lists = {"x": listed(a=of_horse(), b=of_horse(-1.0)), "y": listed(a=of_horse())}
    found = legibility.written(writing, lists, {"a": "horse", "b": "boat"}, 4)
    shares = found.rows.set_index(["way", "reading", "image"])["share"]
    assert shares["x", "signed", "a"] == shares["y", "signed", "a"] == 0.5
    assert shares["x", "plain", "b"] == 0.25
    assert shares["x", "signed", "b"] == 0  # an active unit of the other sign writes another word
    assert set(found.rows["reading"]) == {"plain", "signed", "normed"}
    assert shares["x", "normed", "a"] == 0.5
    assert (shares["x_random"] == 0).all()  # no other unit writes it
    short = legibility.written(writing, lists, {"a": "horse", "b": "boat"}, 1)
    assert short.rows.set_index(["way", "reading", "image"])["share"]["x", "signed", "a"] == 1


def test_random_units_have_layer_and_sign_of_those_beside_them(writing):
    table = listed(a=[(0, 1, -1.0), (2, 2, 1.0), (2, 3, -1.0)], b=[(0, 1, 1.0), (1, 1, 1.0)] * 2)
    nouns = {"a": "horse", "b": "horse"}
    units = legibility.written(writing, {"x": table}, nouns, 3, seed=4).units
    top, random = (units[units["way"] == way] for way in ("x", "x_random"))
    for column in ("image", "layer", "activation"):
        assert top[column].tolist() == random[column].tolist()
    for image in "ab":
        assert not set(units_of(top, image)) & set(units_of(random, image))
    alone = legibility.written(writing, {"x": table[table["image"] == "b"]}, nouns, 3, seed=4).units
    assert units_of(alone[alone["way"] == "x_random"], "b") == units_of(random, "b")


def test_without_generic_units_the_next_ones_are_read(writing):
    horse, boat = ((LAYER, UNITS[word], 1.0) for word in ("horse", "boat"))
    generic = [(0, 1, -1.0), (0, 2, 1.0)]
    table = listed(a=[*generic, horse, (0, 5, 1.0)], b=[*generic, boat, (0, 6, 1.0)])
    rows = legibility.generic_rows(writing, {"picture": table}, {"a": "horse", "b": "boat"}, 2)
    shares = rows.groupby("way", sort=False)["share"].mean()
    assert shares["picture"] == 0
    assert shares["without_generic"] == 0.5
    found = legibility.generic_table(writing, {"picture": table}, 2)
    assert found["neuron"].tolist() == ["L0.u1", "L0.u2"]
    assert found["lists"].tolist() == [1, 1]
    assert found["negative"].tolist() == [1, 0]
    assert all(words.count(", ") >= 9 for words in found["words"])  # a token may be a comma
    with pytest.raises(ValueError, match="3 units of photograph a are asked for"):
        legibility.generic_rows(writing, {"picture": table}, {"a": "horse", "b": "boat"}, 3)


def test_a_run_without_generic_units_has_an_empty_table(writing):
    table = listed(a=[(0, 1, 1.0)], b=[(0, 2, 1.0)], c=[(0, 3, 1.0)])
    found = legibility.generic_table(writing, {"picture": table}, 1)
    assert found.empty
    assert found.columns.tolist() == ["neuron", "lists", "negative", "words"]


def test_all_units_of_each_layer_are_read(system, monkeypatch):
    monkeypatch.setattr("mmn_utils.neurons.text.WORDS_NEEDED", 1)  # random vectors name few words
    found = legibility.shares_by_layer(system)
    assert found["layer"].tolist() == [0, 1, 2]
    every = [Neuron(1, unit) for unit in range(system.sizes.units)]
    assert found["share"][1] == np.mean([*interpretable(system, every).values()])


# --- tables -------------------------------------------------------------------------------


def test_tables_show_every_way_with_its_interval(writing):
    lists = {"picture": listed(a=of_horse(), b=of_horse()), "exact": listed(a=of_horse(-1.0)[::-1],
             b=of_horse(-1.0)[::-1])}  # fmt: skip
    rows = legibility.written(writing, lists, {"a": "horse", "b": "horse"}, 2).rows
    table = legibility.decoding_table(rows, named)
    assert table["units"].tolist()[:2] == [
        "attribution, at the picture", "attribution, at the picture, random units",
    ]  # fmt: skip
    assert table["signed"][0].startswith("50.0% [")
    compared = legibility.exact_table(rows, {"picture": lists["picture"]}, lists["exact"], 2, named)
    assert compared["write the noun"].str.contains(r"\[").all()
    shown = compared.set_index("units")["of the true top 2"]
    # the true list is the other one backwards: of its first two, one is among the other's
    assert shown["attribution, at the picture"].startswith("0% [")
    assert (shown.drop("attribution, at the picture") == "").all()


def test_two_sizes_of_input_side_by_side(system, some):
    ways = {"picture": 0.5, "picture_random": 0.0, "larger": 0.25, "larger_random": 0.0}
    rows = pd.DataFrame([(i, w, share) for i in "abc" for w, share in ways.items()],
                        columns=["image", "way", "share"])  # fmt: skip
    said = [*some.captions[:2], Caption("another", (2,))]
    table = legibility.tokens_table(rows, system, system, some, said)
    assert table["image tokens"].tolist() == [16, 16]
    assert [cell.split(" ")[0] for cell in table["write the noun"]] == ["50.0%", "25.0%"]
    assert [cell.split(" ")[0] for cell in table["captions as with the first"]] == ["", "67%"]
