"""Sizes: the published names and shapes, and configurations that are read or refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace as changed

import pytest
import torch

from mmn_utils.models.base import ImageTokens, Sizes
from mmn_utils.models.mplug_owl2.config import MplugOwl2Config, VisionConfig
from mmn_utils.models.mplug_owl2.network import MplugOwl2ForCausalLM
from mmn_utils.models.mplug_owl2.system import MplugOwl2Facts, build_mplug_owl2
from tests.models.mplug_owl2.tiny import CONFIG, llama_tokenizer, network


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor of the published 7B model: name and shape."""
    shapes: dict[str, tuple[int, ...]] = {}

    def affine(name, outputs, inputs):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    def norm(name, width):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    shapes["model.embed_tokens.weight"] = shapes["lm_head.weight"] = (32000, 4096)
    shapes["model.norm.weight"] = (4096,)
    for layer in range(32):
        at = f"model.layers.{layer}"
        for branch in (0, 1):
            for part in ("input_layernorm", "post_attention_layernorm"):
                shapes[f"{at}.{part}.multiway.{branch}.weight"] = (4096,)
            for part in ("k_proj", "v_proj"):
                shapes[f"{at}.self_attn.{part}.multiway.{branch}.weight"] = (4096, 4096)
        for part in ("q_proj", "o_proj"):
            shapes[f"{at}.self_attn.{part}.weight"] = (4096, 4096)
        for part in ("gate_proj", "up_proj"):
            shapes[f"{at}.mlp.{part}.weight"] = (11008, 4096)
        shapes[f"{at}.mlp.down_proj.weight"] = (4096, 11008)
    at = "model.vision_model"
    shapes[f"{at}.embeddings.cls_token"] = (1, 1, 1024)
    shapes[f"{at}.embeddings.patch_embed.weight"] = (1024, 3, 14, 14)
    shapes[f"{at}.embeddings.position_embedding"] = (1, 1025, 1024)
    norm(f"{at}.embeddings.pre_layernorm", 1024)
    norm(f"{at}.post_layernorm", 1024)
    for layer in range(24):
        at = f"model.vision_model.encoder.layers.{layer}"
        norm(f"{at}.input_layernorm", 1024)
        norm(f"{at}.post_attention_layernorm", 1024)
        affine(f"{at}.self_attn.query_key_value", 3072, 1024)
        affine(f"{at}.self_attn.dense", 1024, 1024)
        affine(f"{at}.mlp.fc1", 4096, 1024)
        affine(f"{at}.mlp.fc2", 1024, 4096)
    at = "model.visual_abstractor"
    shapes[f"{at}.query_embeds"], shapes[f"{at}.vit_eos"] = (1, 64, 1024), (1, 1, 4096)
    affine(f"{at}.visual_fc", 4096, 1024)
    for layer in range(6):
        at = f"model.visual_abstractor.encoder.layers.{layer}.crossattention"
        for part in ("query", "key", "value"):
            affine(f"{at}.attention.{part}", 1024, 1024)
        affine(f"{at}.output.out_proj", 1024, 1024)
        for part in ("norm1", "normk", "output.norm2"):
            norm(f"{at}.{part}", 1024)
        affine(f"{at}.output.mlp.w1", 2816, 1024)
        affine(f"{at}.output.mlp.w2", 1024, 2816)
        affine(f"{at}.output.mlp.w3", 2816, 1024)
        norm(f"{at}.output.mlp.ffn_ln", 2816)
    return shapes


@pytest.fixture(scope="module")
def full_size():
    with torch.device("meta"):
        return MplugOwl2ForCausalLM(MplugOwl2Config())


