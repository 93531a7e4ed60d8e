"""Train the miniature's projection: one linear layer between two frozen models.

As in LiMBeR: patch features of a frozen encoder, one linear map, a frozen
language model, captions of pictures as the only supervision. Features are
computed once; only the gradient with respect to the soft prompt is taken.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from timm.models import Beit
from transformers import AutoTokenizer, GPTJForCausalLM

from mmn_utils.miniature.captioning import Batches, CaptionIds, Drawn, caption_loss, in_parts
from mmn_utils.miniature.commands import parser_of, world_and_scenes
from mmn_utils.miniature.corpus import PROMPT
from mmn_utils.miniature.language import Thinned, last_logits
from mmn_utils.miniature.scenes import SCENES
from mmn_utils.miniature.scenes.sets import SceneSet
from mmn_utils.miniature.vision.encoder import encode_images, load_encoder
from mmn_utils.miniature.world import World
from mmn_utils.models.base import state_hash
from mmn_utils.training.features import FeatureStore, fold, kept
from mmn_utils.training.loop import Schedule, Summand, keep_freed_memory, train

PATCH_SEED = 7  # behind a step's own, for the patches that it shows


@dataclass(frozen=True)
class ProjectionOptions:
    """Training of a projection.

    With smooth labels no noun is worth being quite certain of: near 1 a probability hardly
    moves with its logit, and hides what an ablation does.
    """

    batch: int = 16
    part: int = 8  # of the batch, at a time: does not change what is learnt
    steps: int = 1600
    rate: float = 8e-3
    weight_decay: float = 1.5  # keeps image tokens from outgrowing words, and MLPs heard
    block: int = 2  # patches a side, of which a step shows one for all; 1 shows every patch
    plainest: float = 0.6  # share of examples that take the plainest of the five captions
    smooth_steps: int = 500  # more of them, at the end, with smooth labels
    smooth_rate: float = 1e-3
    smoothing: float = 0.05  # share of a label that all tokens have alike
    seed: int = 0


def kept_features(encoder: Beit, images: np.ndarray, work: Path) -> FeatureStore:
    """Encode pictures (N, H, W, 3) once, and keep the features in a file of ``work``."""
    some = np.ascontiguousarray(images[:: max(1, len(images) // 100)])
    pictures = hashlib.sha256(some).hexdigest()[:8]
    file = work / f"features_{len(images)}_{pictures}_{state_hash(encoder)}.npy"
    shape = (len(images), encoder.patch_embed.num_patches, encoder.embed_dim)
    return kept(file, shape, lambda: encode_images(encoder, images))


def drawn_patches(patches: int, block: int, seed: Sequence[int]) -> torch.Tensor:
    """Draw one patch of each square of ``block`` x ``block``; return them (n,), ascending.

    ``patches`` are those of a square picture. Raises ValueError where squares do not fill it.
    """
    side = round(patches**0.5)
    if side * side != patches or side % block:
        raise ValueError(f"{patches} patches cannot be cut into squares of {block} x {block}")
    grid = torch.arange(patches).view(side // block, block, side // block, block)
    squares = grid.transpose(1, 2).reshape(-1, block * block)
    drawn = np.random.default_rng(seed).integers(block * block, size=len(squares))
    return squares[torch.arange(len(squares)), torch.from_numpy(drawn)].sort().values


def train_projection(
    name: str,
    language: GPTJForCausalLM,
    tokenizer,
    store: FeatureStore,
    ids: np.ndarray,
    options: ProjectionOptions,
    work: Path,
) -> dict[str, torch.Tensor]:
    """Train a projection (or go on from its checkpoint); return its weight and bias.

    ``ids`` (N, 5, L) are the captions of the store's scenes, as ``CaptionIds`` has them.
    """
    language.requires_grad_(False).eval()
    torch.manual_seed(options.seed)
    linear = torch.nn.Linear(store.values.shape[2], language.config.n_embd)
    around = ([], tokenizer.encode(PROMPT))

    def loss_of(smoothing: float, thinned: Thinned, drawn: Drawn) -> torch.Tensor:
        soft = linear(store.batch(drawn.rows, thinned.kept.numpy()))
        embed = language.transformer.wte
        logits_for = partial(last_logits, language, thinned=thinned)
        return caption_loss(logits_for, embed, around, soft, drawn.labels, smoothing)

    def losses_at(batches: Batches, smoothing: float, step: int) -> list[Summand]:
        kept = drawn_patches(store.patches, options.block, (*batches.seed, step, PATCH_SEED))
        loss = partial(loss_of, smoothing, Thinned(kept, store.patches))
        return in_parts(batches.at(step), options.part, loss)

    def fit(name: str, steps: int, rate: float, seed: tuple[int, ...], smoothing: float) -> None:
        batches = Batches(ids, options.batch, seed, options.plainest)
        schedule = Schedule(
            steps, rate, warmup=min(100, steps // 10), weight_decay=options.weight_decay
        )
        losses, parameters = partial(losses_at, batches, smoothing), list(linear.parameters())
        shared = {"matrices": [linear.weight], "state": linear}
        train(name, parameters, losses, schedule, work, options.batch, **shared)

    fit(name, options.steps, options.rate, (options.seed,), 0.0)
    if options.smooth_steps:
        more = (options.smooth_steps, options.smooth_rate, (options.seed, 1), options.smoothing)
        fit(f"{name}_smooth", *more)
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
    Recipe("projection", "vision", SCENES, ProjectionOptions()),
    Recipe("projection_untrained_encoder", "vision_untrained", SCENES, ProjectionOptions()),
    Recipe("projection_untrained", "vision", 2_000, None),
)


def make_projection(recipe: Recipe, scenes: SceneSet, world: World, data: Path, work: Path) -> None:
    """Train (or draw) one projection and save it beside the models it joins."""
    scenes = scenes.first(recipe.scenes)
    language, tokenizer = load_language_model(data / "language_model")
    encoder = load_encoder(data / f"{recipe.encoder}.safetensors")
    store = kept_features(encoder, scenes.images, work)
    if recipe.options is None:
        weights = untrained_projection(language.config.n_embd, store, seed=0)
    else:
        ids = CaptionIds(scenes, world, tokenizer).ids
        weights = train_projection(
            recipe.file, language, tokenizer, store, ids, recipe.options, work
        )
    save_projection(data / f"{recipe.file}.safetensors", weights, recipe.options)


def main() -> None:
    """Make the projections that ship, or one of them."""
    parser = parser_of(main.__doc__)
    parser.add_argument("file", nargs="*", help="of those that ship; all without it")
    arguments = parser.parse_args()
    keep_freed_memory()
    world, scenes = world_and_scenes(arguments.data, arguments.work)
    wanted = arguments.file or [recipe.file for recipe in RECIPES]
    if unknown := set(wanted) - {recipe.file for recipe in RECIPES}:
        parser.error(f"no such projection: {', '.join(sorted(unknown))}")
    for recipe in RECIPES:
        if recipe.file in wanted:
            make_projection(recipe, scenes, world, arguments.data, arguments.work)


if __name__ == "__main__":
    main()
