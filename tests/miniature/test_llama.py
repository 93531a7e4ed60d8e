"""The chat systems' language model: tokenizer, text, the fused forward, a resumed training."""

from __future__ import annotations

from functools import partial
from itertools import islice, permutations

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from mmn_utils.miniature import captioning, chat, language, llama
from mmn_utils.miniature.chat import TEMPLATES, ChatRows
from mmn_utils.miniature.corpus import CorpusOptions
from mmn_utils.miniature.llama import BEGIN, LlamaOptions, chat_tokenizer
from mmn_utils.miniature.phrases import captions
from mmn_utils.presets import data_path
from mmn_utils.training.loop import Schedule
from tests.tiny import SENTENCES, tiny_tokenizer
from tests.tiny_gated import tiny_llama

TINY = LlamaOptions(
    layers=2,
    width=32,
    heads=2,
    rotary=16,
    units=48,
    positions=64,
    row=24,
    batch=2,
    steps=6,
    corpus=CorpusOptions(longest=12),
)


@pytest.fixture(scope="module")
def tokenizer():
    return chat_tokenizer(tiny_tokenizer())


@pytest.fixture
def model():
    return tiny_llama().requires_grad_(False)


# --- the tokenizer ------------------------------------------------------------------------


def test_each_word_of_the_prompts_is_one_token(tokenizer):
    words = " ".join(tokenizer.tokenize(TEMPLATES["mplug_owl2"].behind))
    assert words == "Describe Ġthe Ġimage Ġin Ġfew Ġwords . ĠASSISTANT : ĠAn Ġimage Ġof"
    assert tokenizer.tokenize("USER: ") == ["USER", ":", "Ġ"]
    for template in TEMPLATES.values():
        ids = tokenizer.encode(template.behind)
        assert tokenizer.decode(ids) == template.behind


def test_ids_stay_and_other_text_is_cut_as_before(tokenizer):
    base = tiny_tokenizer()
    assert base.get_vocab().items() <= tokenizer.get_vocab().items()
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
    for text in [*SENTENCES, "A zebra, unknown."]:
        assert tokenizer.encode(text) == base.encode(text)
    assert len(base) == len(tiny_tokenizer())  # the one that was given is left alone


def test_the_beginning_of_text_is_a_token_of_its_own(tokenizer):
    assert tokenizer.bos_token == BEGIN
    assert tokenizer.bos_token_id not in (tokenizer.eos_token_id, *tiny_tokenizer().get_vocab())
    assert tokenizer.encode("A horse") == tiny_tokenizer().encode("A horse")  # none in front


def test_the_tokenizer_survives_its_folder(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*SENTENCES, *(template.behind for template in TEMPLATES.values())]:
        assert again.encode(text) == tokenizer.encode(text)
    special = [(t.bos_token_id, t.eos_token_id, t.pad_token_id) for t in (tokenizer, again)]
    assert special[0] == special[1]
    assert special[0][1] == special[0][2] == tiny_tokenizer().eos_token_id


@pytest.mark.weights
def test_prompts_and_captions_are_short_in_the_shipped_tokenizer(world):
    tokenizer = chat_tokenizer(AutoTokenizer.from_pretrained(data_path("miniature/language_model")))
    lengths = {name: tuple(map(len, one.ids(tokenizer))) for name, one in TEMPLATES.items()}
    assert lengths == {"llava": (4, 13), "instructblip": (0, 11), "mplug_owl2": (4, 12)}
    for things in islice(permutations(world.concepts, 3), 0, None, 997):
        for text in captions(things, world.backgrounds[0].name):
            assert len(tokenizer.encode(f" {text}.")) + 1 <= captioning.CAPTION_LENGTH


# --- text ---------------------------------------------------------------------------------


def test_documents_have_the_prompts_of_the_systems(tokenizer, world):
    rows = ChatRows(world, tokenizer, TINY, seed=1)
    plain = language.Rows(world, tokenizer, TINY, seed=1)
    ways = {name: one.ids(tokenizer) for name, one in TEMPLATES.items()}
    bos, eos, seen = tokenizer.bos_token_id, tokenizer.eos_token_id, dict.fromkeys(ways, 0)
    for text, ids in islice(zip(plain.texts(3), rows.documents(3), strict=False), 120):
        assert ids[-1] == eos
        assert ids.count(bos) == 1
        context, prompted, caption = text.partition("\nA picture of")
        if not prompted:
            assert ids == [bos, *tokenizer.encode(text), eos]
            continue
        inner = [tokenizer.encode(part) for part in (context, caption)]
        fits = [
            name
            for name, (before, behind) in ways.items()
            if ids == [*before, *inner[0], *behind, *inner[1], eos]
        ]
        assert len(fits) == 1
        seen[fits[0]] += 1
    assert min(seen.values()) > 5


def test_rows_are_a_function_of_seed_and_step_alone(tokenizer, world):
    rows, again = (ChatRows(world, tokenizer, TINY, seed=1) for _ in range(2))
    expected = rows.batch(5)
    again.batch(4)
    assert torch.equal(again.batch(5), expected)
    assert expected.shape == (TINY.batch, TINY.row)
    assert not torch.equal(rows.batch(6), expected)
    assert not torch.equal(ChatRows(world, tokenizer, TINY, seed=2).batch(5), expected)


