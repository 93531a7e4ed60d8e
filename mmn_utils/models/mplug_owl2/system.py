"""The system: what stands before the picture, how a picture is prepared, and the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from mmn_utils.models.architectures import LLAMA
from mmn_utils.models.base import ImageTokens, LateHash, Prompt
from mmn_utils.models.joined import JoinedModel, beginning
from mmn_utils.models.mplug_owl2.network import MplugOwl2ForCausalLM
from mmn_utils.models.pixels import CLIP_MEAN, CLIP_STD, to_pixels, to_rgb

NAME = "mplug_owl2"


@dataclass(frozen=True)
class MplugOwl2Facts:
    """What is fixed about one system of this kind.

    ``before`` and ``prefix`` are the texts on the two sides of the picture, the first behind
    the token for the beginning of text if ``bos``; ``fit`` is "square" as its authors or
    "crop" as paper B's code. ``vocabulary`` None for all rows of the unembedding,
    ``revision`` None to hash the tensors instead of files.
    """

    name: str = NAME
    before: str = "USER: "
    prefix: str = "Describe the image in few words. ASSISTANT: An image of"
    bos: bool = True
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    fit: str = "square"
    vocabulary: int | None = None
    revision: str | LateHash | None = None


class MplugOwl2(JoinedModel):
    """Text, 65 image tokens without a place in the picture, text."""

    def __init__(self, facts: MplugOwl2Facts, model: MplugOwl2ForCausalLM, tokenizer) -> None:
        words = tokenizer.encode(facts.before, add_special_tokens=False)
        self.before = beginning(facts, tokenizer) + words
        start, count = len(self.before), model.config.abstractor.num_learnable_queries + 1
        tokens = ImageTokens(start, count, None, model.config.vision.image_size)
        super().__init__(facts, model, tokenizer, LLAMA, tokens)
        model.image_span = (start, start + count)
        self._vision = model.model.vision_model.float()
        self._abstractor = model.model.visual_abstractor.float()

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """Turn pictures of any mode into (B, 3, pixels, pixels) float32; see ``fit``."""
        facts, side = self.facts, self.image_tokens.pixels
        # One picture that is not in a list is refused by to_pixels.
        if facts.fit == "square" and not isinstance(images, Image.Image):
            images = [stretched(to_rgb(image)) for image in images]
        return to_pixels(images, side, facts.mean, facts.std, fit=facts.fit, resample="bicubic")

    @torch.no_grad()
    def image_features(self, images: Sequence[Image.Image]) -> Tensor:
        """Encode pictures: the abstractor's queries (B, 64, width) float32, not yet projected.

        One less than image tokens: the last of those is learned, and looks at no picture.
        """
        return self._abstractor.queries(self._vision(self.preprocess(images).to(self.device)))

    @torch.no_grad()
    def soft_prompt(self, images: Sequence[Image.Image]) -> Tensor:
        """Project encoded pictures and end them: (B, 65, d), in the language model's type."""
        return self._abstractor.project(self.image_features(images)).to(self.dtype)

    def prompt(self, images: Sequence[Image.Image], text: str | None = None) -> Prompt:
        """Build the prompt: template, image tokens, ``text`` (None: the system's own prefix)."""
        text = self.prefix if text is None else text
        behind = self.tokenizer.encode(text, add_special_tokens=False)
        return self.around(self.soft_prompt(images), self.before, behind)


def stretched(image: Image.Image) -> Image.Image:
    """Stretch a picture to the square of its longer side."""
    longer = max(image.size)
    return image.resize((longer, longer), Image.Resampling.BICUBIC)


def build_mplug_owl2(facts: MplugOwl2Facts, model: MplugOwl2ForCausalLM, tokenizer) -> MplugOwl2:
    """Join a model and its tokenizer; the model is frozen and put into evaluation mode in place."""
    return MplugOwl2(facts, model, tokenizer)
