"""Every question against the slow reference, and the errors of those that have no answer."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmn_utils.browser.atlas.activity import KINDS
from mmn_utils.browser.atlas.files import FACTS, write_atlas
from mmn_utils.browser.atlas.query import Atlas
from mmn_utils.browser.atlas.words import ENDS, NORMS
from mmn_utils.neurons.methods import METHODS
from mmn_utils.neurons.table import Neuron
from tests.browser.atlas.reference import PICTURES, TEXTS, Reference, random_atlas
from tests.tiny import tiny_limber

NUMBERS = st.integers(0, 119)
IMAGES = st.sampled_from([str(i) for i in range(PICTURES)])
SEEDS = st.sampled_from([0, 1])
WORDS = st.sampled_from([text for text in TEXTS if text.strip()]) | st.integers(18, 59).map(
    "word{}".format
)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Two random atlases, each with its reference."""
    found = {}
    for seed in (0, 1):
        facts, parts = random_atlas(seed)
        folder = write_atlas(tmp_path_factory.mktemp("random") / "atlas", facts, parts)
        found[seed] = (Atlas.open(folder), Reference(facts, parts))
    yield found
    for atlas, _ in found.values():
        atlas.close()


@given(SEEDS, NUMBERS)
def test_a_card_holds_what_the_parts_say(both, seed, number):
    atlas, reference = both[seed]
    card, parts = atlas.neuron(reference.address(number)), reference.parts
    assert str(card.neuron) == reference.address(number)
    for end in ENDS:
        for norm in NORMS:
            tokens = [dataclasses.astuple(token) for token in card.tokens[end, norm]]
            assert tokens == reference.tokens(number, end, norm)
    for kind in KINDS:
        sights = [dataclasses.astuple(sight) for sight in card.sights[kind]]
        assert sights == reference.sights(number, kind)
    assert card.writes == card.tokens["writes", "none"]
    assert card.suppresses == card.tokens["suppresses", "none"]
    assert card.interpretable == parts.interpretable["writes"][number]
    assert card.interpretable_suppresses == parts.interpretable["suppresses"][number]
    assert list(card.histogram) == parts.counts[number].tolist()
    assert len(card.edges) == len(card.histogram) - 1
    below = sum(count for count, edge in zip(card.histogram, card.edges, strict=False) if edge <= 0)
    assert card.negative == pytest.approx(below / sum(card.histogram))
    assert card.nouns == len(reference.nouns(number))
    for method in METHODS:
        rows = reference.scores[(reference.scores["neuron"] == number)]
        rows = rows[rows["method"] == method].sort_values(["rank", "image", "target"])
        assert list(card.tops.get(method, ())) == list(dict.fromkeys(rows["target"]))
    wanted = sorted(((v[number], n) for n, v in parts.overlaps.items()), reverse=True)[:12]
    assert [name for name, _ in card.overlaps] == [name for _, name in wanted]
    np.testing.assert_allclose([v for _, v in card.overlaps], [v for v, _ in wanted], rtol=1e-3)


@given(
    SEEDS,
    WORDS,
    st.sampled_from(ENDS),
    st.sampled_from(NORMS),
    st.integers(1, 60),
)  # fmt: skip
def test_search_finds_who_writes_a_word_and_ranks_them(both, seed, word, end, norm, n):
    atlas, reference = both[seed]
    found = atlas.search(word, end=end, norm=norm, n=n)
    columns = ["address", "token", "rank", "text", "logit"]
    assert list(found[columns].itertuples(index=False, name=None)) == reference.search(
        word, end, norm, n
    )


@given(SEEDS, NUMBERS, st.none() | IMAGES, st.none() | st.integers(0, 79).map("NOUN{}".format))
def test_elsewhere_lists_places_but_for_what_is_left_out(both, seed, number, image, noun):
    atlas, reference = both[seed]
    found = atlas.elsewhere(reference.address(number), image=image, noun=noun)
    wanted = reference.elsewhere(number, image, noun)
    assert [dataclasses.astuple(place) for place in found] == wanted


@settings(max_examples=30)
@given(
    SEEDS,
    st.fixed_dictionaries(
        {
            "layers": st.none() | st.lists(st.integers(0, 2), max_size=3),
            "method": st.none() | st.sampled_from(sorted(METHODS)),
            "least_score": st.none() | st.sampled_from([0.0, 0.5, 0.97]),
            "interpretable": st.none() | st.booleans(),
            "generic": st.none() | st.booleans(),
            "nouns": st.none() | st.tuples(st.integers(0, 20), st.integers(0, 60)),
        }
    ),
)
def test_filters_keep_what_they_say(both, seed, asked):
    atlas, reference = both[seed]
    if asked["method"] is None:
        asked = {**asked, "least_score": None}
    found = atlas.neurons(**asked, n=1000)
    assert found["address"].tolist() == reference.neurons(**asked)
    assert atlas.neurons(**asked, n=3)["address"].tolist() == found["address"].tolist()[:3]


