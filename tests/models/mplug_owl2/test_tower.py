"""The vision tower against transformers' CLIP, and its attention written out."""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from tests.models.mplug_owl2.tiny import network


@torch.no_grad()
def test_vision_attention_is_interleaved_per_head():
    attention = network().model.vision_model.encoder["layers"][0].self_attn
    tokens = torch.randn(2, 5, 24)
    weight, bias = attention.query_key_value.weight, attention.query_key_value.bias
    heads = []
    for head in range(3):  # rows of a head: 8 of the query, 8 of the key, 8 of the value
        query, key, value = (
            tokens @ weight[first : first + 8].T + bias[first : first + 8]
            for first in (24 * head, 24 * head + 8, 24 * head + 16)
        )
        shares = (query @ key.transpose(1, 2) / math.sqrt(8)).softmax(-1)
        heads.append(shares @ value)
    expected = torch.cat(heads, dim=-1) @ attention.dense.weight.T + attention.dense.bias
    torch.testing.assert_close(attention(tokens), expected, atol=1e-5, rtol=1e-5)


def clip_vision(tower: nn.Module) -> CLIPVisionModel:
    """Build transformers' CLIP with the tower's weights, query, key and value taken apart."""
    clip = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=3,
            image_size=28,
            patch_size=7,
            hidden_act="quick_gelu",
            layer_norm_eps=1e-6,
        )
    )
    renamed = {
        "embeddings.patch_embed.": "embeddings.patch_embedding.",
        "embeddings.pre_layernorm.": "pre_layrnorm.",
        "input_layernorm": "layer_norm1",
        "post_attention_layernorm": "layer_norm2",
        "self_attn.dense": "self_attn.out_proj",
    }
    state = {}
    for name, tensor in tower.state_dict().items():
        for ours, theirs in renamed.items():
            name = name.replace(ours, theirs)
        if name == "embeddings.cls_token":
            state["embeddings.class_embedding"] = tensor[0, 0]
        elif name == "embeddings.position_embedding":
            state["embeddings.position_embedding.weight"] = tensor[0]
        elif "query_key_value" in name:
            for part, rows in zip("qkv", tensor.view(3, 3, 8, -1).transpose(0, 1), strict=True):
                theirs = name.replace("query_key_value", f"{part}_proj")
                state[theirs] = rows.reshape(24, *tensor.shape[1:])
        else:
            state[name] = tensor
    clip.load_state_dict(state)
    return clip.eval()


@torch.no_grad()
def test_the_vision_tower_is_clip_with_its_last_norm_on_all_tokens():
    tower = network().model.vision_model
    pixels = torch.randn(2, 3, 28, 28)
    last = clip_vision(tower)(pixels).last_hidden_state
    expected = nn.functional.layer_norm(
        last, (24,), tower.post_layernorm.weight, tower.post_layernorm.bias, 1e-6
    )
    assert expected.shape == (2, 17, 24)
    torch.testing.assert_close(tower(pixels), expected, atol=1e-5, rtol=1e-5)
