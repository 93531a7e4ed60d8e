"""LiMBeR and its miniature: the facts of the paper, loading, and what is missing said."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import BeitConfig, BeitModel, GPTJConfig, GPTJForCausalLM

from mmn_utils.models import MissingParts, build_limber, load_model
from mmn_utils.models import limber as module
from mmn_utils.models.base import ImageTokens, Prompt, Sizes, files_hash, state_hash
from mmn_utils.models.doctor import doctor
from mmn_utils.models.encoders import HubBeit
from mmn_utils.presets import data_path
from tests.tiny import (
    PADDING,
    PATCH,
    PIXELS,
    WIDTH,
    tiny_hub_beit,
    tiny_images,
    tiny_language_model,
    tiny_limber,
    tiny_timm_beit,
    tiny_tokenizer,
)


@pytest.fixture(scope="module")
def tiny():
    return tiny_limber()


# --- the contract -----------------------------------------------------------------------


def test_sizes_and_image_tokens(tiny):
    assert tiny.sizes == Sizes(layers=3, units=128, width=32, vocabulary=len(tiny.tokenizer))
    assert tiny.image_tokens == ImageTokens(start=0, count=16, grid=(4, 4), pixels=PIXELS)
    assert tiny.require_grid() == (4, 4)
    assert (tiny.device.type, tiny.dtype) == ("cpu", torch.float32)
    tiny.require_editable()


@torch.no_grad()
def test_prompt_is_projected_picture_then_prefix_and_nothing_before(tiny):
    images = tiny_images(2)
    prompt = tiny.prompt(images)
    ids = tiny.tokenizer.encode("A picture of", add_special_tokens=False)
    assert [tiny.tokenizer.decode([i]) for i in ids] == ["A", " picture", " of"]
    features = tiny.encoder.features(tiny.preprocess(images))
    soft = features @ tiny.projection.weight.T + tiny.projection.bias
    words = tiny.language_model.transformer.wte.weight[ids]
    torch.testing.assert_close(prompt.embeds[:, :16], soft)
    torch.testing.assert_close(prompt.embeds[1, 16:], words, atol=0, rtol=0)
    assert prompt.embeds.shape == (2, 19, 32)
    assert prompt.mask.eq(1).all()
    assert prompt.positions[1].tolist() == list(range(19))
    assert tiny.prompt(images, "").embeds.shape[1] == 16
    assert tiny.prompt(images, " a horse").embeds.shape[1] == 18


def test_everything_is_in_evaluation_mode_and_frozen_from_the_start():
    language_model = tiny_language_model(vocabulary=400).train()
    projection = nn.Linear(WIDTH, 32).train()
    encoder = HubBeit(tiny_hub_beit().train())
    model = build_limber(
        module.LimberFacts(), encoder, projection, language_model, tiny_tokenizer()
    )
    assert not any(m.training for part in model.modules() for m in part.modules())
    assert not any(p.requires_grad for part in model.modules() for p in part.parameters())


@torch.no_grad()
def test_logits_are_cut_to_the_vocabulary(tiny):
    prompt = tiny.prompt(tiny_images(2))
    own = tiny.language_model(inputs_embeds=prompt.embeds).logits
    last, past = tiny.forward(prompt)
    every, _ = tiny.forward(prompt, last_only=False)
    assert past is None
    assert own.shape[-1] == tiny.sizes.vocabulary + PADDING
    torch.testing.assert_close(every, own[..., : tiny.sizes.vocabulary])
    torch.testing.assert_close(last, own[:, -1, : tiny.sizes.vocabulary])
    weight, bias = tiny.unembedding
    assert weight.shape == (tiny.sizes.vocabulary, 32)
    assert bias.shape == (tiny.sizes.vocabulary,)


@torch.no_grad()
def test_the_head_sees_one_token_of_each_row(tiny):
    shapes = []
    head = tiny.language_model.lm_head
    handle = head.register_forward_hook(lambda _m, inputs, _out: shapes.append(inputs[0].shape))
    tiny.forward(tiny.prompt(tiny_images(2)))
    handle.remove()
    assert shapes == [(2, 1, 32)]


@torch.no_grad()
def test_cache_and_padding_change_nothing(tiny):
    prompt = tiny.prompt(tiny_images(2))
    ids = torch.tensor([[5, 9], [7, 11]])
    longer = prompt.extend(tiny.embed(ids))
    _, past = tiny.forward(prompt, use_cache=True)
    cached, past = tiny.forward(longer.tail(2), past=past, use_cache=True)
    torch.testing.assert_close(cached, tiny.forward(longer)[0], atol=1e-5, rtol=0)
    assert past.get_seq_length() == 21
    for mask in ([[0, 1], [1, 1]], [[1, 0], [1, 1]]):  # padded in front, or behind
        padded = prompt.extend(tiny.embed(ids), torch.tensor(mask))
        one = prompt.select([0]).extend(tiny.embed(ids[:1, torch.tensor(mask[0]) == 1]))
        found, _ = tiny.forward(padded)
        torch.testing.assert_close(found[:1], tiny.forward(one)[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(found[1:], cached[1:], atol=1e-5, rtol=0)


def test_write_vectors_are_a_view_of_the_second_matrix(tiny):
    write = tiny.write_vectors(1)
    weight = tiny.language_model.transformer.h[1].mlp.fc_out.weight
    assert write.shape == (128, 32)
    assert write.data_ptr() == weight.data_ptr()
    assert torch.equal(write[7], weight[:, 7])


def test_token_strings_keep_their_blanks(tiny):
    strings = tiny.token_strings
    assert len(strings) == tiny.sizes.vocabulary
    assert " horse" in strings
    assert strings[0] == "<|endoftext|>"
    assert all(len(text) > 0 for text in strings)
    horse = strings.index(" horse")
    assert tiny.tokenizer.encode(" horse") == [horse]


def test_a_vocabulary_beyond_the_tokenizer_has_empty_strings():
    model = tiny_limber(vocabulary=len(tiny_tokenizer()) + 2)
    assert model.token_strings[-3:] == [tiny_limber().token_strings[-1], "", ""]


def test_errors_of_the_contract(tiny):
    prompt = tiny.prompt(tiny_images(2))
    with pytest.raises(ValueError, match="layer 3: tiny has layers 0 to 2"):
        tiny.pre_module(3)
    with pytest.raises(ValueError, match="layer -1"):
        tiny.write_vectors(-1)
    with pytest.raises(ValueError, match="reaches position 99"):
        tiny.forward(prompt.extend(torch.zeros(2, 81, 32)))
    with pytest.raises(ValueError, match="the mask covers 19 tokens"):
        tiny.forward(prompt.tail(1))
    with pytest.raises(ValueError, match="a tail cannot be extended"):
        prompt.tail(1).extend(torch.zeros(2, 1, 32))
    with pytest.raises(ValueError, match="1 rows to append to 2"):
        prompt.extend(torch.zeros(1, 1, 32))
    with pytest.raises(ValueError, match=r"mask of \(2, 3\)"):
        prompt.extend(torch.zeros(2, 1, 32), torch.ones(2, 3))
    with pytest.raises(ValueError, match="give \\(batch, tokens, width\\)"):
        Prompt.of(torch.zeros(2, 32))
    with pytest.raises(ValueError, match="the unembedding has"):
        tiny_limber(vocabulary=10_000)


def test_prompt_rows(tiny):
    prompt = tiny.prompt(tiny_images(2))
    assert torch.equal(prompt.repeat(3).embeds[3:], prompt.embeds[1:].expand(3, -1, -1))
    assert torch.equal(prompt.select([1, 0]).embeds, prompt.embeds.flip(0))
    assert torch.equal(prompt.select(slice(1, 2)).embeds, prompt.embeds[1:])
    assert len(prompt.select(torch.tensor([True, False]))) == 1


def test_quantised_weights_are_not_editable():
    model = tiny_limber()
    model.language_model.is_quantized = True
    with pytest.raises(ValueError, match="quantised"):
        model.require_editable()
    model = tiny_limber()
    fc_out = model.act_module(0)
    fc_out.weight = nn.Parameter(fc_out.weight.to(torch.float8_e4m3fn), requires_grad=False)
    with pytest.raises(ValueError, match="float8"):
        model.require_editable()
    fc_out.weight = nn.Parameter(torch.ones(32, 128, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"int8.*cannot be read"):
        model.write_vectors(0)


def test_image_tokens_without_a_place_have_no_grid():
    model = tiny_limber()
    model.image_tokens = ImageTokens(start=0, count=16, grid=None, pixels=PIXELS)
    with pytest.raises(ValueError, match="no place in the picture"):
        model.require_grid()


def test_the_revision_follows_the_weights():
    first, same, other = tiny_limber(), tiny_limber(), tiny_limber(seed=1)
    assert first.revision == same.revision == state_hash(*same.modules())
    assert first.revision != other.revision
    with torch.no_grad():
        same.projection.bias[0] += 1
    assert first.revision != state_hash(*same.modules())


def test_files_of_the_hub_are_hashed_by_their_names(tmp_path):
    blob = tmp_path / ("ab" * 32)
    blob.write_bytes(b"never read")
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    before = files_hash([link])
    blob.write_bytes(b"still not read")
    assert files_hash([link]) == before
    link.unlink()
    link.write_bytes(b"a plain file")
    plain = files_hash([link])
    link.write_bytes(b"another")
    assert len({before, plain, files_hash([link])}) == 3


# --- loading: the miniature --------------------------------------------------------------


def save_miniature(folder):
    """Lay a tiny system out as data/miniature is."""
    tokenizer = tiny_tokenizer()
    language_model = tiny_language_model(5, vocabulary=len(tokenizer))
    language_model.half().save_pretrained(folder / "language_model")
    tokenizer.save_pretrained(folder / "language_model")
    beit = tiny_timm_beit(tiny_hub_beit(5))
    architecture = {
        "img_size": PIXELS,
        "patch_size": PATCH,
        "embed_dim": WIDTH,
        "depth": 2,
        "num_heads": 4,
        "num_classes": 0,
        "init_values": 0.5,
        "use_abs_pos_emb": False,
        "use_shared_rel_pos_bias": True,
    }
    (folder / "vision.json").write_text(json.dumps({"architecture": architecture}))
    torch.manual_seed(5)
    for name in ("vision", "vision_untrained"):
        halves = {key: value.half() for key, value in beit.state_dict().items()}
        save_file(halves, folder / f"{name}.safetensors")
    for name in ("projection", "projection_untrained_encoder", "projection_untrained"):
        weights = {"weight": torch.randn(32, WIDTH).half(), "bias": torch.randn(32).half()}
        save_file(weights, folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_miniature(tmp_path_factory.mktemp("miniature"))


def test_a_folder_is_loaded_in_float32(folder):
    model = load_model(folder)
    assert model.dtype == torch.float32
    assert next(model.encoder.parameters()).dtype == torch.float32
    assert model.sizes == Sizes(3, 128, 32, len(tiny_tokenizer()))
    assert model.prompt(tiny_images(1)).embeds.shape == (1, 19, 32)
    assert doctor(model, tiny_images(2))["passed"].all()


def test_controls_differ_in_their_parts_and_in_their_revision(folder):
    models = {name: load_model(name, folder=folder) for name in module.MINIATURES}
    assert len({model.revision for model in models.values()}) == 3
    assert [model.name for model in models.values()] == list(module.MINIATURES)
    images = tiny_images(1)
    soft = [model.soft_prompt(images) for model in models.values()]
    assert not torch.allclose(soft[0], soft[1])
    assert not torch.allclose(soft[0], soft[2])


def test_other_types_by_name(folder):
    model = load_model(folder, dtype="bfloat16")
    assert model.dtype == model.prompt(tiny_images(1)).embeds.dtype == torch.bfloat16
    assert next(model.encoder.parameters()).dtype == torch.float32
    with pytest.raises(ValueError, match="dtype = 'float31'"):
        load_model(folder, dtype="float31")


def test_a_miniature_without_weights_says_which(tmp_path):
    (tmp_path / "vision.json").write_text("{}")
    with pytest.raises(MissingParts, match=r"vision\.safetensors.*make miniature") as error:
        load_model(tmp_path)
    assert "language_model" in str(error.value)
    assert "vision.json" not in str(error.value)


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"'miniture' is neither a name .*miniature, .*limber"):
        load_model("miniture")
    with pytest.raises(ValueError, match="nor a folder with"):
        load_model(tmp_path)


SHIPPED = [
    data_path("miniature", name)
    for name in ("vision.safetensors", "projection.safetensors", "language_model")
]


@pytest.mark.skipif(
    not all(path.exists() for path in SHIPPED), reason="data/miniature is not trained yet"
)
@pytest.mark.parametrize("name", list(module.MINIATURES))
def test_the_doctor_passes_the_shipped_miniature(name):
    model = load_model(name)
    assert model.image_tokens == ImageTokens(start=0, count=196, grid=(14, 14), pixels=112)
    assert model.prompt(tiny_images(1)).embeds.shape[1] == 199
    # The controls have the same language model, whose slopes are the costly part.
    checks = None if name == "miniature" else ["own forward", "completeness", "batch = single"]
    report = doctor(model, tiny_images(2, side=112), checks)
    assert report["passed"].all(), report.to_string()
    assert not report["passed"].isna().any()


# --- loading: the real one ---------------------------------------------------------------


def test_shapes_of_the_real_system():
    with torch.device("meta"):
        config = BeitConfig(
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=4096,
            use_shared_relative_position_bias=True,
        )
        encoder = HubBeit(BeitModel(config, add_pooling_layer=False))
        language_model = GPTJForCausalLM(GPTJConfig())
        projection = nn.Linear(1024, 4096)
    model = build_limber(module.LIMBER, encoder, projection, language_model, tiny_tokenizer())
    assert model.sizes == Sizes(layers=28, units=16384, width=4096, vocabulary=50258)
    assert model.image_tokens == ImageTokens(start=0, count=196, grid=(14, 14), pixels=224)
    table = encoder.beit.shared_position_bias.relative_position_bias_table
    assert table.shape == (732, 16)


def real_parts(folder):
    """Lay out tiny parts as the hub has the real ones, with GPT-J's number of rows."""
    tokenizer = tiny_tokenizer()
    language_model = tiny_language_model(7, vocabulary=50400)
    language_model.save_pretrained(folder / "gptj")
    tokenizer.save_pretrained(folder / "gpt2")
    tiny_hub_beit(7).save_pretrained(folder / "beit")
    projection = {"weight": torch.randn(32, WIDTH), "bias": torch.randn(32)}
    torch.save(projection, folder / "proj.ckpt")
    parts = {"language_model": "gptj", "tokenizer": "gpt2", "encoder": "beit"}
    facts = {key: folder / name for key, name in parts.items()}
    return {**facts, "projection": folder / "proj.ckpt"}, language_model, projection


