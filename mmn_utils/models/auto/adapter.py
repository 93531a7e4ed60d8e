"""The adapter: a model of transformers behind its own processor."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor

from mmn_utils.models.architectures import Architecture
from mmn_utils.models.auto.flow import Flow, flow
from mmn_utils.models.auto.inputs import Reader, pixels_of, tower_states
from mmn_utils.models.auto.language_part import GivenPrompt, LanguagePart
from mmn_utils.models.auto.sums import accepted
from mmn_utils.models.base import ImageTokens, Prompt, VisionLanguageModel, state_hash


class AutoVisionLanguageModel(VisionLanguageModel):
    """A model of transformers behind its own processor; see the module's text."""

    placeless = "are no single grid over the picture (several views, or queries)"
    without_grid = "use scores without patches, or give grid=(rows, columns) where you know better"

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
        if facts.end is not None and facts.end not in tokenizer.get_vocab():
            raise ValueError(f"end = {facts.end!r} is no token of the tokenizer")
        after = ids[image_tokens.start + image_tokens.count :]
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        super().__init__(
            name,
            part,
            tokenizer,
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
        facts = repr(facts).encode()
        weights = self._of_files() or state_hash(*self.modules())
        return f"{weights}-{hashlib.sha256(facts).hexdigest()[:8]}"

    @property
    def end_tokens(self) -> frozenset[int]:
        """The ids that end a caption, with the one that the facts name."""
        more = self.reader.facts.end
        own = super().end_tokens
        return own if more is None else own | {self.tokenizer.get_vocab()[more]}

    @property
    def no_grid(self) -> str | None:
        """Why there are no patches: also where the picture is no part of the prompt."""
        if self.language_model.paths.crossing:
            return f"the picture enters {self.name} by cross-attention, not as tokens of the prompt"
        return super().no_grid

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """Turn pictures of any mode into the processor's pixels, as this model takes them."""
        return pixels_of(self.reader(images))

    @torch.no_grad()
    def image_features(self, images: Sequence[Image.Image]) -> Tensor:
        """Encode pictures: (B, tokens of the vision tower, its width), before any merging."""
        hidden = tower_states(self.language_model.whole, self._inputs(images))
        if hidden is None:
            kind = type(self.language_model.whole).__name__
            raise ValueError(f"{kind} does not give what its vision tower alone says of a picture")
        return hidden.reshape(len(images), -1, hidden.shape[-1])

    @torch.no_grad()
    def soft_prompt(self, images: Sequence[Image.Image]) -> Tensor:
        """Project encoded pictures into the language model's input space: (B, patches, d)."""
        return self._flow(images).embeds[:, self.image_tokens.places].to(self.dtype)

    @torch.no_grad()
    def prompt(self, images: Sequence[Image.Image], text: str | None = None) -> Prompt:
        """Build the prompt: the template up to the picture, its tokens, then ``text``.

        ``text`` None, or the system's own prefix, is the template's rest token by token.
        """
        given = self._flow(images)
        end, kinds = self.image_tokens.start + self.image_tokens.count, self.language_model.extras
        embeds = given.embeds.to(self.dtype)
        if text not in (None, self.prefix):
            ids = torch.tensor([self.tokenizer.encode(text, add_special_tokens=False)]).long()
            words = self.embed(ids).expand(len(embeds), -1, -1)
            embeds = torch.cat([embeds[:, :end], words], dim=1)
        extras = {name: kind.by_row(given.others[name], end) for name, kind in kinds.items()}
        whole = Prompt.of(embeds)
        parts = whole.embeds, whole.mask, whole.positions, extras
        return GivenPrompt(*parts, given=embeds.shape[1])

    def forward(self, prompt: Prompt, *args, **kwargs) -> tuple[Tensor, object | None]:
        """Run the model's own forward; see ``VisionLanguageModel.forward``."""
        given = getattr(prompt, "given", self.language_model.given)
        mask = prompt.mask.clone()
        mask[:, :given] *= 2  # the mark that LanguagePart reads
        return super().forward(replace(prompt, mask=mask), *args, **kwargs)

    def _flow(self, images: Sequence[Image.Image]) -> Flow:
        """Run the own forward up to the decoder."""
        part = self.language_model
        return flow(part.whole, part.paths.layers, self._inputs(images))

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


def placed(inputs: Mapping[str, Tensor], device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Move inputs to a device, and floating point ones to a type."""
    return {
        name: value.to(device, dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }
