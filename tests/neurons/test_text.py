"""Nouns with their tokens, and dictionary words."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from mmn_utils.neurons.text import (
    Noun,
    first_noun,
    is_dictionary_word,
    is_interpretable,
    noun_places,
    nouns,
    part_of_speech,
    same_word,
    says,
    word_in,
)
from mmn_utils.neurons.words import scowl_60
from mmn_utils.neurons.words.make import read_words, write_words
from mmn_utils.presets import ROOT, data_path


@dataclass(frozen=True)
class Caption:
    text: str
    ids: tuple[int, ...]


def byte_level(*extra: str) -> SimpleNamespace:
    """A model with GPT-J's kind of tokenizer: bytes, plus the pieces in ``extra``."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(piece.replace(" ", "Ġ") for piece in extra), "<|endoftext|>"]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    return SimpleNamespace(tokenizer=fast)


def metaspace(*pieces: str) -> SimpleNamespace:
    """A model with LLaMA's kind of tokenizer: words begin with a low line, the first loses it."""
    vocabulary = {piece.replace(" ", "▁"): i for i, piece in enumerate(["<unk>", *pieces])}
    tokenizer = Tokenizer(tokenizer_models.WordLevel(vocab=vocabulary, unk_token="<unk>"))
    tokenizer.decoder = decoders.Metaspace()
    return SimpleNamespace(tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer))


def pieces_of(model: SimpleNamespace, pieces: list[str], mark: str = "Ġ") -> tuple[int, ...]:
    written = [piece.replace(" ", mark) for piece in pieces]
    ids = model.tokenizer.convert_tokens_to_ids(written)
    assert None not in ids
    return tuple(ids)


def caption(model: SimpleNamespace, pieces: list[str], mark: str = "Ġ") -> Caption:
    ids = pieces_of(model, pieces, mark)
    return Caption(model.tokenizer.decode(list(ids), skip_special_tokens=True).strip(), ids)


def words_and_steps(found: list[Noun]) -> list[tuple[str, int]]:
    return [(noun.word, noun.step) for noun in found]


# --- nouns and their tokens ------------------------------------------------------------


def test_each_noun_has_its_own_step_and_token():
    pieces = [" a", " horse", " and", " a", " dog", " on", " the", " gr", "ass", "."]
    model = byte_level(*pieces)
    found = nouns(caption(model, pieces), model)
    assert words_and_steps(found) == [("horse", 1), ("dog", 4), ("grass", 7)]
    assert tuple(noun.token for noun in found) == pieces_of(model, [" horse", " dog", " gr"])


def test_first_noun_of_a_cut_caption():
    pieces = [" a", " man", " surfing", " on", " a", " wave"]
    model = byte_level(*pieces)
    assert first_noun(caption(model, pieces), model).word == "man"


def test_a_noun_after_a_lone_blank_takes_the_next_piece():
    pieces = [" a", " ", "horse", " and", " a", " ", " dog"]
    model = byte_level(*pieces)
    assert words_and_steps(nouns(caption(model, pieces), model)) == [("horse", 2), ("dog", 6)]


def test_a_low_line_of_its_own_is_a_blank_piece_too():
    pieces = [" ", "steeple", " and", " ", " ow", "l"]
    model = metaspace(*pieces)
    made = caption(model, pieces, mark="▁")
    assert words_and_steps(nouns(made, model)) == [("steeple", 1), ("owl", 4)]


def test_a_dropped_noun_moves_no_later_one():
    """Two nouns glued in one piece: the second has no token of its own."""
    pieces = [" a", " cat/dog", " on", " a", " mat"]
    model = byte_level(*pieces)
    assert words_and_steps(nouns(caption(model, pieces), model)) == [("cat", 1), ("mat", 4)]


def test_a_repeated_noun_is_found_at_its_own_places():
    pieces = [" a", " dog", " and", " a", " dog"]
    model = byte_level(*pieces)
    assert words_and_steps(nouns(caption(model, pieces), model)) == [("dog", 1), ("dog", 4)]


def test_characters_of_several_bytes_keep_the_alignment():
    """Neither a symbol of four pieces nor a noun that begins with a cut letter moves others."""
    symbol = [*"ðŁIJ´"]  # the four bytes of a horse's head, as byte-level pieces
    cut = ["Ġ", "Ã", "©", "cl", "air"]  # a lone blank, then the two bytes of é
    pieces = [" a", " cat", "Ġ", *symbol[:2], "Ĳ", "´", " eats", " an", *cut]
    model = byte_level(" a", " cat", " eats", " an", "cl", "air")
    found = nouns(caption(model, pieces), model)
    assert words_and_steps(found) == [("cat", 1), ("éclair", 10)]


STRAY = {
    "a lead byte": ["Ã"],
    "a byte of no beginning": ["©"],
    "two bytes of one character's three": ["â", "Ĥ"],
    "three of no character": ["Ã", "â", "ÿ"],
}


