"""Folders and the hub: what loads, and what is missing."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mmn_utils.models import load_model
from mmn_utils.models.auto import load_auto
from mmn_utils.models.auto.building import build_auto
from mmn_utils.models.auto.modules import Unsupported
from mmn_utils.models.hub import MissingParts
from tests.models.auto.families import TEXT, llava
from tests.models.auto.families.table import made, system_of
from tests.tiny import tiny_images


@torch.no_grad()
def test_a_saved_model_loads_as_it_was(tmp_path):
    model, processor, _ = llava()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, built = load_auto(tmp_path), build_auto("llava", model, processor)
    images = tiny_images(2)
    expected = built.forward(built.prompt(images))[0]
    assert torch.equal(loaded.forward(loaded.prompt(images))[0], expected)
    assert loaded.image_tokens == built.image_tokens
    half = load_auto(tmp_path, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    waves = [b for n, b in half.language_model.named_buffers() if n.endswith("inv_freq")]
    assert waves
    assert all(wave.dtype == torch.float32 for wave in waves)  # positions stay exact


def test_missing_parts_come_with_the_command_that_gets_them(tmp_path):
    with pytest.raises(MissingParts, match="hf download someone/some-vlm --include"):
        load_auto("someone/some-vlm")
    with pytest.raises(MissingParts, match="--revision v2"):
        load_auto("someone/some-vlm", revision="v2")
    with pytest.raises(MissingParts, match="not complete"):
        load_auto(tmp_path)


def test_a_folder_that_is_no_such_model_is_said(tmp_path):
    LlamaForCausalLM(LlamaConfig(**{**TEXT, "vocab_size": 40})).save_pretrained(tmp_path)
    with pytest.raises(Unsupported, match="holds a 'llama', which is no model"):
        load_auto(tmp_path)


def test_a_processor_that_does_not_load_is_said(tmp_path):
    model, _, _ = llava()
    model.save_pretrained(tmp_path)
    with pytest.raises(MissingParts, match="has no processor that loads"):
        load_auto(tmp_path)


def test_weights_that_are_absent_are_not_made_up(tmp_path):
    from safetensors.torch import load_file, save_file

    model, processor, _ = llava()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    gone = next(name for name in state if name.endswith("down_proj.weight"))
    save_file({k: v for k, v in state.items() if k != gone}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights of AutoModel.*, among .*down_proj"):
        load_auto(tmp_path)


FOLDERS = ("blip-2", "instructblip", "janus", "perception_lm", "mistral3", "phi4_multimodal")


@torch.no_grad()
@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_as_on_the_hub_loads(name, tmp_path):
    model, processor, facts = made(name)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, built = load_model(tmp_path, **facts), system_of(name)
    images = tiny_images(1)
    expected = built.forward(built.prompt(images))[0]
    mine = loaded.forward(loaded.prompt(images))[0]
    torch.testing.assert_close(mine, expected, atol=1e-6, rtol=1e-5)
    assert loaded.image_tokens == built.image_tokens