@given(SEEDS, NUMBERS, st.integers(1, 130))
def test_neighbours_by_vector_and_by_pictures(both, seed, number, n):
    atlas, reference = both[seed]
    found = atlas.similar(reference.address(number), n)
    cosines = reference.cosines(number)
    assert found.exact
    assert len(found.vectors) == min(n, len(cosines) - 1)
    assert reference.address(number) not in set(found.vectors["address"])
    own = found.vectors["layer"] * atlas.facts.units + found.vectors["unit"]
    np.testing.assert_allclose(found.vectors["cosine"], cosines[own], atol=1e-6)
    others = np.delete(cosines, number)
    np.testing.assert_allclose(found.vectors["cosine"], -np.sort(-others)[:n], atol=1e-6)
    pictures = found.pictures[["address", "shared"]].itertuples(index=False, name=None)
    assert list(pictures) == reference.sharing(number)[:n]


@given(SEEDS, IMAGES)
def test_a_picture_has_its_scores_and_its_viewers(both, seed, image):
    atlas, reference = both[seed]
    picture, strongest = atlas.image(image), reference.parts.shown["strongest"]
    rows = reference.scores[reference.scores["image"] == image]
    rows = rows.sort_values(["method", "target", "rank"])
    columns = ["method", "target", "layer", "unit", "patch", "score", "rank", "token", "activation"]
    assert list(picture.scores[columns].itertuples(index=False, name=None)) == list(
        rows[columns].itertuples(index=False, name=None)
    )
    numbers = np.flatnonzero((strongest.pictures == int(image)).any(1))
    assert set(picture.viewers["address"]) == set(map(reference.address, numbers))
    assert picture.viewers["value"].is_monotonic_decreasing
    assert [noun.noun for noun in picture.nouns] == reference.parts.nouns.loc[
        reference.parts.nouns["image"] == image, "noun"
    ].tolist()
    (mask,) = picture.masks
    assert mask.category == "category 00"
    assert picture.file == f"{image}.jpg"


def test_texts_are_returned_as_the_vocabulary_has_them(both):
    atlas, _ = both[0]
    for text in ("<filename>", "<b>", "&amp;", " ' OR 1=1 --", "'; DROP TABLE cards; --"):
        assert set(atlas.search(text)["text"]) == {text}
    assert set(atlas.search("horse", n=1000)["text"]) == {" horse", "horse", " Horse"}
    assert set(atlas.search("STRASSE", n=1000)["text"]) == {"Straße", " STRASSE"}


def test_order_of_filtered_neurons(both):
    atlas, _ = both[0]
    assert atlas.neurons(order="peak", n=200)["peak"].is_monotonic_decreasing
    assert atlas.neurons(order="nouns", n=200)["nouns"].is_monotonic_decreasing
    by_peak = atlas.neurons(method="attribution", order="peak", n=200)
    assert by_peak["peak"].is_monotonic_decreasing
    assert by_peak["attribution_best"].notna().all()


# --- exact cosines -----------------------------------------------------------------------


def test_with_the_model_the_shortlist_has_exact_cosines(made):
    other = tiny_limber(1)
    own = Neuron(1, 5)
    every = torch.cat([made.model.write_vectors(layer) for layer in range(3)]).detach()
    cosines = torch.cosine_similarity(every[128 + 5][None], every)
    cosines[128 + 5] = -1
    found = made.atlas.similar(own, 5, model=made.model)
    np.testing.assert_allclose(found.vectors["cosine"], cosines.topk(5).values, rtol=1e-5)
    assert found.exact
    with pytest.raises(ValueError, match="give the one that it was made from"):
        made.atlas.similar(own, 5, model=other)


def test_reduced_directions_say_that_they_are_not_exact(both, tmp_path):
    _, reference = both[0]
    facts = dataclasses.replace(reference.facts, width=4096, exact_vectors=False)
    with Atlas.open(write_atlas(tmp_path / "wide", facts, reference.parts)) as atlas:
        assert not atlas.similar("L0.u0").exact


# --- bad input ---------------------------------------------------------------------------


