"""Train the miniature of InstructBLIP: a vision tower, a Q-Former, LLaMA frozen behind them.

As with BLIP-2, first pictures and texts learn to find each other, the queries reading the
picture and the Q-Former's other half the text; then the queries, which now read the
instruction too, learn to speak to the frozen language model by captions alone. The vision
tower begins as the tiny CLIP's, as far as its class can hold it; unlike in BLIP-2 it
learns on, gently, in both stages.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import (
    CLIPVisionModel,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from mmn_utils.miniature.captioning import Batches, CaptionIds, Drawn, caption_loss, in_parts
from mmn_utils.miniature.chat import TEMPLATES, command, count_trained, record_training
from mmn_utils.miniature.clip import (
    MAX_WORDS,
    contrastive_loss,
    load_tower,
    make_tokenizer,
    scene_text,
    tokenize,
    tower_shape,
)
from mmn_utils.miniature.llama import last_logits, load_llama
from mmn_utils.miniature.scenes.sets import SceneSet
from mmn_utils.miniature.vision.encoder import PIXEL_MEAN, PIXEL_STD, to_input
from mmn_utils.miniature.world import World
from mmn_utils.models.instructblip import (
    InstructBlip,
    InstructBlipFacts,
    Queries,
    build_instructblip,
    save_instructblip,
)
from mmn_utils.training.loop import Schedule, Summand, fast_autocast, train

FACTS = InstructBlipFacts(
    name="miniature/instructblip", mean=(PIXEL_MEAN,) * 3, std=(PIXEL_STD,) * 3
)
CONTRAST = Schedule(steps=200, rate=1e-3, save_every=50)
SPEAKING = Schedule(steps=1200, rate=1e-3, final=0.02, save_every=100)


@dataclass(frozen=True)
class InstructBlipOptions:
    """Shape of the Q-Former, which is as wide as the vision tower, and training.

    ``contrast_batch`` pairs are told from each other in a step of the first stage, where
    ``tags`` of the texts are loose tags instead of a caption.
    """

    depth: int = 4
    queries: int = 16
    contrast_width: int = 96
    contrast_batch: int = 128
    tags: float = 0.25
    contrast: Schedule = CONTRAST
    batch: int = 32
    part: int = 8  # of the batch, at a time
    speaking: Schedule = SPEAKING
    seed: int = 0


def qformer_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words that knows the instruction beside the world."""
    tokenizer = make_tokenizer(world)
    words = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(FACTS.prefix.lower())
    known = tokenizer.get_vocab()
    missing = dict.fromkeys(word for word, _ in words if word not in known)
    # Between blanks only: otherwise "few" would also be cut out of a longer word.
    tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=True) for word in missing])
    return tokenizer


def configure(
    vision: CLIPVisionModel,
    language: LlamaForCausalLM,
    words: PreTrainedTokenizerFast,
    options: InstructBlipOptions,
) -> InstructBlipConfig:
    """Take the sizes of the parts that the model begins with."""
    clip = vision.config
    # The classes' own is for wider models, or for weights that are loaded: with it what the
    # queries become hardly depends on the picture at first.
    start = {"initializer_range": 0.5 * clip.hidden_size**-0.5}
    tower = InstructBlipVisionConfig(**tower_shape(vision), **start, hidden_act=clip.hidden_act)
    qformer = InstructBlipQFormerConfig(
        **start,
        hidden_size=clip.hidden_size,
        intermediate_size=clip.intermediate_size,
        num_attention_heads=clip.num_attention_heads,
        vocab_size=len(words),
        num_hidden_layers=options.depth,
        max_position_embeddings=MAX_WORDS,
        pad_token_id=words.pad_token_id,
        hidden_dropout_prob=0.0,  # what a step draws must not depend on the steps before it
        attention_probs_dropout_prob=0.0,
    )
    return InstructBlipConfig(
        vision_config=tower,
        qformer_config=qformer,
        text_config=language.config,
        num_query_tokens=options.queries,
    )


_PART = re.compile(r"(encoder\..*self_attn\.)q_proj\.(weight|bias)")


