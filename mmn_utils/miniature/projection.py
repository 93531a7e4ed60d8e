"""Train the miniature's projection: one linear layer between two frozen models.

As in LiMBeR: patch features of a frozen encoder, one linear map, a frozen
language model, captions of pictures as the only supervision. Features are
computed once; only the gradient with respect to the soft prompt is taken. The first
steps may show the language model some of the patches alone, drawn anew for each: an
object covers many, and a quarter of them costs a third of the time.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import AutoTokenizer, GPTJForCausalLM

import mmn_utils.compat  # noqa: F401  (before transformers)

from .corpus import PROMPT
from .language import fused_hidden, logits_of
from .scenes import SceneSet, rendered_scenes
from .training import Progress, Schedule, fast_autocast, train
from .vision import VisionRecipe, encode_images, load_vision
from .world import WORLD_FILE, World, load_world

CAPTION_LENGTH = 20  # tokens of the longest caption, full stop and end of text


@dataclass(frozen=True)
class ProjectionOptions:
    """Training of a projection; the first ``thin_steps`` show ``thin_patches`` of the patches."""

    batch: int = 32
    steps: int = 1700
    thin_steps: int = 0
    thin_patches: int = 48
    rate: float = 3e-3
    plainest: float = 0.6  # share of examples that take the plainest of the five captions
    seed: int = 0


@dataclass(frozen=True)
class FeatureStore:
    """Patch features of many scenes, float16 (N, patches, width), and their statistics."""

    values: np.ndarray
    mean: torch.Tensor
    std: torch.Tensor

    def batch(self, rows: np.ndarray, places: np.ndarray | None = None) -> torch.Tensor:
        """Return standardised features (B, n, width) of patches ``places`` (None: all), float32."""
        values = self.values[rows] if places is None else self.values[rows[:, None], places]
        return (torch.from_numpy(values).float() - self.mean) / self.std


def feature_store(encoder, images: np.ndarray) -> FeatureStore:
    """Encode pictures (N, H, W, 3) once with a frozen encoder."""
    with torch.no_grad():
        values = np.concatenate([part.half().numpy() for part in encode_images(encoder, images)])
    sample = torch.from_numpy(values[:: max(1, len(values) // 2000)]).float().flatten(0, 1)
    return FeatureStore(values, sample.mean(0), sample.std(0) + 1e-6)


class CaptionIds:
    """Token ids of the five captions of each scene, padded with -100."""

    def __init__(self, scenes: SceneSet, world: World, tokenizer):
        ends = [tokenizer.eos_token_id]
        self.ids = np.full((len(scenes), 5, CAPTION_LENGTH), -100, dtype=np.int64)
        known: dict[str, list[int]] = {}
        for i in range(len(scenes)):
            for j, text in enumerate(scenes.captions(i, world)):
                if text not in known:
                    known[text] = tokenizer.encode(f" {text}.") + ends
                self.ids[i, j, : len(known[text])] = known[text]


def caption_loss(
    language,
    soft: torch.Tensor,
    prompt: torch.Tensor,
    labels: torch.Tensor,
    places: torch.Tensor | None = None,
    patches: int = 0,
):
    """Return the cross-entropy of captions given soft prompts.

    ``soft`` (B, n, d) of all patches, or of those at ``places`` (n,), ascending, out of
    ``patches``; ``prompt`` (m,) ids of the text prefix; ``labels`` (B, L) ids, -100 where
    there is none.
    """
    embed = language.transformer.wte
    words = torch.cat([prompt.expand(len(soft), -1), labels.clamp(min=0)], dim=1)
    if places is None:
        places, patches = torch.arange(soft.shape[1]), soft.shape[1]
    positions = torch.cat([places, patches + torch.arange(words.shape[1])])
    with fast_autocast():
        embeds = torch.cat([soft, embed(words).to(soft.dtype)], dim=1)
        hidden = fused_hidden(language, embeds, positions=positions)
        predicting = hidden[:, -labels.shape[1] - 1 : -1]
        logits = logits_of(language, predicting)
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100)


def shown_patches(
    options: ProjectionOptions, step: int, patches: int, rng: np.random.Generator
) -> torch.Tensor:
    """Draw the patches that a step shows, ascending; all of them at the end of the training."""
    if step >= options.thin_steps:
        return torch.arange(patches)
    return torch.from_numpy(np.sort(rng.permutation(patches)[: options.thin_patches]))


def fold(linear: torch.nn.Linear, store: FeatureStore) -> dict[str, torch.Tensor]:
    """Return weight and bias that take raw features: the standardisation folded in."""
    weight = linear.weight.detach() / store.std
    return {"weight": weight, "bias": linear.bias.detach() - weight @ store.mean}


def train_projection(
    name: str,
    language: GPTJForCausalLM,
    tokenizer,
    store: FeatureStore,
    captions: CaptionIds,
    options: ProjectionOptions,
    work: Path,
) -> dict[str, torch.Tensor]:
    """Train a projection (or go on from its checkpoint); return its weight and bias."""
    language.requires_grad_(False).eval()
    torch.manual_seed(options.seed)
    linear = torch.nn.Linear(store.values.shape[2], language.config.n_embd)
    prompt = torch.tensor(tokenizer.encode(PROMPT))

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng((options.seed, step))
        rows = rng.integers(len(store.values), size=options.batch)
        rest = (1 - options.plainest) / 4
        form = rng.choice(5, size=options.batch, p=[options.plainest, rest, rest, rest, rest])
        labels = torch.from_numpy(captions.ids[rows, form])
        labels = labels[:, : int((labels >= 0).sum(1).max())]
        patches = store.values.shape[1]
        places = shown_patches(options, step, patches, rng)
        soft = linear(store.batch(rows, places.numpy()))
        return caption_loss(language, soft, prompt, labels, places, patches)

    schedule = Schedule(options.steps, options.rate, weight_decay=0.0)
    train(
        list(linear.parameters()),
        loss_at,
        schedule,
        work / f"{name}.pt",
        linear,
        Progress(name, options.steps, work / f"{name}.csv"),
        options.batch,
    )
    return fold(linear, store)


def save_projection(
    path: Path, weights: dict[str, torch.Tensor], options: ProjectionOptions | None
) -> None:
    """Save weight (d, width) and bias (d,) in half precision, with how they were trained."""
    half = {key: value.half().contiguous() for key, value in weights.items()}
    training = asdict(options) if options else None
    save_file(half, path, metadata={"training": json.dumps(training, sort_keys=True)})


def untrained_projection(width: int, store: FeatureStore, seed: int) -> dict[str, torch.Tensor]:
    """Return a projection as it is before training: the control that never saw a caption."""
    torch.manual_seed(seed)
    return fold(torch.nn.Linear(store.values.shape[2], width), store)


def load_language_model(folder: Path):
    """Load the trained language model and its tokenizer, float32, frozen."""
    language = GPTJForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return language.eval().requires_grad_(False), AutoTokenizer.from_pretrained(folder)


@dataclass(frozen=True)
class Recipe:
    """One projection that ships.

    ``file`` and ``encoder`` name its weights and those of the encoder it reads;
    ``scenes`` is how many it sees, ``options`` how it is trained (None: not at all).
    """

    file: str
    encoder: str
    scenes: int
    options: ProjectionOptions | None


RECIPES = (
    Recipe("projection", "vision", 24_000, ProjectionOptions()),
    Recipe("projection_untrained_encoder", "vision_untrained", 8_000, ProjectionOptions(steps=700)),
    Recipe("projection_untrained", "vision", 2_000, None),
)


def make_projection(recipe: Recipe, scenes: SceneSet, world: World, data: Path, work: Path) -> None:
    """Train (or draw) one projection and save it beside the models it joins."""
    scenes = scenes.first(recipe.scenes)
    language, tokenizer = load_language_model(data / "language_model")
    encoder = load_vision(data / f"{recipe.encoder}.safetensors")
    store = feature_store(encoder, scenes.images)
    if recipe.options is None:
        weights = untrained_projection(language.config.n_embd, store, seed=0)
    else:
        captions = CaptionIds(scenes, world, tokenizer)
        weights = train_projection(
            recipe.file, language, tokenizer, store, captions, recipe.options, work
        )
    save_projection(data / f"{recipe.file}.safetensors", weights, recipe.options)


def main() -> None:
    """Make the projections that ship, or one of them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--only", choices=[recipe.file for recipe in RECIPES])
    parser.add_argument("--data", type=Path, default=WORLD_FILE.parent)
    parser.add_argument("--work", type=Path, default=Path("data/cache/miniature"))
    arguments = parser.parse_args()
    world = load_world(arguments.data / "concepts.yaml")
    scenes = rendered_scenes(arguments.work, world, VisionRecipe().scenes)  # the encoder's own
    for recipe in RECIPES:
        if arguments.only in (None, recipe.file):
            make_projection(recipe, scenes, world, arguments.data, arguments.work)


if __name__ == "__main__":
    main()
