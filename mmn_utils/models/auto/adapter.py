"""The adapter: a model of transformers behind its own processor."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor

from mmn_utils.models.architectures import Architecture
from mmn_utils.models.auto.inputs import Reader, token_rows
from mmn_utils.models.auto.language_part import GivenPrompt, LanguagePart
from mmn_utils.models.auto.sums import accepted
from mmn_utils.models.base import ImageTokens, Prompt, VisionLanguageModel, state_hash


class AutoVisionLanguageModel(VisionLanguageModel):
    """A model of transformers behind its own processor; see the module's text."""

    def __init__(
        self,
        name: str,
        part: LanguagePart,
        reader: Reader,
        architecture: Architecture,
        image_tokens: ImageTokens,
        ids: Sequence[int],
    ) -> None:
        facts, tokenizer = reader.facts, reader.tokenizer
        after = ids[image_tokens.start + image_tokens.count :]
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        super().__init__(
            name,
            part,
            _with_end(tokenizer, facts.end),
            replace(
                architecture,
                layers=f"whole.{architecture.layers}",
                norm=f"whole.{architecture.norm}",
                unembed=f"whole.{architecture.unembed}",
            ),
            image_tokens,
            prefix=tokenizer.decode(after, **options) if after else "",
            vocabulary=facts.vocabulary,
            revision=facts.revision,
        )
        self.reader, self.ids = reader, tuple(ids)
        self.before, self.after = ids[: image_tokens.start], after

    @cached_property
    def revision(self) -> str:
        """Hash of the weights, and of the facts that change what the model is given."""
        facts = (self.ids, self.reader.pixels, sorted(self.reader.options.items()))
        facts = repr((*facts, self.reader.facts.fold_norms)).encode()
        weights = self._revision or state_hash(*self.modules())
        return f"{weights}-{hashlib.sha256(facts).hexdigest()[:8]}"

    def require_grid(self) -> tuple[int, int]:
        """Return (rows, columns) of the patches, or explain why there are none."""
        if self.image_tokens.grid is None:
            raise ValueError(
                f"the {self.image_tokens.count} image tokens of {self.name} are no single grid "
                "over the picture (several views, row ends or queries), so there is no heat map; "
                "use scores without patches, or give grid=(rows, columns) where you know better"
            )
        return self.image_tokens.grid

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """Turn pictures of any mode into the processor's pixels, as this model takes them."""
        return self.reader(images)["pixel_values"]

    @torch.no_grad()
    def image_features(self, images: Sequence[Image.Image]) -> Tensor:
        """Encode pictures: (B, tokens of the vision tower, its width), before any merging."""
        hidden = self._features(self._inputs(images)).last_hidden_state
        return hidden.reshape(len(images), -1, hidden.shape[-1])

    @torch.no_grad()
    def soft_prompt(self, images: Sequence[Image.Image]) -> Tensor:
        """Project encoded pictures into the language model's input space: (B, count, d)."""
        tokens = token_rows(self._features(self._inputs(images)))
        shape = (len(images), self.image_tokens.count, self.sizes.width)
        if tokens.numel() != math.prod(shape):
            raise ValueError(f"{tuple(tokens.shape)} features for image tokens of {shape}")
        return tokens.reshape(shape).to(self.dtype)

    def prompt(self, images: Sequence[Image.Image], text: str | None = None) -> Prompt:
        """Build the prompt: the template up to the picture, its tokens, then ``text``.

        ``text`` None, or the system's own prefix, is the template's rest token by token.
        """
        soft, after = self.soft_prompt(images), self.after
        if text not in (None, self.prefix):
            after = self.tokenizer.encode(text, add_special_tokens=False)
        whole = self.around(soft, self.before, after)
        return GivenPrompt(whole.embeds, whole.mask, whole.positions, whole.embeds.shape[1])

    def forward(self, prompt: Prompt, *args, **kwargs) -> tuple[Tensor, object | None]:
        """Run the model's own forward; see ``VisionLanguageModel.forward``."""
        given = getattr(prompt, "given", self.language_model.given)
        mask = prompt.mask.clone()
        mask[:, :given] *= 2  # the mark that LanguagePart reads
        marked = Prompt(prompt.embeds, mask, prompt.positions)
        return super().forward(marked, *args, **kwargs)

    # --- the model's own way, to compare with ---

    @torch.no_grad()
    def own_logits(self, images: Sequence[Image.Image]) -> Tensor:
        """Run the model's own forward on ids and pixels: logits (B, T, V) of the whole prompt."""
        whole = self.language_model.whole
        logits = whole(**accepted(whole.forward, self._inputs(images))).logits
        return logits[..., : self.sizes.vocabulary]

    @torch.no_grad()
    def own_continuation(
        self, images: Sequence[Image.Image], steps: int = 2
    ) -> tuple[Tensor, Tensor]:
        """Let the model's own ``generate`` go on greedily: ids (B, steps), logits (B, steps, V)."""
        whole = self.language_model.whole
        out = whole.generate(
            **accepted(whole.forward, self._inputs(images)),
            max_new_tokens=steps,
            min_new_tokens=steps,
            do_sample=False,
            num_beams=1,
            output_logits=True,
            return_dict_in_generate=True,
        )
        logits = torch.stack(out.logits, dim=1)[..., : self.sizes.vocabulary]
        return out.sequences[:, -steps:], logits

    def _inputs(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        return placed(self.reader(images), self.device, self.dtype)

    def _features(self, inputs: Mapping[str, Tensor]):
        features = self.language_model.whole.get_image_features
        return features(**accepted(features, inputs))


def placed(inputs: Mapping[str, Tensor], device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Move inputs to a device, and floating point ones to a type."""
    return {
        name: value.to(device, dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }


def _with_end(tokenizer, end: str | None):
    """Let a copy of the tokenizer end its texts with the token ``end``."""
    if end is None:
        return tokenizer
    if end not in tokenizer.get_vocab():
        raise ValueError(f"end = {end!r} is no token of the tokenizer")
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.eos_token = end
    return tokenizer
