"""InstructBLIP: transformers' own answers, the order of its prompt, folders, bad input."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import (
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    PreTrainedTokenizerFast,
    T5Config,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from mmn_utils.models import MissingParts, load_model
from mmn_utils.models import instructblip as module
from mmn_utils.models.base import ImageTokens, Sizes
from mmn_utils.models.doctor import doctor
from mmn_utils.models.folders import FACTS
from mmn_utils.models.instructblip import (
    InstructBlipFacts,
    build_instructblip,
    load_instructblip,
    save_instructblip,
)
from mmn_utils.neurons.captions import generate
from tests.models.words import words
from tests.tiny import tiny_images, tiny_tokenizer
from tests.tiny_gated import tiny_llama

SIDE, COUNT, ROWS = 32, 5, 400
PREFIX = "A picture of"
LONGEST = 12  # tokens that the tiny Q-Former reads


@lru_cache(maxsize=1)
def qformer_words():
    """Whole words between [CLS] and [SEP], as the Q-Former's tokenizer has them."""
    known = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "A", "picture", "of", "a", "horse", "dog")
    vocabulary = {word: number for number, word in enumerate(known)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]"
    )


def tiny_config(**facts):
    config = InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(
            hidden_size=24,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=SIDE,
            patch_size=8,
            initializer_range=0.2,
        ),
        qformer_config=InstructBlipQFormerConfig(
            vocab_size=len(qformer_words()),
            hidden_size=20,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=40,
            max_position_embeddings=LONGEST,
            initializer_range=0.2,
        ),
        num_query_tokens=COUNT,
        image_token_index=words().convert_tokens_to_ids("<image>"),
        **facts,
    )
    return config


def tiny_whole(seed=0):
    """A random InstructBlipForConditionalGeneration whose LLaMA is ``tiny_llama``."""
    torch.manual_seed(seed)
    llama = tiny_llama(seed, vocabulary=ROWS)
    whole = InstructBlipForConditionalGeneration(tiny_config(text_config=llama.config))
    whole.language_model = llama
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            if not name.startswith("language_model"):
                parameter.add_(0.2 * torch.randn_like(parameter))
        whole.query_tokens.normal_()
    return whole.eval()


def tiny_instructblip(seed=0, **facts):
    facts = InstructBlipFacts(**{"name": "tiny", "prefix": PREFIX, **facts})
    return build_instructblip(facts, tiny_whole(seed), words(), qformer_words())


def inputs_of(images, text=PREFIX):
    """What transformers' processor makes of pictures and a text."""
    pictures = BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    processor = InstructBlipProcessor(pictures, words(), qformer_words(), num_query_tokens=COUNT)
    processor.image_token = words().added_tokens_decoder[words().convert_tokens_to_ids("<image>")]
    return processor(images=images, text=[text] * len(images), return_tensors="pt")


@pytest.fixture(scope="module")
def tiny():
    return tiny_instructblip()


# --- the contract, against transformers --------------------------------------------------


def test_sizes_and_image_tokens(tiny):
    assert tiny.image_tokens == ImageTokens(start=0, count=COUNT, grid=None, pixels=SIDE)
    assert tiny.sizes == Sizes(layers=3, units=48, width=32, vocabulary=ROWS)
    assert tiny.image_features(tiny_images(2)).shape == (2, COUNT, 20)
    with pytest.raises(ValueError, match="no place in the picture"):
        tiny.require_grid()


def test_the_doctor_passes(tiny):
    report = doctor(tiny, tiny_images(3))
    assert report["passed"].all(), report.to_string()
    assert not report["passed"].isna().any()


@torch.no_grad()
@pytest.mark.parametrize("text", [PREFIX, "A dog"])
def test_logits_are_those_of_transformers_from_picture_and_text(tiny, text):
    images = tiny_images(2)
    expected = tiny_whole()(**inputs_of(images, text)).logits
    logits, _ = tiny.forward(tiny.prompt(images, text), last_only=False)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_greedy_captions_are_those_of_transformers(tiny):
    images = tiny_images(2)
    inputs = inputs_of(images)
    ids = tiny_whole().generate(**inputs, max_new_tokens=8, do_sample=False)
    expected = ids[:, inputs["input_ids"].shape[1] :].tolist()
    end = tiny.tokenizer.eos_token_id
    cut = [tuple(row[: row.index(end)] if end in row else row) for row in expected]
    assert [caption.ids for caption in generate(tiny, tiny.prompt(images), 8)] == cut


