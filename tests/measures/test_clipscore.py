"""CLIPScore against the model's own results and closed forms."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers import models as tokenizer_models
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
)

from mmn_utils.datasets import Photograph
from mmn_utils.measures import clipscore as clipscore_module
from mmn_utils.measures.clipscore import ClipEmbeddings, clip_embeddings, clipscore

WORDS = ["<pad>", "<start>", "<end>", "<unk>", "a", "red", "green", "blue", "dog", "on", "grass"]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    ids = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(tokenizer_models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<start>",
        eos_token="<end>",
        unk_token="<unk>",
    )


def tiny_clip() -> tuple[CLIPModel, CLIPProcessor]:
    """A CLIP of random weights, 32 x 32 pixels in 16 x 16 patches, texts of up to 8 tokens."""
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    shared |= {"num_attention_heads": 2, "projection_dim": 12}
    text = {"vocab_size": len(WORDS), "max_position_embeddings": 8, "eos_token_id": 2}
    vision = {"image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(text_config=shared | text, vision_config=shared | vision, projection_dim=12)
    )
    for parameter in model.parameters():  # random enough for scores to differ
        torch.nn.init.normal_(parameter, std=0.3)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return model.eval(), CLIPProcessor(image_processor=pictures, tokenizer=tiny_tokenizer())


def noise(seed: int, size: tuple[int, int] = (40, 36)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A CLIP saved in half precision, as the miniature's is."""
    where = tmp_path_factory.mktemp("clip")
    model, processor = tiny_clip()
    model.half().save_pretrained(where)
    processor.save_pretrained(where)
    return where


@pytest.fixture(scope="module")
def clip(folder) -> ClipEmbeddings:
    return clip_embeddings(folder)


TEXTS = ["a red dog", "blue grass", "a dog on a blue grass", "green"]


def test_clipscore_is_the_models_own_logit_without_its_scale(clip):
    images = [noise(i) for i in range(4)]
    inputs = clip.processor(text=TEXTS, images=images, return_tensors="pt", padding=True)
    with torch.no_grad():
        out = clip.model(**{k: inputs[k] for k in ("input_ids", "attention_mask", "pixel_values")})
    cosines = out.logits_per_image / clip.model.logit_scale.detach().exp()
    expected = 100 * cosines.diagonal().numpy()
    found = clipscore(images, TEXTS, clip)
    assert found == pytest.approx(expected, abs=1e-3)
    assert np.ptp(found) > 1
    assert found.dtype == np.float64
    assert (np.abs(found) <= 100.001).all()
    assert clip.model.dtype == torch.float32


def planted(wrap: bool) -> ClipEmbeddings:
    """A CLIP with known features: an image's mean colour, a text's colour word."""
    colours = {"red": [1.0, 0, 0], "green": [0, 1.0, 0], "anti": [-1.0, 0, 0]}
    calls = {"texts": 0, "images": 0}

    class Tokenizer:
        pad_token_id = 0

        def __call__(self, texts, **_):
            calls["texts"] += len(texts)
            return {"input_ids": [colours[text] for text in texts]}

    def pictures(images, **_):
        calls["images"] += len(images)
        means = [np.asarray(image).reshape(-1, 3).mean(0) for image in images]
        return {"pixel_values": torch.tensor(np.array(means))}

    def features(tensor):
        return SimpleNamespace(pooler_output=tensor) if wrap else tensor

    model = SimpleNamespace(
        config=SimpleNamespace(
            projection_dim=3, text_config=SimpleNamespace(max_position_embeddings=9)
        ),
        device=torch.device("cpu"),
        dtype=torch.float32,
        calls=calls,
        get_text_features=lambda input_ids, attention_mask: features(input_ids),
        get_image_features=lambda pixel_values: features(pixel_values),
    )
    model.eval = lambda: model
    processor = SimpleNamespace(tokenizer=Tokenizer(), image_processor=pictures)
    return ClipEmbeddings(model, processor, batch_size=2)


@pytest.mark.parametrize("wrap", [True, False])
def test_clipscore_in_closed_form(wrap):
    """100 x cosine, not cut off at 0; features bare or in an output object."""
    clip = planted(wrap)
    image = Image.new("RGB", (4, 4), (30, 40, 0))
    assert clipscore([image] * 3, ["red", "green", "anti"], clip) == pytest.approx([60, 80, -60])


def test_each_text_and_image_is_embedded_once(tmp_path):
    clip = planted(wrap=True)
    red, green = (Image.new("RGB", (4, 4), colour) for colour in ("red", "green"))
    path = tmp_path / "red.png"
    red.save(path)
    photograph = Photograph("x", path)
    for _ in range(2):
        images = [red, red.copy(), green, photograph, photograph]
        scores = clipscore(images, ["red", "green", "red", "red", "green"], clip)
        assert scores == pytest.approx([100, 0, 0, 100, 0])
    assert clip.model.calls == {"texts": 2, "images": 3}
    path.unlink()  # its pixels are no longer needed
    assert clipscore([photograph], ["red"], clip) == pytest.approx([100])


def test_batches_do_not_matter(clip):
    model, processor = clip.model, clip.processor
    images = [noise(i, size=(20 + i, 50)) for i in range(5)]
    texts = [*TEXTS, "red"]
    one = ClipEmbeddings(model, processor, batch_size=1)
    many = ClipEmbeddings(model, processor, batch_size=4)
    assert clipscore(images, texts, one) == pytest.approx(clipscore(images, texts, many), abs=1e-3)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P"])
def test_images_of_every_mode_and_one_pixel(clip, mode):
    score = clipscore([Image.new(mode, (1, 1))], ["a dog"], clip)
    assert np.isfinite(score).all()


def test_long_blank_and_no_texts(clip):
    image = noise(0)
    long = clipscore([image] * 2, ["a " * 100, "a " * 50], clip)
    assert long[0] == pytest.approx(long[1], abs=1e-4)  # both cut to the same eight tokens
    assert np.isfinite(clipscore([image], [""], clip)).all()
    assert clipscore([], [], clip).shape == (0,)
    assert clip.texts([]).shape == clip.images([]).shape == (0, 12)


def test_unequal_or_lone_arguments_are_refused(clip):
    with pytest.raises(ValueError, match="2 images but"):
        clipscore([noise(0)] * 2, ["a dog"], clip)
    with pytest.raises(ValueError, match="one text for each image"):
        clipscore([noise(0)] * 3, "dog", clip)
    with pytest.raises(ValueError, match="a list of texts"):
        clip.texts("dog")


def test_the_folder_is_loaded_once_and_a_missing_one_is_named(folder, tmp_path, monkeypatch):
    assert clip_embeddings(folder) is clip_embeddings(folder)
    with pytest.raises(FileNotFoundError, match=r"no CLIP at .*saved CLIPModel"):
        clip_embeddings(tmp_path / "nowhere")
    monkeypatch.setattr(clipscore_module, "data_path", lambda *parts: tmp_path.joinpath(*parts))
    clip_embeddings.cache_clear()
    with pytest.raises(FileNotFoundError, match="make miniature"):
        clip_embeddings()
    clip_embeddings.cache_clear()


@pytest.mark.filterwarnings("error")
def test_scoring_is_silent(folder, capfd):
    """No loading bars and no warnings in a notebook."""
    clip_embeddings.cache_clear()
    clipscore([noise(0)], ["a dog"], folder)
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""
