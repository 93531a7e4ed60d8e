"""A few random scenes, a folder of tiny parts, and the systems that are made of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmn_utils.miniature.language import save_language_model
from mmn_utils.miniature.llama import build_llama, chat_tokenizer, load_llama, merge_words
from mmn_utils.miniature.scenes.sets import SceneSet
from tests.miniature.chat.trained import SCENES, SIDE, SYSTEMS, TEXT, make, tiny_clip
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="session")
def scenes() -> SceneSet:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (SCENES, SIDE, SIDE, 3), dtype=np.uint8)
    concepts = np.full((SCENES, 3), -1, np.int8)
    concepts[:, 0] = np.arange(SCENES)
    concepts[3, 1], concepts[5, 1:] = 7, (2, 4)
    grounds = np.arange(SCENES, dtype=np.int8) % 3
    return SceneSet(images, concepts, grounds, np.zeros((SCENES, 1), np.int8))


@pytest.fixture(scope="session")
def data(tmp_path_factory, scenes, world):
    """A folder with a random language model and a random CLIP, as the trainings find them."""
    folder = tmp_path_factory.mktemp("data")
    said = [f" {text}." for i in range(SCENES) for text in scenes.captions(i, world)]
    base = tiny_tokenizer()
    words = type(base)(
        tokenizer_object=merge_words(base.backend_tokenizer, said), eos_token=base.eos_token
    )
    tokenizer = chat_tokenizer(words)
    (folder / "llama").mkdir()
    language_model = build_llama(TEXT, tokenizer)
    with torch.no_grad():
        for parameter in language_model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_language_model(language_model, tokenizer, TEXT, folder / "llama")
    tiny_clip().half().save_pretrained(folder / "clip")
    return folder


@pytest.fixture(scope="session")
def made(data, scenes, world, tmp_path_factory):
    """All three systems, trained for a few steps and saved in ``data``."""
    work = tmp_path_factory.mktemp("work")
    return {name: make(name, data, work, scenes, world) for name in SYSTEMS}


@pytest.fixture
def parts(data):
    return load_llama(data / "llama")