def test_pixels_are_those_of_blips_processor(tiny):
    images = tiny_images(2, side=61)
    expected = inputs_of(images)["pixel_values"]
    torch.testing.assert_close(tiny.preprocess(images), expected, atol=1e-5, rtol=0)


def test_the_prompt_is_queries_then_beginning_then_text(tiny):
    images = tiny_images(2)
    prompt = tiny.prompt(images)
    ids = [tiny.tokenizer.bos_token_id, *tiny.tokenizer.encode(PREFIX, add_special_tokens=False)]
    table = tiny.language_model.model.embed_tokens.weight
    assert torch.equal(prompt.embeds[:, :COUNT], tiny.soft_prompt(images))
    assert torch.equal(prompt.embeds[1, COUNT:], table[ids])
    without = tiny_instructblip(bos=False).prompt(images)
    assert torch.equal(without.embeds[1, COUNT:], table[ids[1:]])


def test_the_beginning_of_text_is_the_tokenizers_own(tiny):
    odd = copy.copy(tiny)
    odd.tokenizer = copy.deepcopy(words())
    odd.tokenizer.bos_token = odd.tokenizer.convert_ids_to_tokens(7)  # as </s> is 2
    table = tiny.language_model.model.embed_tokens.weight
    assert torch.equal(odd.prompt(tiny_images(1)).embeds[0, COUNT], table[7])


def test_the_queries_read_the_instruction(tiny):
    images = tiny_images(1)
    assert torch.equal(tiny.soft_prompt(images), tiny.soft_prompt(images, PREFIX))
    horse = tiny.soft_prompt(images, "a horse")
    assert not torch.allclose(horse, tiny.soft_prompt(images))
    assert torch.equal(tiny.prompt(images, "a horse").embeds[:, :COUNT], horse)


def test_facts_of_the_published_system():
    facts = InstructBlipFacts()
    assert facts.prefix == "Describe the image in few words. An image of"
    with torch.device("meta"):
        text = tiny_llama(vocabulary=8).config
        text.update({"vocab_size": 32001, "hidden_size": 4096, "intermediate_size": 11008})
        text.update({"num_hidden_layers": 32, "num_attention_heads": 32, "head_dim": 128})
        text.update({"num_key_value_heads": 32})
        whole = InstructBlipForConditionalGeneration(InstructBlipConfig(text_config=text))
    facts = replace(facts, vocabulary=32000)
    model = build_instructblip(facts, whole, words(), qformer_words())
    assert model.sizes == Sizes(layers=32, units=11008, width=4096, vocabulary=32000)
    assert model.image_tokens == ImageTokens(start=0, count=32, grid=None, pixels=224)
    assert tuple(model.projection.weight.shape) == (4096, 768)
    assert model.queries.vision_model.embeddings.position_embedding.shape == (1, 257, 1408)


# --- folders -----------------------------------------------------------------------------


