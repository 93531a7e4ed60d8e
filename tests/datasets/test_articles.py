"""The indefinite article follows the first sound of a noun, not its letter."""

import pytest

from mmn_utils.datasets.articles import article

SOUNDS = {
    "a": "horse unicycle ukulele euphonium ewer one-legged tench Joshua",
    "an": "apple owl umbrella hourglass elephant okapi English",
}


@pytest.mark.parametrize(
    ("noun", "wanted"), [(noun, key) for key, nouns in SOUNDS.items() for noun in nouns.split()]
)
def test_articles_follow_the_first_sound(noun, wanted):
    assert article(noun) == wanted
