"""LLaVA in both formats: transformers' own answers, the authors' keys, folders, bad input."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers.processors import TemplateProcessing
from torch.nn import functional as F
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from mmn_utils.models import MissingParts, load_model
from mmn_utils.models import llava as module
from mmn_utils.models.base import ImageTokens, Sizes
from mmn_utils.models.doctor import doctor
from mmn_utils.models.hub import FACTS, own_vocabulary
from mmn_utils.models.llava import LlavaFacts, build_llava, load_llava, save_llava, wording
from mmn_utils.models.pixels import to_pixels, to_square
from mmn_utils.neurons.captions import generate
from tests.tiny import tiny_images, tiny_tokenizer
from tests.tiny_gated import tiny_llama

SIDE, PATCH, WIDTH, COUNT = 32, 8, 24, 16
ROWS = 400
BEFORE, PREFIX = "A man rides", " A picture of"


def words(placeholder=True):
    """The tiny tokenizer, which here puts the beginning of text in front by itself."""
    tokenizer = copy.deepcopy(tiny_tokenizer())
    start = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{start[0]} $A", special_tokens=[start]
    )
    if placeholder:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return tokenizer


def clip_config():
    return CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        initializer_range=0.2,
    )


def tiny_whole(seed=0, **facts):
    """A random LlavaForConditionalGeneration whose LLaMA is ``tiny_llama``."""
    torch.manual_seed(seed)
    llama = tiny_llama(seed, vocabulary=ROWS)
    config = LlavaConfig(
        vision_config=clip_config(),
        text_config=llama.config,
        image_token_index=words().convert_tokens_to_ids("<image>"),
        **facts,
    )
    whole = LlavaForConditionalGeneration(config)
    whole.model.language_model, whole.lm_head = llama.model, llama.lm_head
    with torch.no_grad():
        for name, parameter in whole.model.named_parameters():
            if not name.startswith("language_model"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return whole.eval()


def tiny_llava(seed=0, tokenizer=None, **facts):
    facts = LlavaFacts(**{"name": "tiny", "before": BEFORE, "prefix": PREFIX, **facts})
    return build_llava(facts, tiny_whole(seed), tokenizer or words())


def processor():
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    return LlavaProcessor(pictures, words(), PATCH, "default", num_additional_image_tokens=1)


@pytest.fixture(scope="module")
def tiny():
    return tiny_llava()


# --- the contract, against transformers --------------------------------------------------


def test_sizes_and_image_tokens(tiny):
    before = tiny.tokenizer.encode(BEFORE, add_special_tokens=False)
    assert tiny.image_tokens == ImageTokens(1 + len(before), COUNT, (4, 4), SIDE)
    assert tiny.sizes == Sizes(layers=3, units=48, width=32, vocabulary=ROWS)
    assert tiny.image_features(tiny_images(2)).shape == (2, COUNT, WIDTH)


def test_the_doctor_passes(tiny):
    report = doctor(tiny, tiny_images(3))
    assert report["passed"].all(), report.to_string()
    assert not report["passed"].isna().any()


@torch.no_grad()
def test_logits_are_those_of_transformers_from_picture_and_text():
    images = tiny_images(2)
    inputs = processor()(images=images, text=[f"{BEFORE}<image>{PREFIX}"] * 2, return_tensors="pt")
    reference = tiny_whole()
    expected = reference(**inputs).logits
    model = tiny_llava()
    logits, _ = model.forward(model.prompt(images), last_only=False)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    place = inputs["input_ids"][0].eq(reference.config.image_token_index).nonzero().flatten()
    tokens = model.image_tokens
    assert place.tolist() == list(range(tokens.start, tokens.start + tokens.count))


@torch.no_grad()
def test_greedy_captions_are_those_of_transformers():
    images = tiny_images(2)
    inputs = processor()(images=images, text=[f"{BEFORE}<image>{PREFIX}"] * 2, return_tensors="pt")
    ids = tiny_whole().generate(**inputs, max_new_tokens=8, do_sample=False)
    expected = ids[:, inputs["input_ids"].shape[1] :].tolist()
    model = tiny_llava()
    captions = generate(model, model.prompt(images), 8)
    end = model.tokenizer.eos_token_id
    cut = [tuple(row[: row.index(end)] if end in row else row) for row in expected]
    assert [caption.ids for caption in captions] == cut


@torch.no_grad()
def test_features_are_an_earlier_layers_without_cls(tiny):
    images = tiny_images(2)
    states = tiny.vision(tiny.preprocess(images), output_hidden_states=True).hidden_states
    features = tiny.image_features(images)
    torch.testing.assert_close(features, states[2][:, 1:])  # of 0 (embeddings) to 3
    assert not torch.allclose(features, states[3][:, 1:])
    later = build_llava(LlavaFacts(), tiny_whole(vision_feature_layer=-1), words())
    assert later.facts.vision_layer == -1


def test_the_prompt_is_text_picture_text(tiny):
    images = tiny_images(2)
    prompt, tokens = tiny.prompt(images), tiny.image_tokens
    start = [tiny.tokenizer.bos_token_id, *tiny.tokenizer.encode(BEFORE, add_special_tokens=False)]
    behind = tiny.tokenizer.encode(PREFIX, add_special_tokens=False)
    assert prompt.embeds.shape == (2, len(start) + COUNT + len(behind), 32)
    table = tiny.language_model.model.embed_tokens.weight
    assert torch.equal(prompt.embeds[1, : tokens.start], table[start])
    end = tokens.start + tokens.count
    assert torch.equal(prompt.embeds[1, tokens.start : end], tiny.soft_prompt(images)[1])
    assert torch.equal(prompt.embeds[0, end:], table[behind])
    assert tiny.prompt(images, "").embeds.shape[1] == end
    assert tiny.prompt(images, " a horse").embeds.shape[1] == end + 2


def test_both_ways_to_encode_agree_where_no_blank_is_added():
    apart, whole = tiny_llava(tokenizer=words(placeholder=False)), tiny_llava()
    images = tiny_images(1)
    assert torch.equal(apart.prompt(images).embeds, whole.prompt(images).embeds)
    assert tiny_llava(bos=False).image_tokens.start == whole.image_tokens.start - 1


def test_prompts_of_the_published_templates():
    before, behind = wording("llama_2")
    assert before.startswith("[INST] <<SYS>>\nYou are a helpful language and vision assistant.")
    assert before.endswith("natural language.\n<</SYS>>\n\n")
    assert behind == "\nDescribe the image in few words. [/INST]An image of"  # glued, as B has it
    assert wording("vicuna") == (
        "USER: ",
        "\nDescribe the image in few words. ASSISTANT: An image of",
    )
    assert wording("vicuna", "Where?", "") == ("USER: ", "\nWhere? ASSISTANT:")
    model = tiny_llava(before=before, prefix=behind)
    table = model.language_model.model.embed_tokens.weight
    prompt = model.prompt(tiny_images(1)).embeds[0]
    end = model.image_tokens.start + model.image_tokens.count
    behind_ids = model.tokenizer.encode(behind, add_special_tokens=False)
    assert torch.equal(prompt[end:], table[behind_ids])
    assert model.tokenizer.decode(behind_ids) == behind
    with pytest.raises(ValueError, match="template = 'llama': choose from llama_2, vicuna"):
        wording("llama")


# --- pixels ------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(2, 40), st.integers(0, 99))
def test_the_cut_out_square_is_that_of_clips_processor(width, height, side, seed):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(values)
    clip = CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    expected = clip([image], return_tensors="pt")["pixel_values"]
    facts = LlavaFacts()
    pixels = to_pixels([image], side, facts.mean, facts.std, fit="crop", resample="bicubic")
    torch.testing.assert_close(pixels, expected, atol=1e-5, rtol=0)


def test_what_lies_beyond_the_square_is_not_seen(tiny):
    image = Image.new("RGB", (3 * SIDE, SIDE), "black")
    for left in (0, 2 * SIDE):
        image.paste("white", (left, 0, left + SIDE // 2, SIDE))
    middle = tiny.preprocess([image])[..., 4:-4]
    black = tiny.preprocess([Image.new("RGB", (SIDE, SIDE), "black")])[..., 4:-4]
    torch.testing.assert_close(middle, black)
    mask = Image.new("L", (3 * SIDE, SIDE), 0)
    mask.paste(255, (SIDE, 0, 2 * SIDE, SIDE))
    assert np.asarray(to_square(mask, SIDE, "crop", "nearest")).min() == 255
    for bad in ({"fit": "pad"}, {"resample": "lanczos"}):
        with pytest.raises(ValueError, match="choose from"):
            to_square(mask, SIDE, **bad)


# --- folders -----------------------------------------------------------------------------


def test_a_saved_system_comes_back(tmp_path):
    model = tiny_llava(seed=3, vocabulary=390)
    save_llava(model, tmp_path, dtype=torch.float32)
    again = load_llava(tmp_path)
    images = tiny_images(2)
    assert again.dtype == torch.float32
    assert replace(again.facts, revision=None) == model.facts
    expected, _ = model.forward(model.prompt(images))
    torch.testing.assert_close(again.forward(again.prompt(images))[0], expected)
    assert load_model(tmp_path).revision == again.revision != tiny_llava().revision
    half = load_model(tmp_path, dtype="bfloat16")
    assert half.dtype == half.prompt(images).embeds.dtype == torch.bfloat16
    assert next(half.vision.parameters()).dtype == torch.float32
    rotary = half.language_model.model.rotary_emb.inv_freq
    torch.testing.assert_close(rotary, again.language_model.model.rotary_emb.inv_freq)
    assert rotary.dtype == torch.float32  # a rounded frequency turns far tokens wrongly
    other = load_model(tmp_path, template="llama_2", prefix="\nWhat?")
    assert (other.facts.before, other.prefix) == (wording("llama_2")[0], "\nWhat?")


def test_a_shared_language_model_is_stored_once(tmp_path):
    model = tiny_llava(seed=4)
    model.language_model.save_pretrained(tmp_path / "llama")
    save_llava(model, tmp_path / "llava", language_model="../llama", dtype=torch.float32)
    whole, shared = tmp_path / "whole", tmp_path / "llava"
    save_llava(model, whole, dtype=torch.float32)
    sizes = [(place / "model.safetensors").stat().st_size for place in (shared, whole)]
    assert sizes[0] < sizes[1] / 2
    images = tiny_images(2)
    again = load_llava(shared)
    expected, _ = model.forward(model.prompt(images))
    torch.testing.assert_close(again.forward(again.prompt(images))[0], expected)
    (tmp_path / "llama" / "model.safetensors").unlink()
    with pytest.raises(MissingParts, match=r"llama.model\.safetensors.*make miniature"):
        load_llava(shared)


def test_folders_that_are_not_whole_are_refused(tmp_path):
    model = tiny_llava()
    save_llava(model, tmp_path, language_model="../elsewhere")
    record = json.loads((tmp_path / FACTS).read_text())
    del record["language_model"]
    (tmp_path / FACTS).write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"lacks .* weights of LlavaForConditionalGeneration"):
        load_llava(tmp_path)
    for change, says in (
        ({"prefx": ""}, r"unknown \['prefx'\]"),
        ({"system": "instructblip"}, "of kind 'instructblip', not 'llava'"),
        ({"system": 3}, "names no 'system'"),
    ):
        (tmp_path / FACTS).write_text(json.dumps({**record, **change}))
        with pytest.raises(ValueError, match=says):
            load_llava(tmp_path)
    (tmp_path / FACTS).write_text(json.dumps({**record, "system": "owl"}))
    with pytest.raises(ValueError, match="holds a 'owl'; known are llava"):
        load_model(tmp_path)
    (tmp_path / FACTS).write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        load_model(tmp_path)


def test_transformers_own_folder_has_the_published_facts(tmp_path):
    tiny_whole(5).half().save_pretrained(tmp_path)
    words().save_pretrained(tmp_path)
    model = load_llava(tmp_path)
    assert model.dtype == torch.float16
    assert model.sizes.vocabulary == own_vocabulary(words(), model.language_model.lm_head)
    assert model.sizes.vocabulary == len(tiny_tokenizer()) < len(words())
    assert (model.facts.before, model.prefix) == wording("vicuna")
    assert load_llava(tmp_path, dtype=torch.float32).dtype == torch.float32
    with pytest.raises(ValueError, match="has its own CLIP"):
        load_llava(tmp_path, vision_tower=tmp_path)


# --- the authors' format -----------------------------------------------------------------


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
    facts = {key: getattr(llama.config, key) for key in module._LLAMA_FACTS if key != "rope_theta"}
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
    language_model, projector = module.read_original(config, state)
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
    model = module.Llava(LlavaFacts(vocabulary=rows), clip, projector, language_model, words())
    assert model.sizes == Sizes(layers, units, width, rows)
    tokens = model.image_tokens
    assert (tokens.count, tokens.grid, tokens.pixels) == (256, (16, 16), 224)
    for change in (("lm_head.weight", (rows, 7)), ("model.norm.weight", None)):
        name, shape = change
        broken = {key: value for key, value in state.items() if key != name}
        if shape is not None:
            broken[name] = torch.empty(shape, device="meta")
        with pytest.raises(ValueError, match=rf"(?s)fit its config\.json.*{name}"):
            module.read_original(config, broken)


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
        module.read_original(config, keys)


# --- bad input ---------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and an empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.usefixtures("offline")
def test_offline_every_missing_part_is_listed_with_its_source():
    with pytest.raises(MissingParts, match=r"hf download llava-hf/llava-1\.5-7b-hf"):
        load_model("llava")
    with pytest.raises(MissingParts) as error:
        load_model("llava", checkpoint=module.PAPER_CHECKPOINT, tokenizer="a/tokenizer")
    for phrase in (
        f"hf download {module.PAPER_CHECKPOINT}",
        "pass checkpoint=FOLDER",
        "hf download openai/clip-vit-large-patch14",
        "pass vision_tower=FOLDER",
        "hf download a/tokenizer",
    ):
        assert phrase in str(error.value), str(error.value)


def test_a_missing_shard_is_noticed(tmp_path):
    tiny_whole().save_pretrained(tmp_path, max_shard_size="60KB")
    words().save_pretrained(tmp_path)
    assert load_llava(tmp_path).sizes.layers == 3
    sorted(tmp_path.glob("*.safetensors"))[-1].unlink()
    with pytest.raises(MissingParts, match="not complete"):
        load_llava(tmp_path)


def test_a_miniature_that_is_absent_says_how_to_train_it(tmp_path, monkeypatch):
    monkeypatch.setattr("mmn_utils.models.data_path", lambda *parts: tmp_path.joinpath(*parts))
    with pytest.raises(MissingParts, match=r"miniature/llava lacks .*facts\.json.*make miniature"):
        load_model("miniature/llava")
    with pytest.raises(ValueError, match=r"'miniature/lava' is neither a name .*miniature/llava"):
        load_model("miniature/lava")


def test_a_miniature_is_loaded_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr("mmn_utils.models.data_path", lambda *parts: tmp_path.joinpath(*parts))
    folder = tmp_path / "miniature" / "llava"
    save_llava(tiny_llava(name="miniature/llava"), folder)
    assert load_model("miniature/llava").name == "miniature/llava"
    with pytest.raises(ValueError, match="its tokenizer and its CLIP are its own"):
        load_model("miniature/llava", tokenizer=folder)


def test_a_tokenizer_that_cannot_be_read_says_what_to_do(tmp_path, monkeypatch):
    tiny_whole().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"sentences")
    monkeypatch.setattr("mmn_utils.models.hub._importable", lambda _name: False)
    with pytest.raises(ValueError, match=r"as tokenizer.model only; install protobuf"):
        load_llava(tmp_path)


def test_systems_of_other_parts_are_refused(tiny):
    for facts, says in (
        ({"vision_feature_layer": [-2, -1]}, r"vision_feature_layer = \[-2, -1\]"),
        ({"vision_feature_select_strategy": "full"}, "without CLS"),
    ):
        with pytest.raises(ValueError, match=says):
            build_llava(LlavaFacts(), tiny_whole(**facts), words())
    whole = tiny_whole()
    whole.config.text_config.model_type = "mistral"
    with pytest.raises(ValueError, match="clip_vision_model and mistral"):
        build_llava(LlavaFacts(), whole, words())
    linear = torch.nn.Linear(24, 31)
    with pytest.raises(ValueError, match=r"from and to \(24, 31\) does not fit .* from 24 to 32"):
        module.Llava(LlavaFacts(), tiny.vision, linear, tiny.language_model, words())


def test_texts_that_do_not_fit_are_refused(tiny):
    with pytest.raises(ValueError, match="the picture's place is fixed"):
        tiny.prompt(tiny_images(1), "two <image> pictures")
    with pytest.raises(ValueError, match="give a list of pictures"):
        tiny.prompt(tiny_images(1)[0])
    tokenizer = words()
    tokenizer.bos_token = None
    with pytest.raises(ValueError, match="no token for the beginning of text"):
        tiny_llava(tokenizer=tokenizer)
