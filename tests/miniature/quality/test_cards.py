"""Words and the concepts and backgrounds that they name."""

from __future__ import annotations

from pathlib import Path

from mmn_utils.datasets.base import Photograph
from mmn_utils.miniature.quality.cards import background_of, concept_of, on_card
from tests.miniature.quality.world import DOG, HORSE, WORLD


def test_words_name_their_concept_in_both_numbers():
    assert concept_of("horses", WORLD) is HORSE
    assert concept_of("Dog", WORLD) is DOG
    assert concept_of("barn", WORLD) is None


def test_only_whole_words_are_on_a_card():
    assert on_card([" x", " barn"], HORSE)
    assert on_card(["horses"], HORSE)
    assert not on_card([" barns", " hor", "dog", ""], HORSE)


def test_the_background_is_what_all_captions_name(scenes):
    assert background_of(scenes[0], WORLD) == "grass"
    assert background_of(Photograph("x", Path("x"), ("a horse", "on the grass")), WORLD) is None
