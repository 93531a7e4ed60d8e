"""The benchmark of ``smol`` works, tried on a tiny system of its kind: both ways agree."""

from __future__ import annotations

import pytest
import torch

from mmn_utils.models.architectures import LLAMA
from mmn_utils.models.limber import LimberFacts, build_limber
from mmn_utils.neurons.targets import Target
from tests.benchmarks import bench_smol
from tests.benchmarks.bench_smol import AIMS, Bench, measure
from tests.tiny import WIDTH, tiny_encoder, tiny_photographs, tiny_tokenizer
from tests.tiny_gated import tiny_llama


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    tokenizer = tiny_tokenizer()
    projection = torch.nn.Linear(WIDTH, 32)
    torch.nn.init.normal_(projection.weight, std=0.5, generator=torch.Generator().manual_seed(0))
    language = tiny_llama(vocabulary=len(tokenizer))
    facts = LimberFacts(name="tiny", architecture=LLAMA)
    model = build_limber(facts, tiny_encoder(), projection, language, tokenizer)
    return Bench(model, tiny_photographs(tmp_path_factory.mktemp("pictures"), 8), 6)


def said(_model, image, caption):
    """Take the tokens of a caption for its nouns: a random system says none."""
    words = ("horse", "boat", "dog", "cat", "bird", "house")
    return [
        Target(image, words[(token + int(image)) % len(words)], token, caption.ids[:step])
        for step, token in enumerate(caption.ids)
    ]


def test_both_ways_agree_on_a_tiny_system(bench, monkeypatch):
    monkeypatch.setattr(bench_smol, "caption_targets", said)
    monkeypatch.setattr(bench_smol.edits.findings, "caption_targets", said)
    ratios = measure(bench, 1)
    assert set(ratios) == set(AIMS)
    assert all(ratio > 0 for ratio in ratios.values())


@pytest.mark.parametrize("broken", ["scores", "caption", "probability"])
def test_ways_that_disagree_are_not_timed(bench, broken, monkeypatch):
    right = getattr(bench.plain, broken)
    wrong = {"scores": lambda *a: 2 * right(*a), "caption": lambda *a: (*right(*a), 1),
             "probability": lambda *a: right(*a) + 0.01}[broken]  # fmt: skip
    monkeypatch.setattr(bench.plain, broken, wrong)
    ask = {"scores": "attribution", "caption": "captions", "probability": "sweep"}[broken]
    with pytest.raises(AssertionError):
        measure(bench, 1, [ask])
