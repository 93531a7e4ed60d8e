"""What the benchmarks share: random systems of two sizes, and a stopwatch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from mmn_utils.models import products
from mmn_utils.models.architectures import GPTJ, LLAMA
from mmn_utils.models.base import ImageTokens, Prompt, VisionLanguageModel
from mmn_utils.neurons.targets import Target
from tests.tiny import tiny_language_model, tiny_tokenizer

PATCHES, WORDS = 196, 3


class RandomSystem(VisionLanguageModel):
    """A random language model whose pictures are numbers: each the seed of its image tokens."""

    def preprocess(self, images: Sequence[int]) -> Tensor:
        return torch.tensor(images)

    def image_features(self, images: Sequence[int]) -> Tensor:
        shape = self.image_tokens.count, self.sizes.width
        seeds = [torch.Generator().manual_seed(seed) for seed in self.preprocess(images).tolist()]
        return torch.stack([torch.randn(shape, generator=seed) for seed in seeds])

    def soft_prompt(self, images: Sequence[int]) -> Tensor:
        return self.image_features(images)


def random_system(
    images: int, layers: int = 6, growth: float = 1.0
) -> tuple[VisionLanguageModel, Prompt]:
    """Build a random GPT-J with 1,024 units a layer, and prompts of 199 tokens.

    Write vectors grow by ``growth`` from layer to layer.
    """
    language_model = tiny_language_model(vocabulary=1536, layers=layers, width=256, positions=256)
    places = ImageTokens(0, PATCHES, (14, 14), 112)
    return _with_prompts(language_model, GPTJ, places, images, growth)


def random_llava(
    images: int, layers: int = 12, growth: float = 1.0, width: int = 512, side: int = 24
) -> tuple[VisionLanguageModel, Prompt]:
    """Build a random LLaMA with 4 ``width`` units a layer, behind ``side`` x ``side`` patches."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1536, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=8, max_position_embeddings=1024,
        initializer_range=0.05, bos_token_id=0, eos_token_id=0, attn_implementation="sdpa",
    )  # fmt: skip
    places = ImageTokens(0, side**2, (side, side), 14 * side)
    return _with_prompts(LlamaForCausalLM(config), LLAMA, places, images, growth)


def _with_prompts(language_model, architecture, places: ImageTokens, images: int, growth: float):
    model = RandomSystem(
        "benchmark", language_model, tiny_tokenizer(), architecture, places, prefix="A picture of"
    )
    products.quicken(language_model)  # as what ``load_model`` loads
    for layer in range(model.sizes.layers):
        model.act_module(layer).weight.data.mul_(growth**layer)
    generator = torch.Generator().manual_seed(0)
    shape = images, places.count + WORDS, model.sizes.width
    return model, Prompt.of(torch.randn(shape, generator=generator))


def random_targets(model: VisionLanguageModel, images: int) -> list[Target]:
    """Give each image a target three tokens into its caption."""
    return [Target(str(i), "noun", 100 + i, (7, 11, 300 + i)) for i in range(images)]


def plainly(way: Callable) -> Callable:
    """Let a way of computing multiply as torch does by itself, not as ``products`` does."""

    @wraps(way)
    def as_torch(*arguments, **options):
        with patch.object(products, "CAPABLE", False):
            return way(*arguments, **options)

    return as_torch


def best_times(functions: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Time functions in turns: the least processor time in seconds of each, on one thread."""
    torch.set_num_threads(1)
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.process_time()
            function()
            times[name].append(time.process_time() - start)
    return {name: min(values) for name, values in times.items()}
