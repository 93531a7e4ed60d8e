"""A system of given sizes with random weights, or with none on ``meta``, to try passes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import GPTJConfig, GPTJForCausalLM, LlamaConfig, LlamaForCausalLM

from mmn_utils.models.architectures import GPTJ, LLAMA
from mmn_utils.models.base import ImageTokens, VisionLanguageModel
from mmn_utils.models.limber import ONE_KERNEL
from mmn_utils.running.planning.systems import Size


class _Silent:
    """A tokenizer of no words, whose captions never end."""

    eos_token_id = None

    def decode(self, ids: Sequence[int], **_options) -> str:
        return " ".join(map(str, ids))


class Proxy(VisionLanguageModel):
    """Random image tokens before a language model of random weights; pictures are numbers."""

    def __init__(self, size: Size, device: str, dtype: torch.dtype = torch.float32) -> None:
        model = _language_model(size, device, dtype)
        self.size = size
        self._before: Callable[[], None] | None = None
        tokens = ImageTokens(0, size.image_tokens, None, 0)
        architecture = GPTJ if size.kind == "gptj" else LLAMA
        super().__init__("proxy", model, _Silent(), architecture, tokens, prefix="", revision="")

    @contextmanager
    def before_forward(self, call: Callable[[], None]) -> Iterator[None]:
        """Call a function before each pass of the language model in the block."""
        self._before = call
        try:
            yield
        finally:
            self._before = None

    def forward(self, *arguments, **options):
        """Do what every system does, after the call of ``before_forward``."""
        if self._before is not None:
            self._before()
        return super().forward(*arguments, **options)

    def preprocess(self, images: Sequence[int]) -> Tensor:
        """Return nothing to see (B, 0)."""
        return torch.zeros(len(images), 0)

    def image_features(self, images: Sequence[int]) -> Tensor:
        """Return noise (B, tokens, width)."""
        return self.soft_prompt(images)

    def soft_prompt(self, images: Sequence[int]) -> Tensor:
        """Return noise (B, tokens, width)."""
        shape = (len(images), self.size.image_tokens, self.sizes.width)
        return torch.randn(shape, device=self.device, dtype=self.dtype)

    def prompt(self, images: Sequence[int], text: str | None = None):
        """Return image tokens, then as many tokens of text as the system has."""
        return self.around(self.soft_prompt(images), [], [1] * self.size.text_tokens)


def _language_model(size: Size, device: str, dtype: torch.dtype) -> nn.Module:
    """Build the language model with random weights; on ``meta`` it takes no memory."""
    ends = {"bos_token_id": 0, "eos_token_id": None, "tie_word_embeddings": False}
    if size.kind == "gptj":
        config = GPTJConfig(
            vocab_size=size.vocabulary, n_positions=size.positions, n_embd=size.width,
            n_layer=size.layers, n_head=size.heads, n_inner=size.units,
            rotary_dim=min(64, size.width // size.heads), **ONE_KERNEL, **ends,
        )  # fmt: skip
        kind = GPTJForCausalLM
    else:
        config = LlamaConfig(
            vocab_size=size.vocabulary, max_position_embeddings=size.positions,
            hidden_size=size.width, intermediate_size=size.units, num_hidden_layers=size.layers,
            num_attention_heads=size.heads, num_key_value_heads=size.key_heads or size.heads,
            head_dim=size.head or size.width // size.heads, **ends,
        )  # fmt: skip
        kind = LlamaForCausalLM
    with torch.device(device):
        model = kind(config)
    for parameter in model.parameters():  # buffers keep their type, as when weights are loaded
        parameter.data = parameter.data.to(dtype)
    return model
