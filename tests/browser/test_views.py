"""The answers to the front: what the atlas says, as data that JSON can hold."""

from __future__ import annotations

import base64
import copy
import dataclasses
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from mmn_utils.browser.atlas.files import write_atlas
from mmn_utils.browser.atlas.query import Atlas
from mmn_utils.browser.atlas.words import ENDS, NORMS
from mmn_utils.browser.views import QUESTIONS, Views, control_of, pieces
from mmn_utils.neurons.table import Neuron
from tests.browser.atlas.reference import PICTURES, TEXTS, Reference, random_atlas

NUMBERS = st.integers(0, 119)


@pytest.fixture(scope="module")
def random(tmp_path_factory):
    """A random atlas whose vocabulary holds markup, its views and its reference."""
    facts, parts = random_atlas(0)
    folder = tmp_path_factory.mktemp("views")
    for place, image in enumerate(parts.pictures["image"]):
        Image.new("RGB", (20 + place, 16), (place, 9, 9)).save(folder / f"{image}.png")
    parts.pictures["file"] = [str(folder / f"{image}.png") for image in parts.pictures["image"]]
    with Atlas.open(write_atlas(folder / "atlas", facts, parts)) as atlas:
        yield Views(atlas), Reference(facts, parts)


@pytest.fixture
def tiny(made):
    return Views(made.atlas)


def plain(answer):
    """What arrives on the other side of JSON, which must be what was sent."""
    arrived = json.loads(json.dumps(answer, allow_nan=False))
    assert arrived == answer
    return arrived


# --- captions and nouns -------------------------------------------------------------------


@given(st.text(max_size=60), st.lists(st.text(max_size=8), max_size=4))
def test_the_pieces_of_a_caption_are_the_caption(caption, nouns):
    found = pieces(caption, nouns)
    assert "".join(text for text, _ in found) == caption
    for text, noun in found:
        assert noun is None or noun in nouns
        assert noun is None or text.casefold() == noun.casefold()


@given(st.lists(st.sampled_from(["a", "horse", "Horse", "boat", "<b>", "on", "&amp;", " "])))
def test_a_noun_has_one_piece_where_the_caption_first_has_it(words):
    caption = " ".join(words)
    found = pieces(caption, ["horse", "boat"])
    for noun in ("horse", "boat"):
        there = [place for place, (_, key) in enumerate(found) if key == noun]
        assert len(there) == (noun in caption.casefold())
        for place in there:
            assert noun not in "".join(text for text, _ in found[:place]).casefold()


def test_a_word_that_is_first_a_verb_is_marked_where_it_is_the_noun():
    found = pieces("a man can fish a fish", ["man", "fish"])
    assert found == [["a ", None], ["man", "man"], [" can fish a ", None], ["fish", "fish"]]


def test_a_caption_that_is_empty_and_one_that_is_a_noun():
    assert pieces("", ["horse"]) == []
    assert pieces("Horses", ["horses"]) == [["Horses", "horses"]]


# --- against the reference ----------------------------------------------------------------


@given(NUMBERS)
def test_a_card_is_plain_and_says_what_the_parts_say(random, number):
    views, reference = random
    card = plain(views.card(reference.address(number)))
    assert card["address"] == reference.address(number)
    for end in ENDS:
        for norm in NORMS:
            wanted = [[text, logit] for _, text, logit in reference.tokens(number, end, norm)]
            assert card["tokens"][end if norm == "none" else f"{end}_{norm}"] == wanted
    for kind, sights in card["sights"].items():
        assert sights == [list(sight) for sight in reference.sights(number, kind)]
    wanted = reference.elsewhere(number, None, None)
    assert card["places"] == [[*place, -1 if active < 0 else 1] for *place, active in wanted]
    for name in ("interpretable", "interpretable_suppresses"):
        end = "suppresses" if name.endswith("suppresses") else "writes"
        assert card[name] == reference.parts.interpretable[end][number]
    assert card["nouns"] == len(reference.nouns(number))
    assert len(card["edges"]) == len(card["histogram"]) - 1


