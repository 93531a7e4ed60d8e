"""What does not add up is refused with its reason, in every type."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import GraniteConfig, Olmo2Config

from mmn_utils.models.auto.building import build_auto
from mmn_utils.models.auto.modules import Unsupported
from mmn_utils.models.auto.token_ids import TokenIds
from mmn_utils.models.doctor import doctor
from tests.models.auto.families import llava
from tests.models.auto.scaled import gemma4, of_llava
from tests.tiny import tiny_images

each_type = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"]
)


def layers(model) -> nn.ModuleList:
    return model.model.language_model.layers


def bends(model) -> None:
    """Let a layer add a hundredth of something that is no part of it."""

    class Bent(type(layers(model)[1])):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            return out + 0.01 * torch.tanh(out)

    layers(model)[1].__class__ = Bent


def replaces_the_norm(model) -> None:
    for layer in layers(model):
        layer.post_feedforward_layernorm = nn.Tanh()


def scales_the_columns(model) -> None:
    class Scaled(nn.Linear):
        def forward(self, x):
            return 1.5 * super().forward(x)

    layers(model)[0].mlp.down_proj.__class__ = Scaled


def masks_logits(model) -> None:
    def hidden(_module, _args, output):
        output.logits[..., :4] = -1e9
        return output

    model.register_forward_hook(hidden)


def widens(model) -> None:
    mlp = layers(model)[1].mlp
    mlp.gate_proj, mlp.up_proj = nn.Linear(32, 64, bias=False), nn.Linear(32, 64, bias=False)
    mlp.down_proj = nn.Linear(64, 32, bias=False)


def stacks_streams(model) -> None:
    for layer in layers(model):
        layer.forward = lambda stream, **_: stream
    layers(model)[0].register_forward_pre_hook(
        lambda _m, args, kwargs: ((args[0][None],), kwargs), with_kwargs=True, prepend=True
    )


def shifts_between(model) -> None:
    layers(model)[1].register_forward_pre_hook(
        lambda _m, args, kwargs: ((args[0] * 1.01,), kwargs), with_kwargs=True, prepend=True
    )


REFUSED = {
    bends: (llava, r"layers.1 .*adds more, or other, than its self_attn.o_proj and mlp.down_proj"),
    replaces_the_norm: (partial(of_llava, Olmo2Config), "layernorm, a Tanh, stands between"),
    scales_the_columns: (llava, "layers.0.mlp.down_proj, a Scaled, does not give its weight"),
    masks_logits: (llava, "changes its logits after lm_head in a way that is no factor"),
    widens: (llava, "layers.1 of Llava.* is not like .*all layers must be alike"),
    stacks_streams: (llava, r"layers.0 reads .*several streams at once"),
    shifts_between: (llava, r"changes the stream between .*layers.0 and .*layers.1"),
}


@each_type
@pytest.mark.parametrize("change", list(REFUSED), ids=lambda change: change.__name__)
def test_what_does_not_add_up_is_refused(change, dtype):
    build, message = REFUSED[change]
    model, processor, _ = build()
    change(model)
    with pytest.raises(Unsupported, match=message):
        build_auto("changed", model.to(dtype), processor)


def test_a_factor_that_no_number_of_the_model_names_is_found():
    model, processor, _ = of_llava(GraniteConfig, residual_multiplier=0.5)
    for layer in layers(model):
        layer.residual_multiplier = torch.tensor([0.123])
    found = build_auto("granite", model, processor).architecture.scales.layers[0]
    assert found.mlp == pytest.approx(0.123, rel=1e-5)


def test_errors_of_a_models_own_code_are_refusals_with_their_place():
    model, processor, _ = llava()
    layers(model)[0].mlp.forward = lambda _: {}["absent"]
    with pytest.raises(Unsupported, match=r"KeyError in <lambda> of test_sums\.py: 'absent'"):
        build_auto("broken", model, processor)


def test_unknown_facts_are_named():
    model, processor, _ = llava()
    with pytest.raises(ValueError, match="colour: no such fact; give some of template"):
        build_auto("llava", model, processor, colour="red")


class Rounding(nn.Linear):
    """A linear map that rounds what it reads to 8 bits, with the gradient of one that does not."""

    def forward(self, x):
        scale = 127 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
        return F.linear(x + ((x * scale).round() / scale - x).detach(), self.weight, self.bias)


def test_rounded_activations_are_no_failure_of_the_doctor():
    model, processor, _ = llava()
    for layer in layers(model):
        layer.mlp.down_proj.__class__ = Rounding
    report = doctor(build_auto("rounded", model, processor), tiny_images(2)).set_index("check")
    assert report.loc[["completeness", "finite differences"], "passed"].isna().all()
    assert "round what they read" in report.loc["completeness", "note"]
    assert report["passed"].dropna().all(), report.to_string()


@torch.no_grad()
def test_ids_are_found_by_their_embeddings_bit_for_bit():
    table = nn.Embedding(50, 8)
    ids = torch.tensor([[3, 49, 0]])
    embeds = table(ids)
    embeds[0, 1] *= 1.0001  # a piece of a picture
    assert TokenIds(table, padding=7)(embeds).tolist() == [[3, 7, 0]]
    table.weight[3] = table.weight[20]
    with pytest.raises(ValueError, match="token 3 has the embedding of another token"):
        TokenIds(table, padding=7)(table(ids))
    whole = nn.Embedding(50, 8).double()
    assert TokenIds(whole, padding=0)(whole(ids)).tolist() == ids.tolist()


def test_experts_beside_an_mlp_are_no_part_of_it():
    model, processor, facts = gemma4(
        enable_moe_block=True, num_experts=2, top_k_experts=1, moe_intermediate_size=8
    )
    with pytest.raises(Unsupported, match=r"layers.0 .*adds more, or other, than"):
        build_auto("gemma4", model, processor, **facts)
