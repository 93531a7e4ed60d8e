"""Norms behind the MLP: named, and folded into write vectors."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmn_utils.models.auto.building import build_auto
from mmn_utils.models.auto.modules import Unsupported
from mmn_utils.models.auto.norms import FoldedNorm, _rms
from mmn_utils.models.auto.sums import accepted
from mmn_utils.models.capture import capture
from tests.models.auto.families import gemma3, system, untouched
from tests.tiny import tiny_images


def test_a_norm_behind_the_mlp_is_named():
    model, processor, _ = gemma3()
    with pytest.raises(Unsupported, match="post_feedforward_layernorm of Gemma3ForConditional"):
        build_auto("gemma3", model, processor)


@torch.no_grad()
def test_folded_write_vectors_are_what_units_add_to_the_stream():
    model = system("gemma3")
    assert model.architecture.attention == "post_attention_layernorm"
    whole, added, hooks = untouched("gemma3"), {}, []
    for index, layer in enumerate(whole.model.language_model.layers):
        hook = partial(lambda index, _m, _in, out: added.update({index: out}), index)
        hooks.append(layer.post_feedforward_layernorm.register_forward_hook(hook))
    whole(**accepted(whole.forward, model.reader(tiny_images(1))))
    for hook in hooks:
        hook.remove()
    with capture(model) as seen:
        model.forward(model.prompt(tiny_images(1)))
    for index, out in added.items():
        mine = seen.values[index] @ model.write_vectors(index)
        torch.testing.assert_close(mine, out, atol=1e-5, rtol=1e-4)


class Norm(nn.Module):
    """An RMS norm with a gain, as Gemma and LLaMA have it."""

    def __init__(self, gain, eps):
        super().__init__()
        self.gain, self.eps = gain, eps

    def forward(self, x):
        return self.gain * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


@given(st.integers(0, 10_000), st.sampled_from([1e-6, 1e-5, 1e-2]), st.floats(1e-3, 100))
@settings(max_examples=25)
@torch.no_grad()
def test_folding_is_the_norm_of_the_matrix(seed, eps, size):
    torch.manual_seed(seed)
    matrix, norm = nn.Linear(12, 8, bias=False), Norm(torch.randn(8), eps)
    activation = size * torch.randn(2, 3, 12)
    gain, found = _rms(norm, matrix, "here")
    assert found == eps
    folded = FoldedNorm(matrix, gain, found)
    torch.testing.assert_close(folded(activation), norm(matrix(activation)), atol=1e-5, rtol=1e-4)


def test_what_cannot_be_folded_is_said():
    with pytest.raises(Unsupported, match="here is a LayerNorm, no RMS norm"):
        _rms(nn.LayerNorm(8), nn.Linear(12, 8, bias=False), "here")
    model, processor, _ = gemma3()
    mlp = model.model.language_model.layers[1].mlp
    mlp.down_proj = nn.Linear(48, 32, bias=True)
    with pytest.raises(Unsupported, match=r"layers.1.mlp.down_proj has a bias"):
        build_auto("gemma3", model, processor, fold_norms=True)
