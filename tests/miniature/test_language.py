"""Training of the language model: the fused forward, the curve, a training that is resumed."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial

import pytest
import torch
from transformers import AutoTokenizer, GPTJForCausalLM

from mmn_utils.miniature import language
from mmn_utils.miniature.corpus import CorpusOptions
from mmn_utils.miniature.language import LanguageOptions, train_language_model
from mmn_utils.miniature.world import load_world
from mmn_utils.presets import data_path
from mmn_utils.training.loop import Progress, Schedule
from tests.tiny import tiny_language_model, tiny_tokenizer

TINY = LanguageOptions(
    layers=2, width=32, heads=2, rotary=8, positions=64, row=24, batch=2, steps=6,
    corpus=CorpusOptions(longest=12),
)  # fmt: skip


# --- the fused forward --------------------------------------------------------------------


@pytest.fixture
def model():
    return tiny_language_model(layers=3).requires_grad_(False)


def test_fused_forward_equals_transformers_own(model):
    ids = torch.randint(0, 400, (3, 40), generator=torch.manual_seed(0))
    ours = language.logits_of(model, language.fused_hidden(model, model.transformer.wte(ids)))
    torch.testing.assert_close(ours, model(input_ids=ids).logits, atol=2e-4, rtol=1e-4)


def test_fused_gradient_equals_transformers_own(model):
    embeds = torch.randn(2, 12, 32, generator=torch.manual_seed(1))
    gradients = []
    for forward in (
        lambda e: language.logits_of(model, language.fused_hidden(model, e)),
        lambda e: model(inputs_embeds=e).logits,
    ):
        leaf = embeds.clone().requires_grad_()
        gradients += torch.autograd.grad(forward(leaf)[:, -1].logsumexp(-1).sum(), leaf)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)


def test_a_dropped_mlp_writes_nothing_in_its_row_alone(model):
    embeds = torch.randn(2, 7, 32, generator=torch.manual_seed(2))
    keep = torch.ones(3, 2)
    keep[1, 0] = 0
    mixed = language.fused_hidden(model, embeds, keep)
    whole = language.fused_hidden(model, embeds)
    torch.testing.assert_close(mixed[1], whole[1])
    hook = model.transformer.h[1].mlp.register_forward_hook(lambda _m, _i, out: out * 0)
    without = model(inputs_embeds=embeds[:1]).logits
    hook.remove()
    torch.testing.assert_close(language.logits_of(model, mixed[:1]), without, atol=2e-4, rtol=1e-4)


def test_later_tokens_do_not_reach_earlier_ones(model):
    embeds = torch.randn(1, 9, 32, generator=torch.manual_seed(3))
    other = embeds.clone()
    other[:, 6:] += 1
    first, second = (language.fused_hidden(model, e)[:, :6] for e in (embeds, other))
    torch.testing.assert_close(first, second)


# --- a picture of which some tokens are shown ---------------------------------------------


def test_a_picture_shown_whole_is_as_any_embeddings(model):
    embeds = torch.randn(2, 9, 32, generator=torch.manual_seed(4))
    whole = language.Thinned(torch.arange(5), 5)
    for count in (None, 3):
        thinned = language.fused_hidden(model, embeds, count=count, thinned=whole)
        torch.testing.assert_close(thinned, language.fused_hidden(model, embeds, count=count))


def test_tokens_that_are_left_out_leave_the_others_where_they_are(model):
    embeds, kept = torch.randn(2, 9, 32, generator=torch.manual_seed(5)), torch.tensor([0, 2, 5])
    thinned = language.Thinned(kept, 6)
    assert thinned.positions(9).tolist() == [0, 2, 5, 6, 7, 8, 9, 10, 11]
    with pytest.MonkeyPatch.context() as patch:  # attended to as they are, not as two each
        patch.setattr(language.Thinned, "log_counts", lambda self, tokens: torch.zeros(tokens))
        ours = language.last_logits(model, embeds, 9, thinned)
    theirs = model(inputs_embeds=embeds, position_ids=thinned.positions(9)[None].expand(2, -1))
    torch.testing.assert_close(ours, theirs.logits, atol=2e-4, rtol=1e-4)


def test_a_token_that_stands_for_others_is_attended_to_as_they_would_be():
    q, k, v = torch.randn(3, 2, 4, 7, 8, generator=torch.manual_seed(6))
    counts = torch.tensor([3, 3, 3, 1, 1, 1, 1])
    ours = language.causal_attention(q[:, :, -1:], k, v, counts.log())
    theirs = language.causal_attention(
        q[:, :, -1:], *(x.repeat_interleave(counts, dim=2) for x in (k, v))
    )
    torch.testing.assert_close(ours, theirs)
    every = language.causal_attention(q, k, v, counts.log())
    torch.testing.assert_close(every[:, :, -1:], ours)
    torch.testing.assert_close(every[:, :, 0], v[:, :, 0])  # the first sees itself alone


def test_a_thinned_picture_counts_as_the_whole_one():
    counts = language.Thinned(torch.tensor([0, 2, 5]), 12).log_counts(5).exp()
    torch.testing.assert_close(counts, torch.tensor([4.0, 4, 4, 1, 1]))


# --- draws --------------------------------------------------------------------------------


def test_rows_are_a_function_of_seed_and_step_alone():
    world = load_world(data_path("miniature", "concepts.yaml"))
    rows = language.Rows(world, tiny_tokenizer(), TINY, seed=1)
    assert torch.equal(rows.batch(5), rows.batch(5))
    assert rows.batch(5).shape == (TINY.batch, TINY.row)
    assert not torch.equal(rows.batch(5), rows.batch(6))


def test_the_first_mlp_is_dropped_more_often_than_the_others():
    options = LanguageOptions(batch=4000)
    kept = language._keep(options, 0).mean(1)
    assert kept[0] == pytest.approx(1 - options.drop_first, abs=0.03)
    assert kept[1:].mean() == pytest.approx(1 - options.drop_other, abs=0.03)
    assert torch.equal(language._keep(options, 7), language._keep(options, 7))


def test_word_embeddings_start_as_wide_as_asked():
    model = language.build_model(LanguageOptions(width=64, layers=1, heads=2), tiny_tokenizer())
    assert float(model.transformer.wte.weight.detach().std()) == pytest.approx(1.0, abs=0.05)
    assert float(model.lm_head.weight.detach().std()) < 0.1


# --- training -----------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Give trainings the tiny tokenizer, a short warm-up and a checkpoint every second step."""
    monkeypatch.setattr(language, "build_tokenizer", lambda world, options: tiny_tokenizer())
    monkeypatch.setattr(language, "Schedule", partial(Schedule, warmup=2, save_every=2))


