"""What the benchmarks share: a random system of the miniature's size, and a stopwatch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from mmn_utils.models.architectures import GPTJ
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


def random_system(images: int, layers: int = 6) -> tuple[VisionLanguageModel, Prompt]:
    """Build a random GPT-J with 1,024 units a layer, and prompts of 199 tokens."""
    language_model = tiny_language_model(vocabulary=1536, layers=layers, width=256, positions=256)
    model = RandomSystem(
        "benchmark", language_model, tiny_tokenizer(), GPTJ,
        ImageTokens(0, PATCHES, (14, 14), 112), prefix="A picture of",
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(images, PATCHES + WORDS, model.sizes.width, generator=generator)
    return model, Prompt.of(embeds)


def random_targets(model: VisionLanguageModel, images: int) -> list[Target]:
    """Give each image a target three tokens into its caption."""
    return [Target(str(i), "noun", 100 + i, (7, 11, 300 + i)) for i in range(images)]


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
