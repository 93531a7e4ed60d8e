"""The miniature's CLIP: tells how well a text fits a picture, and sees for paper B's systems.

transformers' ``CLIPModel``, small. Its tower first learns to see (``distillation``);
then the whole is trained contrastively on the training scenes and what can be said of
them: their captions and, as on the web, loose tags. It has seen neither the held-out
scenes nor any output of the models that it judges.

Run ``python -m mmn_utils.miniature.clip``; it picks up where it stopped.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
)

from mmn_utils.miniature.distillation import DistillationOptions, distil
from mmn_utils.miniature.phrases import FORMS
from mmn_utils.miniature.projection import kept_features
from mmn_utils.miniature.scenes import PROBE_SEED, SCENES, SIZE, VAL_SEED
from mmn_utils.miniature.scenes.sets import SceneSet, rendered_scenes
from mmn_utils.miniature.vision.encoder import PIXEL_MEAN, PIXEL_STD, load_encoder, to_input
from mmn_utils.miniature.vision.probe import probe_features
from mmn_utils.miniature.world import WORK, WORLD_FILE, World, load_world
from mmn_utils.training.features import FeatureStore
from mmn_utils.training.loop import Schedule, fast_autocast, keep_freed_memory, train

SPECIAL = ("<pad>", "<start>", "<unk>", "<end>")
MAX_WORDS = 40
# Words beside the captions' own: articles, the prompt and punctuation.
COMMON_WORDS = (
    *("a", "an", "some", "one", "the", "and", "on", "with", "of", "in"),
    *("picture", "photo", "image", ",", "."),
)


SCHEDULE = Schedule(steps=300, rate=1e-3, warmup=30, final=0.01, weight_decay=0.1, save_every=50)
SEEING = DistillationOptions()


@dataclass(frozen=True)
class ClipRecipe:
    """Everything that decides the weights."""

    scenes: int = SCENES
    batch: int = 192
    seeing: DistillationOptions = SEEING
    schedule: Schedule = SCHEDULE
    kept: float = 5.0  # weight of the first stage's loss in the second, lest patches forget
    tags: float = 0.25  # share of texts that are loose tags instead of a caption
    vision_width: int = 128
    vision_depth: int = 4
    patch: int = 16
    text_width: int = 96
    text_depth: int = 2
    embed: int = 96
    seed: int = 0


#: the control: no encoder behind it, as many pairs
PAIRS_ALONE = ClipRecipe(schedule=replace(SCHEDULE, rate=1.5e-3))


def vocabulary(world: World) -> list[str]:
    """Return every word that is said of the world, special tokens first."""
    words = list(COMMON_WORDS)
    for form in (form for forms in FORMS.values() for form in forms):
        words += re.findall(r"[a-z]+", re.sub(r"{\w+}", "", form))
    for concept in world.concepts:
        words += [concept.name, concept.plural, concept.supercategory, *concept.words]
        words += [word for phrase in concept.evidence for word in phrase.split()]
    for ground in world.backgrounds:
        words += [ground.name, *(word for phrase in ground.phrases for word in phrase.split())]
    return [*SPECIAL, *dict.fromkeys(words)]


def make_tokenizer(world: World) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words, in lower case, with a start and an end."""
    ids = {word: i for i, word in enumerate(vocabulary(world))}
    pad, start, unknown, end = SPECIAL
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, ids[start]), (end, ids[end])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_WORDS,
        pad_token=pad,
        bos_token=start,
        unk_token=unknown,
        eos_token=end,
    )


def make_processor(world: World) -> CLIPProcessor:
    """Return the tokenizer and the image processor as one."""
    pictures = CLIPImageProcessor(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )
    return CLIPProcessor(image_processor=pictures, tokenizer=make_tokenizer(world))


