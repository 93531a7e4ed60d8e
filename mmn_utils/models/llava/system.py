"""The system: its texts, CLIP's features through the projector, and the prompt around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPVisionModel, LlamaForCausalLM, LlavaConfig

from mmn_utils.models.architectures import LLAMA
from mmn_utils.models.base import ImageTokens, LateHash, Prompt
from mmn_utils.models.joined import JoinedModel, beginning
from mmn_utils.models.pixels import CLIP_MEAN, CLIP_STD

QUESTION = "Describe the image in few words."
OPENING = "An image of"
_SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)
TEMPLATES = {  # text before the picture, text behind it
    "llama_2": (
        f"[INST] <<SYS>>\n{_SYSTEM}\n<</SYS>>\n\n",
        "\n{question} [/INST]{opening}",
    ),
    "vicuna": ("USER: ", "\n{question} ASSISTANT: {opening}"),
}
_IMAGE = "<image>"  # the placeholder, where a tokenizer has one


def wording(template: str, question: str = QUESTION, opening: str = OPENING) -> tuple[str, str]:
    """Return the texts before and behind the picture in one of ``TEMPLATES``."""
    if template not in TEMPLATES:
        raise ValueError(f"template = {template!r}: choose from {', '.join(TEMPLATES)}")
    before, behind = TEMPLATES[template]
    return before, behind.format(question=question, opening=opening).rstrip(" ")


def texts_of(template: str) -> dict[str, str]:
    """Return the facts that one of ``TEMPLATES`` fixes."""
    return dict(zip(("before", "prefix"), wording(template), strict=True))


@dataclass(frozen=True)
class LlavaFacts:
    """What is fixed about one system of this kind.

    ``before`` is the text in front of the picture, behind the token for the beginning of
    text if ``bos``; ``fit`` and ``resample`` as ``pixels.to_square``; ``vision_layer``
    indexes CLIP's hidden states. ``vocabulary`` None for all rows of the unembedding,
    ``revision`` None to hash the tensors instead of files.
    """

    name: str = "llava"
    before: str = TEMPLATES["vicuna"][0]
    prefix: str = wording("vicuna")[1]
    bos: bool = True
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    fit: str = "crop"
    resample: str = "bicubic"
    vision_layer: int = -2
    vocabulary: int | None = None
    revision: str | LateHash | None = None


class Llava(JoinedModel):
    """Text, CLIP's patches through a projector, text, into LLaMA."""

    def __init__(
        self,
        facts: LlavaFacts,
        vision: CLIPVisionModel,
        projector: nn.Module,
        language_model: LlamaForCausalLM,
        tokenizer,
        config: LlavaConfig | None = None,
    ) -> None:
        side = vision.config.image_size
        rows = side // vision.config.patch_size
        before, _ = _around(facts, tokenizer, facts.prefix)
        tokens = ImageTokens(len(before), rows * rows, (rows, rows), side)
        super().__init__(facts, language_model, tokenizer, LLAMA, tokens)
        _check_fit(projector, vision.config.hidden_size, self.sizes.width)
        self.config = config
        self.vision, self.projector = self.beside(vision), self.beside(projector)

    def modules(self) -> tuple[nn.Module, ...]:
        """Language model, CLIP, projector."""
        return (self.language_model, self.vision, self.projector)

    @torch.no_grad()
    def image_features(self, images: Sequence[Image.Image]) -> Tensor:
        """Encode pictures: (B, patches, CLIP's width) float32, CLS dropped."""
        pixels = self.preprocess(images).to(self.device)
        states = self.vision(pixel_values=pixels, output_hidden_states=True).hidden_states
        return states[self.facts.vision_layer][:, 1:]

    @torch.no_grad()
    def soft_prompt(self, images: Sequence[Image.Image]) -> Tensor:
        """Project encoded pictures: (B, patches, d), in the language model's type."""
        return self.projector(self.image_features(images)).to(self.dtype)

    def prompt(self, images: Sequence[Image.Image], text: str | None = None) -> Prompt:
        """Build the prompt: text, image tokens, then ``text`` (None: the system's prefix)."""
        text = self.prefix if text is None else text
        ids = _around(self.facts, self.tokenizer, text)
        return self.around(self.soft_prompt(images), *ids)


def _around(facts: LlavaFacts, tokenizer, text: str) -> tuple[list[int], list[int]]:
    """Encode what stands before the picture, and ``text`` behind it.

    In one piece where the tokenizer has a placeholder for pictures, as transformers'
    processor does, otherwise each on its own, as the authors' code does. Tokenizers
    of the sentencepiece family may differ in a blank between the two.
    """
    start = beginning(facts, tokenizer)
    placeholder = tokenizer.get_added_vocab().get(_IMAGE)
    if placeholder is None:
        before, behind = (
            tokenizer.encode(part, add_special_tokens=False) for part in (facts.before, text)
        )
        return start + before, behind
    ids = tokenizer.encode(f"{facts.before}{_IMAGE}{text}", add_special_tokens=False)
    if ids.count(placeholder) != 1:
        raise ValueError(f"the text {text!r} holds {_IMAGE}; the picture's place is fixed")
    place = ids.index(placeholder)
    return start + ids[:place], ids[place + 1 :]


def _check_fit(projector: nn.Module, features: int, width: int) -> None:
    linears = [part for part in projector.modules() if isinstance(part, nn.Linear)]
    found = (linears[0].in_features, linears[-1].out_features) if linears else None
    if found != (features, width):
        raise ValueError(
            f"a projector from and to {found} does not fit these parts; give one from {features} "
            f"to {width}"
        )