def test_a_missing_or_incomplete_atlas_names_the_command(both, tmp_path):
    with pytest.raises(FileNotFoundError, match="make atlas PRESET=nowhere"):
        Atlas.open("nowhere")
    _, reference = both[0]
    folder = write_atlas(tmp_path / "part", reference.facts, reference.parts)
    (folder / "lexicon.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"lexicon.parquet.*make atlas PRESET="):
        Atlas.open(folder)


@given(SEEDS, st.integers(1, 13))
def test_tops_are_the_first_ranks_with_their_activations(both, seed, k):
    atlas, reference = both[seed]
    rows = reference.scores[reference.scores["rank"] <= k]
    columns = ["image", "target", "method", "rank", "layer", "unit", "score", "activation"]
    found = atlas.tops(k)
    assert found["rank"].min() == 1
    assert set(found[columns].itertuples(index=False)) == set(rows[columns].itertuples(index=False))


def test_a_card_says_which_end_was_written_for_a_noun(both):
    atlas, reference = both[0]
    for row in reference.scores.sample(20, random_state=0).itertuples():
        found = atlas.neuron(reference.address(row.neuron)).written(row.image, row.target.lower())
        assert found[row.method].sign == (-1 if row.activation < 0 else 1)
        assert found[row.method].end == ("suppresses" if row.activation < 0 else "writes")
    assert atlas.neuron("L0.u0").written("0", "unheard of") == {}


def test_scores_without_an_activation_are_refused(both, tmp_path):
    _, reference = both[0]
    bare = reference.parts.scores.assign(activation=np.nan)
    parts = dataclasses.replace(reference.parts, scores=bare)
    with pytest.raises(ValueError, match="no activation"):
        write_atlas(tmp_path / "bare", reference.facts, parts)


def test_an_atlas_of_another_format_is_to_be_made_again(both, tmp_path):
    _, reference = both[0]
    folder = write_atlas(tmp_path / "old", reference.facts, reference.parts)
    facts = json.loads((folder / FACTS).read_text())
    assert facts["format"] == 2
    (folder / FACTS).write_text(json.dumps({**facts, "format": 1}))
    with pytest.raises(ValueError, match=r"format 1, .* reads 2; .*make atlas PRESET=benchmark"):
        Atlas.open(folder)


@pytest.mark.parametrize("ask", ["neuron", "similar", "elsewhere"])
def test_addresses_that_are_none_or_not_here(both, ask):
    atlas, _ = both[0]
    with pytest.raises(ValueError, match=r"'7.15772' is no neuron; write layer and unit as in"):
        getattr(atlas, ask)("7.15772")
    with pytest.raises(ValueError, match=r"L3.u0 is not in this model: layers 0 to 2"):
        getattr(atlas, ask)("L3.u0")


def test_a_picture_that_is_not_there(both):
    atlas, _ = both[0]
    for image in ("99", "' OR 1=1 --", 3):
        with pytest.raises(ValueError, match=r"no picture .* among the 23"):
            atlas.image(image)


def test_words_and_options_that_are_none(both):
    atlas, _ = both[0]
    with pytest.raises(ValueError, match=r"no token .* 'horseback'; .* begins with: 'horse'"):
        atlas.search("horseback")
    with pytest.raises(ValueError, match="no token"):
        atlas.search(" ")
    with pytest.raises(ValueError, match="end='reads'"):
        atlas.search("horse", end="reads")
    with pytest.raises(ValueError, match=r"method='neuron; DROP'.*attribution"):
        atlas.neurons(method="neuron; DROP")
    with pytest.raises(ValueError, match="order='unit'"):
        atlas.neurons(order="unit")
    with pytest.raises(ValueError, match=r"least_score=0.5: give the method"):
        atlas.neurons(least_score=0.5)


def test_without_masks_and_without_scores_of_a_neuron(both, tmp_path):
    _, reference = both[0]
    parts = dataclasses.replace(
        reference.parts, overlaps={}, masks=reference.parts.masks.iloc[:0],
        scores=reference.parts.scores[reference.parts.scores["layer"] == 1],
    )  # fmt: skip
    facts = dataclasses.replace(reference.facts, categories=())
    with Atlas.open(write_atlas(tmp_path / "bare", facts, parts)) as atlas:
        card = atlas.neuron("L0.u3")
        assert (card.overlaps, card.places, card.nouns, card.generic) == ((), (), 0, False)
        assert atlas.image("0").masks == ()
        assert isinstance(atlas.neurons(method="contribution"), pd.DataFrame)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_score_as_it_is_shown_is_not_below_itself(both, seed):
    atlas, _ = both[seed]
    every = atlas.neurons(method="contribution", n=40)
    assert len(every)
    for address, score in zip(every["address"], every["contribution_best"], strict=True):
        found = atlas.neurons(method="contribution", least_score=float(str(np.float32(score))))
        assert address in set(found["address"])