@pytest.mark.parametrize("bytes_", STRAY.values(), ids=STRAY)
@pytest.mark.parametrize(
    "noun", [[" dog"], ["dog"], [" d", "og"], [" Ã", "©", "clair"]], ids="".join
)
def test_bytes_of_no_character_are_no_nouns_token(bytes_, noun):
    model = byte_level(" a", " cat", " on", *noun)
    made = caption(model, [" a", *bytes_, *noun, " on", *bytes_, " cat"])
    spelt = model.tokenizer.decode(pieces_of(model, noun)).strip()
    steps = (1 + len(bytes_), 2 + 2 * len(bytes_) + len(noun))
    pairs = zip((spelt, "cat"), steps, strict=True)
    found = [Noun(word, step, made.ids[step]) for word, step in pairs]
    assert [word_in(made, one.word, model) for one in found] == found
    assert found[1] in nouns(made, model)
    assert spelt != "dog" or nouns(made, model) == found


def test_fallback_bytes_of_no_character_are_no_nouns_token():
    vocabulary = {piece: i for i, piece in enumerate(["<unk>", "<0xC3>", "<0xE2>", "▁a", "▁dog"])}
    tokenizer = Tokenizer(tokenizer_models.WordLevel(vocab=vocabulary, unk_token="<unk>"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    model = SimpleNamespace(tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer))
    made = caption(model, ["▁a", "<0xC3>", "<0xE2>", "▁dog"])
    assert nouns(made, model) == [Noun("dog", 3, 4)]


def test_end_of_text_and_other_silent_tokens_are_no_nouns_token():
    pieces = [" a", "<|endoftext|>", " dog", "<|endoftext|>"]
    model = byte_level(*pieces)
    made = caption(model, pieces)
    spelt_out = Caption(model.tokenizer.decode(list(made.ids)).strip(), made.ids)
    assert made.text == "a dog"
    assert "<|endoftext|>" in spelt_out.text
    for one in (made, spelt_out):
        assert words_and_steps(nouns(one, model)) == [("dog", 2)]


@pytest.mark.parametrize("pieces", [[" it", " is", " very", " red"], ["<|endoftext|>"], []])
def test_a_caption_without_noun_is_named(pieces):
    model = byte_level(*pieces)
    made = caption(model, pieces)
    assert nouns(made, model) == []
    with pytest.raises(ValueError, match="no noun in the caption") as error:
        first_noun(made, model)
    assert repr(made.text) in str(error.value)


def test_text_and_ids_that_disagree_are_refused():
    model = byte_level(" a", " dog", " cat")
    with pytest.raises(ValueError, match="decode to"):
        nouns(Caption("a cat", pieces_of(model, [" a", " dog"])), model)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["horse", "dog", "grass", "wave", "man", "boat"]), st.integers(1, 5)
        ),
        min_size=1,
        max_size=5,
    )
)
def test_however_the_words_are_cut_each_noun_starts_its_own_piece(cuts):
    """Property: the token at a noun's step begins with the noun's first letter."""
    pieces, expected = [], []
    for word, cut in cuts:
        pieces += [" the"]
        expected.append((word, len(pieces)))
        pieces += [part for part in (" " + word[: cut - 1], word[cut - 1 :]) if part]
        if cut == 1:  # the first piece is a lone blank
            expected[-1] = (word, expected[-1][1] + 1)
        pieces += [" and"]
    pieces[-1] = "."
    model = byte_level(*pieces)
    assert words_and_steps(nouns(caption(model, pieces), model)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a horse and a dog on the grass.", ["horse", "dog", "grass"]),
        ("a teddy bear in front of a building", ["teddy", "bear", "front", "building"]),
        ("People walk. The street is wet.", ["People", "street"]),
        ("a child's toy, isn't it?", ["child", "toy"]),
        ("a sign that says 'bus'", ["sign", "bus"]),
        ("an orange, seen on the sand", ["orange", "sand"]),
        ("the orange cat is sleeping", ["cat"]),
        ("2 cows!", ["cows"]),
        ("a giraffe standing in the grass", ["giraffe", "grass"]),  # the tagger cannot place it
        ("a very old remote on a couch.", ["remote", "couch"]),  # nor tell it from an adjective
        ("a big, white bird in the dark", ["bird", "dark"]),
        ("the water is blue.", ["water"]),
        ("a man in black", ["man"]),
        ("", []),
        (" \n", []),
    ],
)
def test_nouns_of_plain_captions(text, expected):
    places = noun_places(text)
    assert [word for word, _ in places] == expected
    assert all(text[start:].startswith(word) for word, start in places)


def test_a_full_stop_changes_no_tag():
    words = ["one", "airplane", "on", "the", "plain"]
    assert part_of_speech(words) == part_of_speech([*words, "."])[:-1]


def test_every_concept_of_the_miniature_is_a_noun():
    concepts = yaml.safe_load(data_path("miniature", "concepts.yaml").read_text(encoding="utf-8"))
    names = [card["name"] for card in concepts["concepts"]]
    for name in names:
        text = f"the {name}, seen on the grass"
        found = [word for word, _ in noun_places(text)]
        assert found[-2:] == [name.split()[-1], "grass"], text