@given(st.lists(NUMBERS, max_size=12))
def test_about_says_of_each_neuron_what_its_card_says(random, numbers):
    views, reference = random
    addresses = [reference.address(number) for number in numbers]
    about = plain(views.about(addresses))
    assert list(about) == list(dict.fromkeys(addresses))
    for address, brief in about.items():
        card = views.card(address)
        for end in ENDS:
            assert brief[end] == [text for text, _ in card["tokens"][end][:5]]
        for name in ("interpretable", "interpretable_suppresses", "generic", "nouns"):
            assert brief[name] == card[name]


@given(st.sampled_from(TEXTS[:9]).filter(str.strip), st.sampled_from(ENDS), st.sampled_from(NORMS))
def test_search_answers_with_the_texts_as_they_are(random, word, end, norm):
    views, reference = random
    found = plain(views.search(word, end, norm))
    wanted = reference.search(word, end, norm, 50)
    assert found["rows"] == [[where, text, rank, logit] for where, _, rank, text, logit in wanted]
    assert set(found["about"]) == {row[0] for row in found["rows"]}


@settings(max_examples=12)
@given(st.integers(0, PICTURES - 1), st.integers(1, 12))
def test_top_and_patch_are_the_best_of_the_table(random, place, k):
    views, reference = random
    image = reference.images[place]
    for noun in views.picture(image)["nouns"]:
        found = plain(views.top(image, noun.upper(), k))
        rows = reference.scores[reference.scores["image"] == image]
        rows = rows[rows["target"] == noun]
        for method, some in found["rows"].items():
            best = rows[(rows["method"] == method) & (rows["rank"] <= k)].sort_values("rank")
            assert [row[0] for row in some] == [reference.address(n) for n in best["neuron"]]
            assert [row[1] for row in some] == best["score"].tolist()
            assert [row[2] for row in some] == best["patch"].tolist()
            assert [row[3] for row in some] == [-1 if a < 0 else 1 for a in best["activation"]]
        assert {row[0] for some in found["rows"].values() for row in some} == set(found["about"])
        patch = max(0, found["rows"]["attribution"][0][2])
        there = plain(views.patch(image, noun, patch, 1000))
        all_rows = views.top(image, noun, 1000)["rows"]["attribution"]
        assert there["rows"] == [[*row[:2], row[3]] for row in all_rows if row[2] == patch]


def test_filter_gives_plain_rows_with_the_best_by_each_method(random):
    views, _ = random
    every = plain(views.filter(n=1000))["rows"]
    assert len(every) == 120
    assert [row["address"] for row in every] == [f"L{i // 40}.u{i % 40}" for i in range(120)]
    few = views.filter(layers=[1], method="contribution", interpretable=False, n=1000)["rows"]
    assert few == sorted(few, key=lambda row: -row["best"]["contribution"])
    assert {row["address"].split(".")[0] for row in few} == {"L1"}
    assert [row["address"] for row in every if row["best"]["activation"] is None] == [
        row["address"] for row in every if row["address"] not in _scored(views, "activation")
    ]


def _scored(views, method):
    return {row["address"] for row in views.filter(method=method, n=1000)["rows"]}


def test_similar_names_who_is_near_and_who_shares_pictures(random):
    views, reference = random
    found = plain(views.similar("L1.u3"))
    assert found["exact"]
    assert found["pictures"] == [list(pair) for pair in reference.sharing(43)[:10]]
    assert len(found["vectors"]) == 10
    assert {row[0] for row in found["vectors"] + found["pictures"]} == set(found["about"])


# --- pictures -----------------------------------------------------------------------------


def test_a_picture_has_its_caption_nouns_masks_and_size(tiny, made):
    facts = plain(tiny.facts())
    assert [one["id"] for one in facts["pictures"]] == [one.id for one in made.photographs]
    assert facts["grid"] == list(made.model.require_grid())
    assert facts["methods"] == ["attribution", "contribution", "activation"]
    for photograph in made.photographs:
        picture = plain(tiny.picture(photograph.id))
        image = photograph.open()
        assert (picture["width"], picture["height"]) == image.size
        assert "".join(text for text, _ in picture["pieces"]) == picture["caption"]
        assert {noun for _, noun in picture["pieces"]} - {None} == set(picture["nouns"])
        assert picture["human"] == list(photograph.captions)
        assert [mask["size"] for mask in picture["masks"]] == [[image.height, image.width]]
        assert picture["src"].startswith("data:image/png;base64,")
    thumbs = tiny.thumbs(["0", "3"])
    assert list(thumbs) == ["0", "3"]
    assert all(url.startswith("data:image/jpeg;base64,") for url in thumbs.values())


