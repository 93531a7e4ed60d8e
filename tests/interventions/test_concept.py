"""The words of an edit."""

from __future__ import annotations

import pytest

from mmn_utils.interventions.concept import word_tokens
from tests.tiny_gated import TinyGated


def test_words_have_the_tokens_of_a_caption():
    model = TinyGated()
    encode = model.tokenizer.encode
    assert word_tokens(model, "horse") == tuple(encode(" horse"))
    assert word_tokens(model, " horse") == tuple(encode(" horse"))
    assert len(word_tokens(model, "zebra")) > 1
    with pytest.raises(ValueError, match=r"cannot write .* take another word"):
        word_tokens(model, " ")
