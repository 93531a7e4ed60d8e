"""The doctor passes what is sound, on several architectures, and finds what is broken."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import replace as changed

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from mmn_utils.models import doctor as clinic
from mmn_utils.models.architectures import Architecture
from mmn_utils.models.base import ImageTokens, VisionLanguageModel
from mmn_utils.models.doctor import CHECKS, doctor
from tests.tiny import tiny_images, tiny_limber, tiny_tokenizer

LLAMA = Architecture(
    layers="model.layers",
    pre="mlp.gate_proj",
    act="mlp.down_proj",
    attention="self_attn.o_proj",
    norm="model.norm",
    unembed="lm_head",
)


class TinyLlama(VisionLanguageModel):
    """A system with a gated MLP, RMS norms and grouped queries, to show that the contract holds.

    Its image tokens are queries without a place; a template stands before the picture.
    """

    def __init__(self, seed=0):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=len(tiny_tokenizer()),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            initializer_range=0.2,
        )
        language_model = LlamaForCausalLM(config)
        tokens = ImageTokens(start=3, count=5, grid=None, pixels=8)
        super().__init__("llama", language_model, tiny_tokenizer(), LLAMA, tokens, prefix=" of")
        self.queries = nn.Linear(3, 32 * 5).requires_grad_(False)

    def preprocess(self, images):
        means = [image.convert("RGB").resize((1, 1)).getpixel((0, 0)) for image in images]
        return torch.tensor(means)[:, :, None, None] / 255.0

    def image_features(self, images):
        return self.preprocess(images).flatten(1)

    def soft_prompt(self, images):
        return self.queries(self.image_features(images)).view(-1, 5, 32).to(self.dtype)

    def prompt(self, images, text=None):
        rest = super().prompt(images, text).embeds
        before = self.embed(torch.tensor([[1, 2, 3]])).expand(len(rest), -1, -1)
        return clinic.Prompt.of(torch.cat([before, rest], dim=1))


def failed(report):
    return set(report.loc[~report["passed"], "check"])


@pytest.mark.parametrize(
    "build",
    [tiny_limber, lambda: tiny_limber(encoder="transformers"), TinyLlama],
    ids=["timm", "transformers", "llama"],
)
def test_sound_systems_pass(build):
    model = build()
    report = doctor(model, tiny_images(3))
    assert report["check"].tolist() == list(CHECKS)
    assert report["passed"].all(), report.to_string()
    assert not report["passed"].isna().any()
    assert (report["worst"] <= report["tolerance"]).all()
    assert model.dtype == torch.float32  # the precise copy is not the patient


def test_half_precision_passes_by_its_precise_copy():
    report = doctor(tiny_limber().twin(torch.bfloat16), tiny_images(2))
    assert report["passed"].all(), report.to_string()


def test_a_large_model_in_half_precision_has_no_slopes(monkeypatch):
    monkeypatch.setattr(clinic, "CHEAP", 0)
    report = doctor(tiny_limber().twin(torch.bfloat16), tiny_images(2)).set_index("check")
    assert report.loc["finite differences", "passed"] is pd.NA
    assert "too coarse" in report.loc["finite differences", "note"]
    assert report["passed"].all(), report.to_string()
    report = doctor(tiny_limber(), tiny_images(2))
    assert report["passed"].all(), report.to_string()


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10_000))
def test_identities_hold_for_any_weights_and_pictures(seed):
    model = tiny_limber(seed=seed)
    report = doctor(model, tiny_images(2, seed=seed))
    assert report["passed"].all(), report.to_string()


def test_one_picture_is_not_enough():
    with pytest.raises(ValueError, match="1 pictures: the doctor needs two"):
        doctor(tiny_limber(), tiny_images(1))


def test_an_unknown_check_is_refused():
    with pytest.raises(ValueError, match="choose from own forward"):
        doctor(tiny_limber(), tiny_images(2), ["pulse"])


# --- broken systems ----------------------------------------------------------------------


def with_architecture(**parts):
    def build():
        model = tiny_limber()
        model.architecture = changed(model.architecture, **parts)
        return model

    return build


def with_method(name, method):
    def build():
        model = tiny_limber()
        model.__class__ = type("Broken", (type(model),), {name: method})
        return model

    return build


def transposed(self, layer):
    return self.act_module(layer).weight.T.flip(0)


def another_copy(self, layer):
    """A module that the forward pass never calls: its hooks do nothing."""
    return nn.Linear(self.sizes.units, self.sizes.width)


def shifted(self, layer):
    return self.layer((layer + 1) % self.sizes.layers).mlp.fc_in


def without_positions(self, prompt, past=None, use_cache=False, last_only=True):
    prompt = clinic.Prompt(prompt.embeds, prompt.mask, torch.zeros_like(prompt.positions))
    return super(type(self), self).forward(prompt, past, use_cache, last_only)


def without_mask(self, prompt, past=None, use_cache=False, last_only=True):
    prompt = clinic.Prompt(prompt.embeds, torch.ones_like(prompt.mask), prompt.positions)
    return super(type(self), self).forward(prompt, past, use_cache, last_only)


def mixed_soft_prompt(self, images):
    soft = super(type(self), self).soft_prompt(images)
    return soft + soft.mean(0)


def without_bias(self):
    return self.language_model.lm_head.weight[: self.sizes.vocabulary], None


BROKEN = {
    "act is another module": (with_architecture(act="mlp.fc_in"), "completeness"),
    "act of another layer's copy": (with_method("act_module", another_copy), "completeness"),
    "write vectors in wrong order": (with_method("write_vectors", transposed), "completeness"),
    "pre is another module": (with_architecture(pre="attn.q_proj"), "ablate nothing"),
    "pre is after the activation": (with_architecture(pre="mlp.fc_out"), "ablate nothing"),
    "pre of another layer": (with_method("pre_module", shifted), "ablate nothing"),
    "no attention": (with_architecture(attention="mlp.fc_out"), "completeness"),
    "wrong norm": (with_architecture(norm="transformer.h.0.ln_1"), "completeness"),
    "bias forgotten": (with_method("unembedding", property(without_bias)), "completeness"),
    "positions forgotten": (with_method("forward", without_positions), "own forward"),
    "mask forgotten": (with_method("forward", without_mask), "batch = single"),
    "rows see each other": (with_method("soft_prompt", mixed_soft_prompt), "batch = single"),
    "module absent": (with_architecture(act="mlp.down_proj"), "ablate nothing"),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_broken_adapters_are_found(name):
    build, check = BROKEN[name]
    report = doctor(build(), tiny_images(2), [check])
    assert check in failed(report), report.to_string()


@contextmanager
def hooks_that_stay(model, *_args, **_options):
    model.act_module(0).register_forward_hook(lambda _m, _in, _out: None)
    yield


def test_hooks_that_do_nothing_are_found(monkeypatch):
    monkeypatch.setattr(clinic, "replace", lambda *_args: nullcontext())
    checks = ["ablate nothing", "finite differences"]
    assert failed(doctor(tiny_limber(), tiny_images(2), checks)) == set(checks)


def test_hooks_that_stay_are_found(monkeypatch):
    monkeypatch.setattr(clinic, "replace", hooks_that_stay)
    report = doctor(tiny_limber(), tiny_images(2), ["no trace"]).set_index("check")
    assert not report.loc["no trace", "passed"]
    assert report.loc["no trace", "note"].startswith("1 hooks")


def test_a_replacement_that_rounds_is_found(monkeypatch):
    real = clinic.replace

    def rounding(model, functions, what="activation"):
        rounded = {
            layer: lambda value, function=function: function(value).bfloat16().float()
            for layer, function in functions.items()
        }
        return real(model, rounded, what)

    monkeypatch.setattr(clinic, "replace", rounding)
    assert failed(doctor(tiny_limber(), tiny_images(2), ["ablate nothing"]))


def test_wrong_gradients_are_found(monkeypatch):
    real = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda *args: [1.01 * gradient for gradient in real(*args)]
    )
    assert failed(doctor(tiny_limber(), tiny_images(2))) == {"finite differences"}


def test_training_mode_and_unfrozen_weights_are_found():
    model = tiny_limber()
    model.language_model.train()
    model.language_model.lm_head.weight.requires_grad_(True)
    report = doctor(model, tiny_images(2), ["no trace"]).set_index("check")
    assert "1 weights unfrozen" in report.loc["no trace", "note"]
    assert not report.loc["no trace", "passed"]


def test_an_error_in_a_check_is_a_finding_with_its_reason():
    broken = with_architecture(act="mlp.down_proj")()
    report = doctor(broken, tiny_images(2), ["ablate nothing"]).set_index("check")
    assert "AttributeError" in report.loc["ablate nothing", "note"]
    assert report.loc["ablate nothing", "worst"] == float("inf")
