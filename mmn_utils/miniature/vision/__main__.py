"""Train the encoder, or go on training it: ``python -m mmn_utils.miniature.vision``."""

from __future__ import annotations

import argparse
from functools import cache, partial
from pathlib import Path

import torch

from mmn_utils.miniature.scenes import PROBE_SEED, TRAIN_SEED
from mmn_utils.miniature.scenes.sets import SceneSet, rendered_scenes
from mmn_utils.miniature.vision.encoder import build_encoder, save_encoder
from mmn_utils.miniature.vision.probe import colour_table, probe
from mmn_utils.miniature.vision.progress import keep_curve
from mmn_utils.miniature.vision.recipe import Recipe
from mmn_utils.miniature.vision.trainer import Trainer
from mmn_utils.miniature.world import WORK, WORLD_FILE, load_world
from mmn_utils.training.loop import keep_freed_memory


def main() -> None:
    """Train the encoder, or go on training it, and save it beside its untrained twin."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--world", type=Path, default=WORLD_FILE)
    parser.add_argument("--out", type=Path, default=WORLD_FILE.parent)
    parser.add_argument("--cache", type=Path, default=WORK)
    parser.add_argument("--font", type=Path, help="NotoColorEmoji.ttf, if not in a usual place")
    options = parser.parse_args()
    keep_freed_memory()
    world, recipe = load_world(options.world), Recipe()

    @cache
    def scenes(colours: str, count: int = recipe.scenes, seed: int = TRAIN_SEED) -> SceneSet:
        return rendered_scenes(options.cache, world, count, seed, options.font, colours=colours)

    torch.manual_seed(recipe.seed + 1000)
    untrained = build_encoder().eval()
    save_encoder(untrained, options.out / "vision_untrained.safetensors")
    held_out = partial(scenes, count=recipe.probe_scenes, seed=PROBE_SEED)
    print("untrained:", probe(untrained, held_out("own").first(1000)), flush=True)
    trainer = Trainer(recipe, scenes, held_out, options.cache)
    trained = trainer.run()
    save_encoder(trained, options.out / "vision.safetensors")
    keep_curve(options.cache / "vision_log.csv", options.out / "training" / "vision.csv")
    encoders = {
        "untrained": untrained,
        "first round": trainer.encoder_after(recipe.stages[0].name),
        "trained": trained,
    }
    rows = colour_table(encoders, held_out)
    table = options.out / "training" / "colours.csv"
    rows.round(4).to_csv(table, index=False, lineterminator="\n")
    print("saved", options.out / "vision.safetensors")


if __name__ == "__main__":
    main()