def test_a_saved_system_comes_back(tmp_path):
    model = tiny_instructblip(seed=3, vocabulary=390)
    save_instructblip(model, tmp_path, dtype=torch.float32)
    again = load_model(tmp_path)
    images = tiny_images(2)
    assert again.dtype == torch.float32
    assert replace(again.facts, revision=None) == model.facts
    expected, _ = model.forward(model.prompt(images))
    torch.testing.assert_close(again.forward(again.prompt(images))[0], expected)
    half = load_model(tmp_path, dtype="bfloat16", prefix="A dog")
    assert (half.dtype, half.prefix) == (torch.bfloat16, "A dog")
    assert next(half.queries.parameters()).dtype == torch.float32
    assert half.revision == again.revision
    (tmp_path / "qformer_tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(MissingParts, match=r"qformer_tokenizer.tokenizer\.json"):
        load_model(tmp_path)


def test_a_shared_language_model_is_stored_once(tmp_path):
    model = tiny_instructblip(seed=4)
    folder = tmp_path / "instructblip"
    model.language_model.save_pretrained(tmp_path / "llama")
    save_instructblip(model, folder, language_model="../llama", dtype=torch.float32)
    images = tiny_images(2)
    again = load_instructblip(folder)
    expected, _ = model.forward(model.prompt(images))
    torch.testing.assert_close(again.forward(again.prompt(images))[0], expected)
    revision = again.revision
    tiny_llama(9, vocabulary=ROWS).save_pretrained(tmp_path / "llama")
    assert load_instructblip(folder).revision != revision
    record = json.loads((folder / FACTS).read_text())
    del record["language_model"]
    (folder / FACTS).write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"lacks .* weights of InstructBlip"):
        load_instructblip(folder)


def published(folder):
    """Lay out a tiny system as the hub has the real one."""
    tiny_whole(5).save_pretrained(folder)
    words(placeholder=False).save_pretrained(folder)
    qformer_words().save_pretrained(folder / "qformer_tokenizer")
    return folder


def test_the_published_system_has_its_facts(tmp_path):
    model = load_model("instructblip", checkpoint=published(tmp_path))
    assert model.dtype == torch.float16
    assert model.sizes.vocabulary == len(tiny_tokenizer()) < ROWS
    assert model.prefix == InstructBlipFacts.prefix
    rows = tiny_whole(5).language_model.lm_head.weight[: model.sizes.vocabulary]
    assert torch.equal(model.unembedding[0], rows.half())
    vision = tiny_whole(5).vision_model.state_dict()
    for key, value in model.queries.vision_model.state_dict().items():
        assert torch.equal(value, vision[key]), key  # not rounded on the way


# --- bad input ---------------------------------------------------------------------------


@pytest.mark.usefixtures("offline")
def test_offline_what_is_missing_is_listed_with_its_source():
    with pytest.raises(MissingParts) as error:
        load_model("instructblip", tokenizer="a/tokenizer")
    for phrase in (
        f"hf download {module.CHECKPOINT}",
        "pass checkpoint=FOLDER",
        "hf download a/tokenizer",
    ):
        assert phrase in str(error.value), str(error.value)


def test_the_qformers_tokenizer_belongs_to_the_checkpoint(tmp_path):
    published(tmp_path)
    (tmp_path / "qformer_tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(MissingParts, match="not complete"):
        load_instructblip(tmp_path)


def test_systems_of_other_parts_are_refused(tiny, tmp_path):
    whole = tiny_whole()
    whole.config.text_config = T5Config()
    with pytest.raises(ValueError, match="an InstructBLIP with t5"):
        build_instructblip(InstructBlipFacts(), whole, words(), qformer_words())
    whole = tiny_whole()
    whole.language_projection = torch.nn.Linear(20, 31)
    with pytest.raises(ValueError, match=r"\(31, 20\) does not fit .* \(32, 20\)"):
        build_instructblip(InstructBlipFacts(), whole, words(), qformer_words())
    tokenizer = copy.deepcopy(words())
    tokenizer.bos_token = None
    with pytest.raises(ValueError, match="no token for the beginning of text"):
        build_instructblip(InstructBlipFacts(), tiny_whole(), tokenizer, qformer_words())
    save_instructblip(tiny, tmp_path)
    with pytest.raises(ValueError, match="its tokenizer is its own"):
        load_instructblip(tmp_path, tokenizer=tmp_path)


def test_an_instruction_that_is_too_long_is_refused(tiny):
    fits = " ".join(["horse"] * (LONGEST - 2))
    assert tiny.soft_prompt(tiny_images(1), fits).shape == (1, COUNT, 32)
    with pytest.raises(ValueError, match="has 13 tokens for the Q-Former, which reads 12"):
        tiny.prompt(tiny_images(1), f"{fits} dog")