@torch.no_grad()
def tower_weights(vision: CLIPVisionModel, images: np.ndarray) -> dict[str, Tensor]:
    """Rename CLIP's weights; query, key and value become one matrix.

    InstructBLIP's class has no norm before its layers. Its gain, bias and centring are
    folded into the embeddings; what it divides a patch by depends on the patch, and is
    replaced by its mean over ``images`` (N, H, W, 3). The norm after the layers, which in
    CLIP is for CLS alone, stays as the class has it.
    """
    state, embeddings, norm = vision.state_dict(), vision.embeddings, vision.pre_layrnorm
    found = {}
    for name, tensor in state.items():
        if part := _PART.fullmatch(name):
            stem, kind = part.groups()
            three = [state[f"{stem}{one}_proj.{kind}"] for one in "qkv"]
            found[f"{stem}qkv.{kind}"] = torch.cat(three)
        elif name.startswith("encoder.") and not re.search(r"\.[kv]_proj\.", name):
            found[name.replace("out_proj", "projection")] = tensor
    spread = (embeddings(to_input(images)).var(-1, correction=0) + norm.eps).sqrt().mean(0)

    def normed(x: Tensor, spread: Tensor) -> Tensor:
        """Centre (..., D), divide and scale; the norm's bias is added where it belongs."""
        return (x - x.mean(-1, keepdim=True)) / spread * norm.weight

    kernel = embeddings.patch_embedding.weight
    places = normed(embeddings.position_embedding.weight, spread[:, None])
    cls = normed(embeddings.class_embedding, spread[0])
    mean_spread = spread[1:].mean()
    found["embeddings.patch_embedding.weight"] = normed(kernel.flatten(1).T, mean_spread).T.reshape(
        kernel.shape
    )
    found["embeddings.patch_embedding.bias"] = torch.zeros(len(kernel))
    found["embeddings.class_embedding"] = cls[None, None]
    found["embeddings.position_embedding"] = (places + norm.bias)[None]
    return found


def join(
    vision: CLIPVisionModel,
    language: LlamaForCausalLM,
    words: PreTrainedTokenizerFast,
    images: np.ndarray,
    options: InstructBlipOptions,
) -> InstructBlipForConditionalGeneration:
    """Build transformers' InstructBLIP: CLIP's tower, a fresh Q-Former, LLaMA in its place.

    ``images`` (N, H, W, 3) are some pictures, see ``tower_weights``.
    """
    torch.manual_seed(options.seed)
    whole = InstructBlipForConditionalGeneration(configure(vision, language, words, options))
    lost = whole.vision_model.load_state_dict(tower_weights(vision, images), strict=False)
    if lost.unexpected_keys or {name.split(".")[0] for name in lost.missing_keys} != {
        "post_layernorm"
    }:
        raise ValueError(f"CLIP does not fit: {lost.missing_keys + lost.unexpected_keys}")
    whole.language_model = language
    whole.language_projection.reset_parameters()  # of the width of a word's embedding
    nn.init.normal_(whole.query_tokens, std=0.2)  # alike, as the class has them, they stay alike
    for part in (whole.vision_model, whole.qformer):
        part.set_attn_implementation("eager")  # see ``clip``
    return whole.eval()


class Contrast(nn.Module):
    """Brings what the queries read and what a text says into one space, and compares."""

    def __init__(self, width: int, shared: int) -> None:
        super().__init__()
        self.seen, self.said = nn.Linear(width, shared), nn.Linear(width, shared)
        self.scale = nn.Parameter(torch.tensor(np.log(1 / 0.07), dtype=torch.float32))

    def forward(self, queries: Tensor, texts: Tensor) -> Tensor:
        """Return the symmetric loss of pairs: queries (B, n, d), the best counts; texts (B, d)."""
        seen = F.normalize(self.seen(queries), dim=-1)
        said = F.normalize(self.said(texts), dim=-1)
        cosine = torch.einsum("pqe,te->ptq", seen, said).amax(-1)
        return contrastive_loss(cosine * self.scale.exp().clamp(max=100))