def test_of_a_picture_that_is_seen_in_part_that_part_is_shown(tiny, made):
    views = Views(made.atlas, seen=lambda size: (1, 2, size[0] - 3, size[1] - 4))
    for photograph in made.photographs:
        whole, part = tiny.picture(photograph.id), plain(views.picture(photograph.id))
        small = views.thumbs([photograph.id])[photograph.id].removeprefix("data:image/jpeg;base64,")
        cut = photograph.open().crop((1, 2, whole["width"] - 3, whole["height"] - 4))
        assert (part["width"], part["height"]) == cut.size
        content = base64.b64decode(part["src"].removeprefix("data:image/jpeg;base64,"))
        assert Image.open(io.BytesIO(content)).size == cut.size
        assert Image.open(io.BytesIO(base64.b64decode(small))).size == cut.size  # as small already
        for before, after in zip(whole["masks"], part["masks"], strict=True):
            pixels, left = (
                coco_mask.decode({"size": m["size"], "counts": m["runs"]}) for m in (before, after)
            )
            assert (left == pixels[2:-4, 1:-3]).all()


def test_addresses_of_pictures_are_those_that_are_asked_for(made):
    views = Views(made.atlas, lambda path, _: path.name, lambda path, _: f"small/{path.name}")
    assert views.picture("2")["src"] == "2.png"
    assert views.thumbs(["2"]) == {"2": "small/2.png"}


def test_without_a_grid_no_image_token_has_a_place(random, tmp_path):
    _, reference = random
    facts = dataclasses.replace(reference.facts, grid=None)
    with Atlas.open(write_atlas(tmp_path / "bare", facts, reference.parts)) as atlas:
        views = Views(atlas)
        noun = views.picture("0")["nouns"][0]
        top, card = views.top("0", noun), views.card("L0.u1")
        rows = [row for some in top["rows"].values() for row in some]
        assert {row[2] for row in rows + card["sights"]["strongest"]} == {-1}
        with pytest.raises(ValueError, match="have no place"):
            views.patch("0", noun, 3)


# --- the control, and what is no question ---------------------------------------------------


@given(st.integers(0, 5), st.integers(0, 6), st.integers(0, 99))
def test_a_control_is_another_unit_of_the_layer_and_always_the_same(layer, unit, seed):
    own = Neuron(layer, unit)
    drawn = control_of(own, 6, 7, seed)
    assert drawn.layer == layer
    assert drawn.unit in set(range(7)) - {unit}
    assert drawn == control_of(own, 6, 7, seed)


def test_every_unit_may_be_drawn_as_a_control():
    drawn = {control_of(Neuron(1, 3), 6, 7, seed).unit for seed in range(200)}
    assert drawn == {0, 1, 2, 4, 5, 6}
    with pytest.raises(ValueError, match=r"layer 0 has no unit but L0.u0"):
        control_of(Neuron(0, 0), 1, 1, 0)


def test_questions_go_by_their_names(tiny):
    assert tiny.ask("control", {"neuron": "L1.u5"}) == tiny.control("L1.u5")
    assert all(callable(getattr(Views, name)) for name in QUESTIONS)
    with pytest.raises(ValueError, match=r"no question '_file'; known: facts, "):
        tiny.ask("_file", {})


def test_what_has_no_answer_says_what_there_is(tiny):
    nouns = tiny.picture("0")["nouns"]
    with pytest.raises(ValueError, match=rf"no noun 'zebra' in the caption of '0', .*{nouns[0]}"):
        tiny.top("0", "zebra")
    with pytest.raises(ValueError, match="no picture 'x' among the 5"):
        tiny.thumbs(["x"])
    with pytest.raises(ValueError, match="patch=99: the grid has"):
        tiny.patch("0", nouns[0], 99)


def test_what_a_system_wants_said_stands_beside_its_name(random):
    views, reference = random
    assert views.facts()["system"] == reference.facts.model
    atlas = copy.copy(views.atlas)
    atlas.facts = dataclasses.replace(atlas.facts, caveat="Drawn at random.")
    marked = Views(atlas)
    assert marked.facts()["system"] == f"{reference.facts.model} (Drawn at random)"
    assert marked.facts()["model"] == reference.facts.model