def build_clip(recipe: ClipRecipe, tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    """Return a freshly initialised CLIP for a tokenizer."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": recipe.text_width,
        "intermediate_size": 4 * recipe.text_width,
        "num_hidden_layers": recipe.text_depth,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_WORDS,
        "projection_dim": recipe.embed,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    vision = {
        "hidden_size": recipe.vision_width,
        "intermediate_size": 4 * recipe.vision_width,
        "num_hidden_layers": recipe.vision_depth,
        "num_attention_heads": 4,
        "image_size": SIZE,
        "patch_size": recipe.patch,
        "projection_dim": recipe.embed,
    }
    torch.manual_seed(recipe.seed)
    return CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=recipe.embed)
    )


# --- texts ------------------------------------------------------------------


def tag_text(names: Sequence[str], ground: str, world: World, rng: np.random.Generator) -> str:
    """Return loose tags of a scene: words and phrases of its concepts and background."""
    tags = [ground, *rng.choice(next(b for b in world.backgrounds if b.name == ground).phrases, 1)]
    for name in names:
        concept = world.by_name[name]
        tags += [name if rng.random() < 0.5 else concept.plural]
        tags += list(rng.choice(concept.words, 2, replace=False))
        tags += list(rng.choice(concept.evidence, 2, replace=False))
    count = int(rng.integers(2, len(tags) + 1))
    return " ".join(rng.permutation(tags)[:count])


def scene_text(
    scenes: SceneSet, row: int, world: World, tags: float, rng: np.random.Generator
) -> str:
    """Return something that can be said of one scene."""
    if rng.random() < tags:
        names = [world.names[c] for c in scenes.concepts[row] if c >= 0]
        return tag_text(names, world.backgrounds[scenes.backgrounds[row]].name, world, rng)
    text = str(rng.choice(scenes.captions(row, world)))
    return f"a picture of {text}" if rng.random() < 0.5 else text


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> dict[str, Tensor]:
    """Return ``input_ids`` and ``attention_mask`` (B, T)."""
    # The tokenizer's inner part at once: its own call takes half as long as a training step.
    rows = [row.ids[:MAX_WORDS] for row in tokenizer.backend_tokenizer.encode_batch(list(texts))]
    ids = torch.full((len(rows), max(map(len, rows))), tokenizer.pad_token_id)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return {"input_ids": ids, "attention_mask": (ids != tokenizer.pad_token_id).long()}


# --- training ---------------------------------------------------------------


@torch.no_grad()
def limit_scale(model: CLIPModel) -> None:
    """Keep the logits' scale at 100 at most, as CLIP's training does."""
    model.logit_scale.clamp_(max=float(np.log(100)))


def contrastive_loss(logits: Tensor) -> Tensor:
    """Return the symmetric contrastive loss of a batch's pictures (rows) and texts (B, B)."""
    truth = torch.arange(len(logits))
    return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2


def train_clip(
    recipe: ClipRecipe,
    world: World,
    scenes: SceneSet,
    store: FeatureStore | None,
    work: Path,
    name: str = "clip",
) -> CLIPModel:
    """Train a CLIP from nothing, or from the last checkpoint of its name in ``work``.

    ``store`` holds the encoder's features of the scenes, which the tower learns first;
    without it, it learns from pairs alone.
    """
    tokenizer = make_tokenizer(world)
    model = build_clip(recipe, tokenizer)
    # On a CPU the fused attention's backward pass takes longer than all else together.
    model.set_attn_implementation("eager")
    whole, taught = model, None
    if store is not None:
        taught = distil(model.vision_model, store, scenes.images, recipe.seeing, work)
        whole = torch.nn.ModuleList([model, taught.heads])

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng([recipe.seed, 4, step])
        rows = np.sort(rng.choice(len(scenes), recipe.batch, replace=False))
        texts = [scene_text(scenes, row, world, recipe.tags, rng) for row in rows]
        pixels, text = to_input(scenes.images[rows]), tokenize(tokenizer, texts)
        limit_scale(model)
        with fast_autocast():
            out = model(pixel_values=pixels, **text, output_hidden_states=True)
        loss = contrastive_loss(out.logits_per_image.float())
        if taught is None:
            return loss
        kept = taught.error(out.vision_model_output.hidden_states, store.batch(rows))
        return loss + recipe.kept * kept

    parameters = list(whole.parameters())
    train(name, parameters, loss_at, recipe.schedule, work, recipe.batch, state=whole)
    limit_scale(model)
    return model.eval()


# --- what it is worth -------------------------------------------------------


@torch.no_grad()
def similarities(model: CLIPModel, pixels: Tensor, text: dict[str, Tensor]) -> Tensor:
    """Return the cosine of every picture with every text, (pictures, texts)."""
    out = model(pixel_values=pixels, **text)
    return out.image_embeds.float() @ out.text_embeds.float().T


def retrieval(
    model: CLIPModel, scenes: SceneSet, world: World, batch: int = 100, seed: int = 0
) -> dict[str, float]:
    """Return how often the best text of ``batch`` is the picture's own, and the reverse.

    An equal text counts as its own. ``own`` and ``other`` are mean cosines of
    pictures with their own text and with the others.
    """
    tokenizer, rng, rows = make_tokenizer(world), np.random.default_rng([seed, 5]), []
    for start in range(0, len(scenes) - batch + 1, batch):
        span = range(start, start + batch)
        texts = np.array([scene_text(scenes, i, world, 0.0, rng) for i in span])
        cosine = similarities(
            model, to_input(scenes.images[start : start + batch]), tokenize(tokenizer, texts)
        ).numpy()
        own = np.eye(batch, dtype=bool)
        to_text = texts[cosine.argmax(1)] == texts
        to_image = texts[cosine.argmax(0)] == texts
        rows.append([to_text.mean(), to_image.mean(), cosine[own].mean(), cosine[~own].mean()])
    names = ("image_to_text", "text_to_image", "own", "other")
    return dict(zip(names, np.mean(rows, 0).round(4).tolist(), strict=True))


def tower_table(
    towers: Mapping[str, CLIPVisionModel], scenes: SceneSet, layer: int = -2
) -> pd.DataFrame:
    """Probe a layer of towers, the one that LLaVA reads, as encoders are probed.

    Columns: tower, patch, object: how often a linear map names the concept.
    """
    return pd.DataFrame(
        {"tower": name, **probe_features(patch_states(tower, scenes.images, layer).float(), scenes)}
        for name, tower in towers.items()
    )


@torch.no_grad()
def patch_states(
    tower: CLIPVisionModel, images: np.ndarray, layer: int, batch: int = 128
) -> Tensor:
    """Return a layer's states (N, P, D), float16, of the patches of pictures (N, H, W, 3)."""
    parts = []
    for start in range(0, len(images), batch):
        pixels = to_input(images[start : start + batch])
        with fast_autocast():
            states = tower(pixel_values=pixels, output_hidden_states=True).hidden_states
        parts.append(states[layer][:, 1:].half())
    return torch.cat(parts)


def save_clip(model: CLIPModel, world: World, folder: Path) -> None:
    """Save the model in half precision, with its processor."""
    half = CLIPModel(model.config)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(folder)
    make_processor(world).save_pretrained(folder)


def load_tower(folder: Path) -> CLIPVisionModel:
    """Load the vision tower of a saved CLIP, float32."""
    return CLIPModel.from_pretrained(folder, dtype=torch.float32).vision_model


def tower_shape(vision: CLIPVisionModel) -> dict[str, int | float]:
    """Return the sizes of a vision tower, for the configuration of one that begins as it."""
    names = (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "image_size", "patch_size", "layer_norm_eps",
    )  # fmt: skip
    return {name: getattr(vision.config, name) for name in names}


def probe_controls(
    model: CLIPModel,
    recipe: ClipRecipe,
    world: World,
    scenes: SceneSet,
    store: FeatureStore,
    probed: SceneSet,
    work: Path,
) -> pd.DataFrame:
    """Train a tower from pairs alone, and probe it beside that of ``model`` before and after."""
    seeing = build_clip(recipe, make_tokenizer(world)).vision_model
    distil(seeing, store, scenes.images, recipe.seeing, work)  # done before, so only loaded
    control = train_clip(PAIRS_ALONE, world, scenes, None, work, "clip_pairs_alone")
    towers = {
        "pairs alone": control.vision_model,
        "pictures alone": seeing,
        "pictures, then pairs": model.vision_model,
    }
    return tower_table(towers, probed).round(4)


def main() -> None:
    """Train the CLIP, or go on training it, and save it with its quality."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--world", type=Path, default=WORLD_FILE)
    parser.add_argument("--out", type=Path, default=WORLD_FILE.parent / "clip")
    parser.add_argument("--encoder", type=Path, default=WORLD_FILE.parent / "vision.safetensors")
    parser.add_argument("--cache", type=Path, default=WORK)
    parser.add_argument("--font", type=Path, help="NotoColorEmoji.ttf, if not in a usual place")
    parser.add_argument("--towers", action="store_true", help="train and probe its controls too")
    options = parser.parse_args()
    keep_freed_memory()
    world, recipe = load_world(options.world), ClipRecipe()
    pictures = partial(rendered_scenes, options.cache, world, font=options.font)
    scenes = pictures(recipe.scenes)
    store = kept_features(load_encoder(options.encoder), scenes.images, options.cache)
    model = train_clip(recipe, world, scenes, store, options.cache)
    save_clip(model, world, options.out)
    quality = retrieval(model, pictures(600, VAL_SEED), world)
    (options.out / "quality.json").write_text(json.dumps(quality, indent=2) + "\n", "utf-8")
    print("saved", options.out, quality, flush=True)
    if options.towers:
        probed = pictures(2000, PROBE_SEED)
        table = probe_controls(model, recipe, world, scenes, store, probed, options.cache)
        table.to_csv(options.out.parent / "training" / "towers.csv", index=False)
        print(table.to_string(index=False))


if __name__ == "__main__":
    main()