def train(folder):
    world = load_world(data_path("miniature", "concepts.yaml"))
    return train_language_model(TINY, folder / "model", folder / "work", world)


def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path, quick, monkeypatch
):
    whole = train(tmp_path / "whole").state_dict()
    batch = language.Rows.batch

    def killed(self, step):
        if step == 5:
            raise KeyboardInterrupt
        return batch(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(language.Rows, "batch", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "halves")
    saved = torch.load(tmp_path / "halves" / "work" / "language.pt", weights_only=True)
    assert saved["step"] == 4
    halves = train(tmp_path / "halves").state_dict()
    for name, value in whole.items():
        assert torch.equal(value, halves[name]), name


def test_what_is_saved_is_the_class_in_half_precision_with_how_it_was_made(tmp_path, quick):
    trained = train(tmp_path)
    folder = tmp_path / "model"
    stored = GPTJForCausalLM.from_pretrained(folder, dtype="auto")
    assert stored.dtype == torch.float16
    torch.testing.assert_close(stored.lm_head.weight.float(), trained.lm_head.weight)
    facts = json.loads((folder / "training.json").read_text())
    assert facts == json.loads(json.dumps(asdict(TINY)))
    text = "A picture of a horse on the grass."
    assert AutoTokenizer.from_pretrained(folder).encode(text) == tiny_tokenizer().encode(text)
    assert not list((tmp_path / "work").glob("*.tmp"))


def test_the_curve_has_a_row_for_what_was_reported(tmp_path):
    progress = Progress("toy", 10, tmp_path / "toy.csv", every=0.0)
    progress(5, 50, loss=1.5)
    progress(10, 100, loss=1.25)
    assert (tmp_path / "toy.csv").read_text() == "step,items,loss\n5,50,1.5\n10,100,1.25\n"