def test_every_tensor_of_the_full_size_has_its_published_name_and_shape(full_size):
    found = {name: tuple(tensor.shape) for name, tensor in full_size.state_dict().items()}
    expected = published_shapes()
    assert len(expected) == 419 + 295 + 136  # language model, vision tower, abstractor
    assert found == expected
    # Known as a 7B model with 8.2 billion parameters, vision and second branches included.
    assert sum(p.numel() for p in full_size.parameters()) == 8_197_859_328
    decoder = sum(math.prod(shape) for name, shape in expected.items() if "vis" not in name)
    second = sum(math.prod(shape) for name, shape in expected.items() if ".multiway.1." in name)
    assert decoder - second == 6_738_415_616  # LLaMA-2 7B


def test_shapes_of_the_real_system(full_size):
    system = build_mplug_owl2(MplugOwl2Facts(), full_size, llama_tokenizer())
    assert system.sizes == Sizes(layers=32, units=11008, width=4096, vocabulary=32000)
    assert system.image_tokens == ImageTokens(start=5, count=65, grid=None, pixels=448)
    first = system.language_model.model.vision_model.encoder["layers"][0]
    assert first.input_layernorm.eps == 1e-6
    abstractor = system.language_model.model.visual_abstractor.encoder["layers"][0]
    assert abstractor["crossattention"].normk.eps == 1e-5
    assert abstractor["crossattention"].output.mlp.ffn_ln.eps == 1e-6


# --- configurations ---------------------------------------------------------------------


def hub_config(**more) -> dict:
    return {
        "architectures": ["MPLUGOwl2LlamaForCausalLM"],
        "model_type": "mplug_owl2",
        "hidden_act": "silu",
        "rms_norm_eps": 3e-5,
        "torch_dtype": "float16",
        "visual_config": {
            "visual_model": {"layer_norm_eps": 1e-6, "hidden_act": "quick_gelu"},
            "visual_abstractor": {"encoder_hidden_size": 1024, "grid_size": 32},
        },
        **more,
    }


def test_the_hubs_configuration_is_read():
    config = MplugOwl2Config.from_dict(hub_config(num_key_value_heads=8, rope_theta=5e5))
    expected = MplugOwl2Config(rms_norm_eps=3e-5, num_key_value_heads=8, rope_theta=5e5)
    assert config == expected
    assert MplugOwl2Config().num_key_value_heads == 32
    assert MplugOwl2Config.from_dict(hub_config(visual_config=None)).vision == VisionConfig()
    layers = {"visual_config": {"visual_model": {"num_hidden_layers": 3}}}
    assert MplugOwl2Config.from_dict(hub_config(**layers)).vision.num_hidden_layers == 3


def test_a_configuration_survives_its_file():
    assert MplugOwl2Config.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG


def test_the_norms_epsilon_is_the_configurations():
    ours = network(changed(CONFIG, rms_norm_eps=0.5))
    norms = [part for part in ours.modules() if hasattr(part, "variance_epsilon")]
    assert len(norms) == 4 * 3 + 1
    assert {norm.variance_epsilon for norm in norms} == {0.5}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"model_type": "mplug_owl2_1"}, "only 'mplug_owl2' is supported"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling=.*only None"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"visual_config": {"visual_model": {"hidden_act": "gelu"}}}, "only 'quick_gelu'"),
        ({"visual_config": {"visual_abstractor": {"grid_size": 16}}}, "grid_size=16.*only 32"),
        ({"visual_config": {"visual_abstractor": {"hidden_size": 512}}}, "hidden_size=512 must be"),
        ({"num_attention_heads": 5}, "num_attention_heads=5 does not divide hidden_size=4096"),
        ({"num_key_value_heads": 5}, "num_key_value_heads=5 does not divide num_attention_heads"),
    ],
)
def test_what_is_not_supported_is_refused(content, says):
    with pytest.raises(ValueError, match=says):
        MplugOwl2Config.from_dict(hub_config(**content))


def test_the_epsilon_must_be_given():
    content = hub_config()
    del content["rms_norm_eps"]
    with pytest.raises(ValueError, match="no rms_norm_eps; add that of the weights"):
        MplugOwl2Config.from_dict(content)