def test_tags_do_not_depend_on_the_hash_seed():
    script = (
        "from mmn_utils.neurons.text import noun_places\n"
        "for t in ('a man riding a wave on top of a surfboard', 'a stop sign next to a fly',\n"
        "          'zorbling glimps near a frobnicator', 'a cook cooking in the light'):\n"
        "    print(noun_places(t))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert "surfboard" in outputs.pop()


# --- dictionary words ------------------------------------------------------------------


@pytest.mark.parametrize(
    "token",
    [
        "horse",
        " horse",
        "Horse",
        "HORSE",
        "horses",
        "colour",
        "color",
        "grey",
        "gray",
        "organise",
        "organize",
        "Paris",
        " PARIS",
        "iPhone",
        "NASA",
        "embryos",
        "swimming",
        "naiveté",
    ],
)
def test_words(token):
    assert is_dictionary_word(token)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "  ",
        "ox",
        " ox",
        "lihood",
        "ory",
        "paris",
        "hOrse",
        "horse's",
        "/**",
        "123",
        "horse1",
        "horse dog",
        "ing",
        "\ufffd",
        "\n",
        "Kirche",
        "x-ray",
        "的",
        "horse ",
        "<|endoftext|>",
    ],
)
def test_no_words(token):
    assert not is_dictionary_word(token)


def test_interpretable_from_seven_of_ten():
    assert is_interpretable([" horse"] * 7 + ["/**"] * 3)
    assert not is_interpretable([" horse"] * 6 + ["/**"] * 4)
    assert not is_interpretable([" horse"] * 6 + ["/**"] * 4 + [" horse"] * 90)


@pytest.mark.parametrize("tokens", [[], ["horse"] * 9, "horsehorsehorse"])
def test_fewer_than_ten_tokens_are_refused(tokens):
    with pytest.raises(ValueError, match="10 decoded tokens"):
        is_interpretable(tokens)


@given(st.permutations([" horse"] * 6 + ["lihood", "dog", "ory", "/**"]))
def test_the_order_of_the_ten_does_not_matter(tokens):
    assert is_interpretable(tokens)


def test_the_word_list_is_as_described():
    words = scowl_60()
    assert len(words) == 91_160
    assert all(len(word) >= 3 and word.isalpha() for word in words)


def test_the_word_list_agrees_with_hunspells_dictionary():
    """Where spylls is installed: all but a few of our words are in its SCOWL-60 en_US."""
    hunspell = pytest.importorskip("spylls.hunspell", reason="spylls is not installed")
    spylls = pytest.importorskip("spylls")
    american = hunspell.Dictionary.from_files(
        os.path.join(os.path.dirname(spylls.__file__), "hunspell", "data", "en", "en_US")
    )
    sample = sorted(scowl_60())[::50]
    absent = [word for word in sample if not american.lookup(word)]
    # What is absent is British: it ends or is spelt otherwise in American English.
    assert len(absent) <= 0.04 * len(sample)


def test_the_word_list_is_made_from_the_right_lists(tmp_path):
    lists = {
        "english-words.10": "horse\nox\nhorse's\n",
        "british-words.60": "colour\n",
        "english-words.70": "zeugmas\n",
        "variant_1-words.10": "colur\n",
        "english-contractions.10": "aren't\n",
        "english-proper-names.50": "Paris\n",
    }
    for name, content in lists.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    words = read_words(tmp_path)
    assert words == ["Paris", "colour", "horse"]
    write_words(words, tmp_path / "a.gz")
    write_words(words, tmp_path / "b.gz")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    with pytest.raises(ValueError, match="no SCOWL list"):
        read_words(tmp_path, size=5)


@pytest.mark.parametrize(
    ("noun", "name", "same"),
    [("Horses", "horse", True), ("buses", "bus", True), ("cherries", "cherry", True),
     ("knives", "knife", True), ("horse", "horse", True), ("cat", "cattle", False),
     ("horse", "horses", True)],
)  # fmt: skip
def test_a_word_is_its_own_plural(noun, name, same):
    assert same_word(noun, name) == same_word(name, noun) == same


def test_words_are_said_as_a_whole():
    assert says("A Horse, and a dog.", "horse")
    assert says("a fire truck", "fire truck")
    assert not says("two horses", "horse")
    assert not says("", "horse")


def test_any_word_of_a_caption_has_its_step_and_token():
    model = byte_level("a", " red", " barn", " redder", ".")
    pieces = ["a", " redder", " red", " barn", "."]
    ids = pieces_of(model, pieces)
    caption = Caption("".join(pieces), ids)
    assert word_in(caption, "Red ", model) == Noun("red", 2, ids[2])
    assert word_in(caption, "a red", model) is None
    assert word_in(caption, "barn", model) == Noun("barn", 3, ids[3])
    assert word_in(caption, "rn", model) is None
    assert word_in(caption, " ", model) is None
