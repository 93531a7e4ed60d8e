"""Train the miniature of LLaVA: the tiny CLIP's patches through a projector into LLaMA.

As in LLaVA, first the projector alone learns to speak to the frozen language model, then
both learn together, and CLIP stays frozen throughout. In the second stage text is mixed
with the pictures, so that the language model keeps what it knew. CLIP's features are
computed once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import (
    CLIPVisionModel,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from mmn_utils.miniature.captioning import Batches, CaptionIds, Drawn, caption_loss, in_parts
from mmn_utils.miniature.chat import TEMPLATES, ChatRows, command, count_trained, record_training
from mmn_utils.miniature.clip import load_tower, patch_states
from mmn_utils.miniature.language import text_losses
from mmn_utils.miniature.llama import LlamaOptions, last_logits, load_llama, next_logits
from mmn_utils.miniature.scenes.sets import SceneSet
from mmn_utils.miniature.vision.encoder import PIXEL_MEAN, PIXEL_STD
from mmn_utils.miniature.world import World
from mmn_utils.models.llava.system import Llava, LlavaFacts
from mmn_utils.models.llava.whole import build_llava, save_llava
from mmn_utils.training.features import FeatureStore, fold, statistics
from mmn_utils.training.loop import Schedule, Summand, fast_autocast, train

FACTS = LlavaFacts(name="miniature/llava", mean=(PIXEL_MEAN,) * 3, std=(PIXEL_STD,) * 3)
ALIGNMENT = Schedule(steps=300, rate=2e-3, save_every=100)
TUNING = Schedule(steps=500, rate=4e-4, final=0.02, save_every=50)
TEXT = LlamaOptions(batch=4)


@dataclass(frozen=True)
class LlavaOptions:
    """Training; ``text`` says what the text rows of the second stage are like."""

    batch: int = 32
    part: int = 8  # of the batch, at a time
    alignment: Schedule = ALIGNMENT
    tuning: Schedule = TUNING
    text: LlamaOptions = TEXT
    text_weight: float = 0.5
    seed: int = 0


def join(
    vision: CLIPVisionModel, language: LlamaForCausalLM, seed: int = 0
) -> LlavaForConditionalGeneration:
    """Join CLIP, a fresh projector and LLaMA into transformers' LLaVA."""
    torch.manual_seed(seed)
    config = LlavaConfig(
        vision_config=vision.config,
        text_config=language.config,
        image_seq_length=(vision.config.image_size // vision.config.patch_size) ** 2,
    )
    whole = LlavaForConditionalGeneration(config)
    whole.model.vision_tower = vision
    whole.model.language_model, whole.lm_head = language.model, language.lm_head
    projector = whole.model.multi_modal_projector
    for linear in (projector.linear_1, projector.linear_2):
        linear.reset_parameters()  # of the width of a word's embedding from the start
    return whole.eval().requires_grad_(False)


class LlavaTrainer:
    """Trains the projector of a LLaVA, then the projector and the language model."""

    def __init__(
        self,
        whole: LlavaForConditionalGeneration,
        language: LlamaForCausalLM,
        tokenizer,
        store: FeatureStore,
        captions: np.ndarray,
        world: World,
        options: LlavaOptions,
    ) -> None:
        self.options, self.store, self.captions = options, store, captions
        self.language, self.projector = language, whole.model.multi_modal_projector
        self.around = TEMPLATES["llava"].ids(tokenizer)
        self.rows = ChatRows(world, tokenizer, options.text, options.seed + 3)

    def picture_losses(self, number: int, step: int) -> list[Summand]:
        """Return the summands of captions' loss in a step of a stage, which is counted from 0."""
        drawn = Batches(self.captions, self.options.batch, (self.options.seed, number)).at(step)
        return in_parts(drawn, self.options.part, self._picture_loss)

    def _picture_loss(self, drawn: Drawn) -> Tensor:
        with fast_autocast():
            soft = self.projector(self.store.batch(drawn.rows))
        embed = self.language.model.embed_tokens
        return caption_loss(
            partial(last_logits, self.language), embed, self.around, soft, drawn.labels
        )

    def tuning_losses(self, step: int) -> list[Summand]:
        """Return the summands of the second stage's loss: pictures, and text as it was known."""
        text = text_losses(partial(next_logits, self.language), self.rows, step)
        return [*self.picture_losses(1, step), *(partial(self._weighted, loss) for loss in text)]

    def _weighted(self, text_loss: Summand) -> Tensor:
        return self.options.text_weight * text_loss()

    def run(self, work: Path) -> None:
        """Train both stages; the projector then takes CLIP's features as they are."""
        options = self.options
        stages = (
            ("alignment", self.projector, partial(self.picture_losses, 0), options.alignment),
            ("tuning", self.language, self.tuning_losses, options.tuning),
        )
        parameters = []
        for stage, learns, loss_at, schedule in stages:
            parameters += learns.requires_grad_(True).parameters()
            train(f"llava_{stage}", parameters, loss_at, schedule, work, options.batch)
        first = self.projector.linear_1
        first.load_state_dict(fold(first, self.store))


def make_llava(
    scenes: SceneSet, world: World, data: Path, work: Path, options: LlavaOptions
) -> Llava:
    """Train from the parts in ``data`` (or go on), save beside them, return the system."""
    language, tokenizer = load_llama(data / "llama")
    vision = load_tower(data / "clip")
    whole = join(vision, language, options.seed)
    states = patch_states(vision, scenes.images, whole.config.vision_feature_layer)
    store = statistics(states.numpy())
    captions = CaptionIds(scenes, world, tokenizer).ids
    LlavaTrainer(whole, language, tokenizer, store, captions, world, options).run(work)
    trained_parameters = count_trained(whole)
    system = build_llava(FACTS, whole, tokenizer)
    save_llava(system, data / "llava")
    record_training(data / "llava", options, trained_parameters)
    return system


def main() -> None:
    """Train the miniature of LLaVA, or go on training it, and measure it."""
    command("llava", make_llava, LlavaOptions(), main.__doc__)


if __name__ == "__main__":
    main()