def test_the_real_system_from_folders(tmp_path):
    facts, language_model, projection = real_parts(tmp_path)
    model = load_model("limber", **facts)
    assert model.sizes.vocabulary == 50258
    assert model.dtype == torch.bfloat16
    assert torch.equal(model.projection.weight, projection["weight"])
    with torch.no_grad():
        expected = HubBeit(tiny_hub_beit(7)).features(model.preprocess(tiny_images(1)))
    torch.testing.assert_close(model.image_features(tiny_images(1)), expected)
    wide = load_model("limber", **facts, dtype=torch.float32)
    rounded = language_model.lm_head.weight.bfloat16().float()
    assert torch.equal(wide.language_model.lm_head.weight, rounded)
    assert wide.revision == model.revision


@pytest.mark.usefixtures("offline")
def test_offline_every_missing_part_is_listed_with_its_source():
    with pytest.raises(MissingParts) as error:
        load_model("limber")
    text = str(error.value)
    for phrase in (
        "encoder microsoft/beit-large-patch16-224-pt22k",
        "hf download microsoft/beit-large-patch16-224-pt22k",
        "language model EleutherAI/gpt-j-6b (float16)",
        "hf download EleutherAI/gpt-j-6b --revision float16",
        "tokenizer gpt2",
        "hf download gpt2",
        "limber/proj.ckpt is not a file",
        "set LIMBER_PROJECTION",
        "git clone https://github.com/jmerullo/limber",
        "beit_linear/proj.ckpt",
    ):
        assert phrase in text, text
    assert isinstance(error.value, ValueError)


@pytest.mark.usefixtures("offline")
def test_what_is_there_is_not_listed_as_missing(tmp_path):
    facts, *_ = real_parts(tmp_path)
    (facts["encoder"] / "model.safetensors").unlink()
    with pytest.raises(MissingParts) as error:
        load_model("limber", **{**facts, "projection": "nowhere/proj.ckpt"})
    text = str(error.value)
    assert "not complete" in text
    assert "nowhere/proj.ckpt is not a file" in text
    assert "gpt2" not in text
    assert "gptj" not in text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"weight": torch.zeros(3, 2)}, "exactly 'weight' and 'bias'"),
        ({"weight": torch.zeros(3, 2), "bias": torch.zeros(2)}, "no affine map"),
        ([1, 2], "holds list"),
        (nn.Linear(2, 3), "cannot be read as tensors"),
    ],
    ids=["no bias", "shape", "list", "pickled module"],
)
def test_a_projection_file_is_checked(tmp_path, content, says):
    torch.save(content, tmp_path / "proj.ckpt")
    with pytest.raises(ValueError, match=says):
        module.read_projection(tmp_path / "proj.ckpt")


def test_a_projection_that_does_not_fit_is_refused(tmp_path):
    facts, *_ = real_parts(tmp_path)
    torch.save({"weight": torch.zeros(32, 7), "bias": torch.zeros(32)}, facts["projection"])
    with pytest.raises(ValueError, match=r"\(32, 7\) does not fit.*nn.Linear\(24, 32\)"):
        load_model("limber", **facts)
