"""The authors' format: computed as its tensors say, its keys and shapes, what is not read."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModel

from mmn_utils.models.base import Sizes
from mmn_utils.models.doctor import doctor
from mmn_utils.models.llava import load_llava
from mmn_utils.models.llava.original import _LLAMA_FACTS, read_original
from mmn_utils.models.llava.system import Llava, LlavaFacts, wording
from mmn_utils.models.llava.whole import save_llava
from tests.models.llava.tiny import BEFORE, PREFIX, ROWS, WIDTH, clip_config
from tests.models.words import words
from tests.tiny import tiny_images, tiny_tokenizer
from tests.tiny_gated import tiny_llama


def original_parts(folder, seed=6, **config):
    """Lay out LLaMA, one linear projector and CLIP as the authors do; return the tensors."""
    llama = tiny_llama(seed, vocabulary=ROWS)
    state = {key: value.clone() for key, value in llama.state_dict().items()}
    torch.manual_seed(seed)
    state["model.mm_projector.weight"] = 0.3 * torch.randn(32, WIDTH)
    state["model.mm_projector.bias"] = 0.3 * torch.randn(32)
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    clip = CLIPVisionModel(clip_config()).eval()
    clip.save_pretrained(folder / "clip")
    home = folder / "llava"
    home.mkdir()
    words(placeholder=False).save_pretrained(home)
    names = sorted(state)
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = home / f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: state[name] for name in part}, file)
    facts = {key: getattr(llama.config, key) for key in _LLAMA_FACTS if key != "rope_theta"}
    facts |= {"rope_theta": 10000.0, "mm_vision_tower": str(folder / "clip"), "model_type": "llava"}
    facts |= {"mm_hidden_size": WIDTH, "mm_vision_select_layer": -2, **config}
    (home / "config.json").write_text(json.dumps(facts))
    return home, state, clip


@torch.no_grad()
def by_hand(state, clip, pixels, before, behind):
    """LLaVA's logits from the authors' tensors, written out: one row, every token."""
    patches = clip(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    soft = patches @ state["model.mm_projector.weight"].T + state["model.mm_projector.bias"]
    table = state["model.embed_tokens.weight"]
    stream = torch.cat([table[before], soft[0], table[behind]])
    length, heads, groups, size = len(stream), 4, 2, 8
    angles = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, size, 2) / size)
    cos, sin = (f(torch.cat([angles, angles], 1))[:, None] for f in (torch.cos, torch.sin))

    def norm(x, name):
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * state[name]

    def turn(x):
        return x * cos + torch.cat([-x[..., size // 2 :], x[..., : size // 2]], -1) * sin

    for layer in range(3):
        at = f"model.layers.{layer}."
        weights = {key.removeprefix(at): v for key, v in state.items() if key.startswith(at)}
        x = norm(stream, at + "input_layernorm.weight")
        q, k, v = (
            (x @ weights[f"self_attn.{part}_proj.weight"].T).view(length, -1, size)
            for part in "qkv"
        )
        q, k = turn(q), turn(k).repeat_interleave(heads // groups, 1)
        v = v.repeat_interleave(heads // groups, 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) / size**0.5
        hidden = torch.ones(length, length).triu(1).bool()
        weight = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        mixed = torch.einsum("hqk,khd->qhd", weight, v).flatten(1)
        stream = stream + mixed @ weights["self_attn.o_proj.weight"].T
        x = norm(stream, at + "post_attention_layernorm.weight")
        units = F.silu(x @ weights["mlp.gate_proj.weight"].T) * (
            x @ weights["mlp.up_proj.weight"].T
        )
        stream = stream + units @ weights["mlp.down_proj.weight"].T
    return norm(stream, "model.norm.weight") @ state["lm_head.weight"].T


def test_the_authors_format_computes_what_its_tensors_say(tmp_path):
    home, state, clip = original_parts(tmp_path)
    # Short texts: the paper's prompt is longer than the tiny LLaMA's 128 positions.
    model = load_llava(home, before=BEFORE, prefix=PREFIX, dtype=torch.float32)
    images, tokenizer = tiny_images(1), words(placeholder=False)
    before = [0, *tokenizer.encode(BEFORE, add_special_tokens=False)]
    behind = tokenizer.encode(PREFIX, add_special_tokens=False)
    expected = by_hand(state, clip, model.preprocess(images), before, behind)
    logits, _ = model.forward(model.prompt(images), last_only=False)
    cut = model.sizes.vocabulary
    assert cut == len(tiny_tokenizer())
    torch.testing.assert_close(logits[0], expected[:, :cut], atol=1e-4, rtol=1e-4)
    report = doctor(model, tiny_images(2), ["own forward", "completeness"])
    assert report["passed"].all(), report.to_string()


def test_the_authors_format_has_the_papers_prompt_and_its_own_revision(tmp_path):
    home, _, _ = original_parts(tmp_path)
    model = load_llava(home)
    assert (model.facts.before, model.prefix) == wording("llama_2")
    assert model.dtype == torch.float16
    assert load_llava(home, vision_tower=tmp_path / "clip").revision == model.revision
    with pytest.raises(ValueError, match="authors' format; copy its files"):
        save_llava(model, tmp_path / "copy")


def test_the_authors_format_says_where_a_turn_ends(tmp_path):
    home, _, _ = original_parts(tmp_path, eos_token_id=5)
    assert load_llava(home).end_tokens == {0, 5}
    (home / "generation_config.json").write_text('{"eos_token_id": [6, 7]}')
    assert load_llava(home).end_tokens == {0, 6, 7}


def test_keys_and_shapes_of_the_papers_checkpoint():
    width, units, layers, rows = 5120, 13824, 40, 32000
    shapes = {"model.embed_tokens.weight": (rows, width), "lm_head.weight": (rows, width)}
    shapes["model.norm.weight"] = (width,)
    shapes["model.mm_projector.weight"] = (width, 1024)
    shapes["model.mm_projector.bias"] = (width,)
    for layer in range(layers):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{part}_proj.weight": (width, width) for part in "qkvo"}
        shapes |= {f"{at}.mlp.{part}_proj.weight": (units, width) for part in ("gate", "up")}
        shapes[f"{at}.mlp.down_proj.weight"] = (width, units)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{at}.{norm}.weight"] = (width,)
    config = {
        "vocab_size": rows,
        "hidden_size": width,
        "intermediate_size": units,
        "num_hidden_layers": layers,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    }
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    language_model, projector = read_original(config, state)
    with torch.device("meta"):
        clip = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=1024,
                intermediate_size=4096,
                num_hidden_layers=24,
                num_attention_heads=16,
                image_size=224,
                patch_size=14,
            )
        )
    model = Llava(LlavaFacts(vocabulary=rows), clip, projector, language_model, words())
    assert model.sizes == Sizes(layers, units, width, rows)
    tokens = model.image_tokens
    assert (tokens.count, tokens.grid, tokens.pixels) == (256, (16, 16), 224)
    for change in (("lm_head.weight", (rows, 7)), ("model.norm.weight", None)):
        name, shape = change
        broken = {key: value for key, value in state.items() if key != name}
        if shape is not None:
            broken[name] = torch.empty(shape, device="meta")
        with pytest.raises(ValueError, match=rf"(?s)fit config\.json.*{name}"):
            read_original(config, broken)


@pytest.mark.parametrize(
    ("config", "keys", "says"),
    [
        ({"mm_use_im_start_end": True}, {}, "mm_use_im_start_end = True: .* only False"),
        ({"mm_projector_type": "mlp2x_gelu"}, {}, "mm_projector_type = 'mlp2x_gelu'"),
        ({"mm_vision_select_feature": "cls_patch"}, {}, "only 'patch' is read"),
        ({}, {"model.mm_projector.0.weight": torch.zeros(2, 2)}, "not one linear map's"),
        ({}, {}, r"projector holds \[\]"),
    ],
)
def test_what_the_authors_format_allows_but_is_not_read(config, keys, says):
    with pytest.raises(ValueError, match=says):
        read_original(config, keys)
