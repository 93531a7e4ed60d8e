"""Weights of eight bits and other attention, against the same done by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mmn_utils.models import load_model
from mmn_utils.models.computing import attend, round_to_int8
from tests.tiny import tiny_images, tiny_limber
from tests.tiny_gated import TinyGated


@pytest.mark.parametrize("make", [tiny_limber, TinyGated], ids=["plain", "gated"])
def test_each_row_lies_on_a_grid_of_255_steps(make):
    whole, system = make(), make()
    before, changed = system.revision, round_to_int8(system)
    spared = system.language_model.get_output_embeddings()
    old, moved = dict(whole.language_model.named_modules()), 0
    for name, module in system.language_model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        weight = old[name].weight.numpy()
        if module is spared:
            np.testing.assert_array_equal(module.weight.numpy(), weight)
            continue
        scale = np.abs(weight).max(1, keepdims=True) / 127
        expected = np.rint(weight / scale) * scale
        np.testing.assert_allclose(module.weight.numpy(), expected, atol=1e-6, rtol=1e-5)
        moved += int((module.weight.numpy() != weight).sum())
    assert changed == moved > 0
    assert system.revision != before
    with pytest.raises(ValueError, match=r"quantised \(int8\) and cannot be edited"):
        system.require_editable()


def test_a_row_of_zeros_stays_zeros():
    system = tiny_limber()
    weight = system.act_module(0).weight
    weight[3] = 0
    round_to_int8(system)
    assert (system.act_module(0).weight[3] == 0).all()
    assert torch.isfinite(system.act_module(0).weight).all()


def test_another_attention_gives_nearly_the_same_and_another_revision():
    system = TinyGated()
    (picture,) = tiny_images(1)
    with torch.no_grad():
        before, _ = system.forward(system.prompt([picture]))
        usual, revision = system.language_model.config._attn_implementation, system.revision
        attend(system, usual)
        assert system.revision == revision  # nothing to change
        other = "eager" if usual == "sdpa" else "sdpa"
        attend(system, other)
        after, _ = system.forward(system.prompt([picture]))
    assert system.language_model.config._attn_implementation == other
    assert system.revision == f"{revision}+{other}"
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)


def test_attention_that_a_class_does_not_have_is_refused():
    with pytest.raises(ValueError, match="attention = 'flash': give eager or sdpa"):
        attend(TinyGated(), "flash")
    with pytest.raises(ValueError, match="GPTJForCausalLM has eager alone; leave it out"):
        attend(tiny_limber(), "sdpa")


@pytest.mark.weights
def test_a_shipped_system_is_loaded_in_int8_and_from_a_file_that_says_how_it_attends(tmp_path):
    whole, small = load_model("miniature"), load_model("miniature", dtype="int8")
    assert small.dtype == torch.float32
    assert small.int8
    assert small.revision == f"{whole.revision}+int8"
    assert len(small.act_module(2).weight[5].unique()) <= 255 < whole.sizes.units
    path = tmp_path / "eager.yaml"
    path.write_text("model: miniature/llava\nattention: eager\n")
    assert load_model(str(path)).language_model.config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="give float32, bfloat16, float16 or int8"):
        load_model("miniature", dtype="int4")