class InstructBlipTrainer:
    """Trains everything before the language model, first by contrast, then by captions."""

    def __init__(
        self,
        whole: InstructBlipForConditionalGeneration,
        tokenizer,
        words: PreTrainedTokenizerFast,
        scenes: SceneSet,
        world: World,
        options: InstructBlipOptions,
    ) -> None:
        self.options, self.scenes, self.world, self.words = options, scenes, world, words
        self.language, self.projection = whole.language_model, whole.language_projection
        self.queries = Queries(whole)
        self.instruction = torch.tensor(words(FACTS.prefix)["input_ids"])
        self.around = TEMPLATES["instructblip"].ids(tokenizer)
        captions = CaptionIds(scenes, world, tokenizer).ids
        self.batches = Batches(captions, options.batch, (options.seed, 1))
        torch.manual_seed(options.seed + 1)
        self.contrast = Contrast(whole.config.qformer_config.hidden_size, options.contrast_width)

    def contrast_loss(self, step: int) -> Tensor:
        """Return the loss of the first stage: which text belongs to which picture."""
        options = self.options
        rng = np.random.default_rng((options.seed, 0, step))
        rows = np.sort(rng.choice(len(self.scenes), options.contrast_batch, replace=False))
        texts = [scene_text(self.scenes, row, self.world, options.tags, rng) for row in rows]
        pixels, text = to_input(self.scenes.images[rows]), tokenize(self.words, texts)
        with fast_autocast():
            seen = self.queries.vision_model(pixel_values=pixels).last_hidden_state
            read = self.queries.qformer(
                input_ids=None,
                query_embeds=self.queries.query_tokens.expand(len(seen), -1, -1),
                encoder_hidden_states=seen,
            )
            said = self.queries.qformer(**text).last_hidden_state[:, 0]
        return self.contrast(read.last_hidden_state.float(), said.float())

    def speaking_losses(self, step: int) -> list[Summand]:
        """Return the summands of the second stage's loss: captions behind the queries."""
        return in_parts(self.batches.at(step), self.options.part, self._speaking_loss)

    def _speaking_loss(self, drawn: Drawn) -> Tensor:
        with fast_autocast():
            read = self.queries(to_input(self.scenes.images[drawn.rows]), self.instruction)
            soft = self.projection(read)
        return caption_loss(
            partial(last_logits, self.language), self.language.model.embed_tokens, self.around,
            soft, drawn.labels,
        )  # fmt: skip

    def run(self, work: Path) -> None:
        """Train both stages."""
        options, tower = self.options, list(self.queries.vision_model.parameters())
        known = {id(parameter) for parameter in tower}
        reader = [p for p in self.queries.parameters() if id(p) not in known]
        self.language.requires_grad_(False)
        train(
            "instructblip_contrast",
            [*reader, *self.contrast.parameters()],
            self.contrast_loss,
            options.contrast,
            work,
            options.contrast_batch,
            gently=tower,
        )
        train(
            "instructblip_speaking",
            [*reader, *self.projection.parameters()],
            self.speaking_losses,
            options.speaking,
            work,
            options.batch,
            gently=tower,
        )


def make_instructblip(
    scenes: SceneSet, world: World, data: Path, work: Path, options: InstructBlipOptions
) -> InstructBlip:
    """Train from the parts in ``data`` (or go on), save beside them, return the system."""
    language, tokenizer = load_llama(data / "llama")
    words = qformer_tokenizer(world)
    vision = load_tower(data / "clip")
    whole = join(vision, language, words, scenes.images[:256], options)
    InstructBlipTrainer(whole, tokenizer, words, scenes, world, options).run(work)
    trained_parameters = count_trained(whole)
    system = build_instructblip(FACTS, whole, tokenizer, words)
    save_instructblip(system, data / "instructblip", language_model="../llama")
    record_training(data / "instructblip", options, trained_parameters)
    return system


def main() -> None:
    """Train the miniature of InstructBLIP, or go on training it, and measure it."""
    command("instructblip", make_instructblip, InstructBlipOptions(), main.__doc__)


if __name__ == "__main__":
    main()
