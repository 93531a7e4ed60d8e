"""The benchmark of ``smol`` works, tried on a tiny system of its kind: both ways agree."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmn_utils.models.architectures import LLAMA
from mmn_utils.models.base import Prompt
from mmn_utils.models.limber import LimberFacts, build_limber
from mmn_utils.neurons.targets import Target
from tests.benchmarks import bench_smol
from tests.benchmarks.bench_smol import AIMS, Bench, measure
from tests.benchmarks.ceiling import Found, shared
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
    found = measure(bench, 1)
    assert set(found) == set(AIMS)
    assert all(one.ratio > 0 for one in found.values())
    assert all(0 < one.prompts + one.tokens <= 1 for one in found.values())
    assert [name for name, one in found.items() if one.least] == ["captions", "sweep", "edits"]
    assert "allow" in str(found["captions"])
    assert "allow" not in str(found["attribution"])


def test_the_least_operations_are_those_that_torch_counts(bench):
    of, model = bench.operations, bench.model
    prompt = model.prompt(bench.images[:1])
    token = model.embed(torch.tensor([[3]]))

    def counted(work) -> int:
        with torch.no_grad(), FlopCounterMode(display=False) as found:
            work()
        sums = found.get_flop_counts()["Global"]
        return sum(many for name, many in sums.items() if "attention" not in str(name))

    spared = (bench.length - 1) * (of.layer - of.keys)  # whoever counts sees the last layer whole
    assert counted(lambda: model.forward(prompt)) == of.prompt(bench.length) + spared
    assert counted(lambda: model.forward(Prompt.of(token))) == of.token
    assert counted(lambda: model.prompt(bench.images[:1])) == of.picture
    layers = model.sizes.layers
    assert of.prompt(bench.length, layers - 1) == of.written + of.head
    assert of.prompt(bench.length) > of.prompt(bench.length, 0) > of.prompt(bench.length, 1)


def test_the_ceiling_is_the_plain_time_over_that_of_the_least_operations():
    found = Found(plain=12.0, same=9.0, ours=6.0, least=4e9, pace=1e9, prompts=0.5, tokens=0.25)
    assert found.ratio == 2.0
    assert found.ceiling == 3.0
    assert shared((1, 2, 3), (1, 2, 4)) == 2
    assert shared((), (1,)) == 0


@pytest.mark.parametrize("broken", ["scores", "caption", "probability"])
def test_ways_that_disagree_are_not_timed(bench, broken, monkeypatch):
    right = getattr(bench.plain, broken)
    wrong = {"scores": lambda *a: 2 * right(*a), "caption": lambda *a: (*right(*a), 1),
             "probability": lambda *a: right(*a) + 0.01}[broken]  # fmt: skip
    monkeypatch.setattr(bench.plain, broken, wrong)
    ask = {"scores": "attribution", "caption": "captions", "probability": "sweep"}[broken]
    with pytest.raises(AssertionError):
        measure(bench, 1, [ask])