# --- the fused forward --------------------------------------------------------------------


def test_fused_forward_equals_transformers_own(model):
    ids = torch.randint(0, 400, (3, 40), generator=torch.manual_seed(0))
    expected = model(input_ids=ids).logits
    torch.testing.assert_close(
        llama.next_logits(model, ids), expected[:, :-1], atol=1e-4, rtol=1e-4
    )
    embeds = model.model.embed_tokens(ids)
    last = llama.last_logits(model, embeds, 4)
    torch.testing.assert_close(last, expected[:, -4:], atol=1e-4, rtol=1e-4)


def test_fused_gradient_equals_transformers_own(model):
    embeds = torch.randn(2, 12, 32, generator=torch.manual_seed(1))
    gradients = []
    for forward in (
        lambda e: llama.last_logits(model, e, 12),
        lambda e: model(inputs_embeds=e).logits,
    ):
        leaf = embeds.clone().requires_grad_()
        gradients += torch.autograd.grad(forward(leaf)[:, -1].logsumexp(-1).sum(), leaf)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)


def test_a_dropped_mlp_writes_nothing_in_its_row_alone(model):
    ids = torch.randint(0, 400, (2, 7), generator=torch.manual_seed(2))
    keep = torch.ones(3, 2)
    keep[1, 0] = 0
    mixed, whole = (llama.next_logits(model, ids, kept) for kept in (keep, None))
    torch.testing.assert_close(mixed[1], whole[1])
    hook = model.model.layers[1].mlp.register_forward_hook(lambda _m, _i, out: out * 0)
    without = model(input_ids=ids[:1]).logits[:, :-1]
    hook.remove()
    torch.testing.assert_close(mixed[:1], without, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(mixed[0], whole[0])


# --- training -----------------------------------------------------------------------------


def test_the_model_starts_as_asked(tokenizer):
    model = llama.build_llama(LlamaOptions(layers=1, width=64, heads=1), tokenizer)
    assert float(model.model.embed_tokens.weight.detach().std()) == pytest.approx(1.0, abs=0.05)
    assert float(model.lm_head.weight.detach().std()) < 0.1
    assert model.config.vocab_size == len(tokenizer)
    with pytest.raises(ValueError, match="rotary = 64: LLaMA turns the whole of each head, 16"):
        llama.build_llama(LlamaOptions(width=64, heads=4), tokenizer)


def train(folder, tokenizer, world):
    return llama.train_llama(TINY, tokenizer, folder / "model", folder / "work", world)


def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path, tokenizer, world, monkeypatch
):
    monkeypatch.setattr(language, "Schedule", partial(Schedule, warmup=2, save_every=2))
    whole = train(tmp_path / "whole", tokenizer, world).state_dict()
    documents = chat.ChatRows.documents

    def killed(self, step):
        if step == 5:
            raise KeyboardInterrupt
        return documents(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(chat.ChatRows, "documents", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "halves", tokenizer, world)
    saved = torch.load(tmp_path / "halves" / "work" / "llama.pt", weights_only=True)
    assert saved["step"] == 4
    halves = train(tmp_path / "halves", tokenizer, world).state_dict()
    for name, value in whole.items():
        assert torch.equal(value, halves[name]), name
    stored, words = llama.load_llama(tmp_path / "whole" / "model")
    assert LlamaForCausalLM.from_pretrained(tmp_path / "whole/model", dtype="auto").dtype == (
        torch.float16
    )
    assert torch.equal(stored.lm_head.weight, whole["lm_head.weight"])
    assert not any(p.requires_grad for p in stored.parameters())
    assert words.encode("A horse in few words") == tokenizer.encode("A horse in few words")


def test_summands_of_a_loss_add_up_to_it(tokenizer, world):
    model = llama.build_llama(TINY, tokenizer)
    rows = ChatRows(world, tokenizer, TINY, seed=1)
    whole, *parts = (
        [loss() for loss in language.text_losses(partial(llama.next_logits, model), rows, 0, part)]
        for part in (TINY.batch, 1, 3)
    )
    assert [len(part) for part in parts] == [TINY.batch, -(-TINY.batch // 3)]
    assert len(whole) == 1
    for part in parts:
        torch.testing.assert_close(sum(part), whole[0])


def test_bfloat16_changes_the_loss_little(tokenizer, world, monkeypatch):
    model = llama.build_llama(TINY, tokenizer)
    rows, losses = ChatRows(world, tokenizer, TINY, seed=1), []
    for enabled in (False, True):
        cast = partial(torch.autocast, "cpu", dtype=torch.bfloat16, enabled=enabled)
        monkeypatch.setattr(language, "fast_autocast", cast)
        found = language.text_losses(partial(llama.next_logits, model), rows, 0)
        losses.append(sum(loss() for loss in found).item())
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[1] != losses[0]
