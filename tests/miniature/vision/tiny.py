"""A tiny encoder's sizes, and a recipe that trains it in a moment."""

from __future__ import annotations

from mmn_utils.miniature.vision.encoder import CONFIG
from mmn_utils.miniature.vision.recipe import Recipe, Stage

TINY = {**CONFIG, "img_size": 32, "embed_dim": 32, "depth": 3, "num_heads": 4}
RECIPE = Recipe(
    stages=(
        Stage("pixels", images=16, codes=8),
        Stage("features", images=16, codes=8, layer=2, colours="turned", window=3, whole=4),
        Stage("features again", images=16, codes=8, layer=3, visible_weight=0.0),
    ),
    config=TINY,
    scenes=12,
    batch=4,
    warmup=2,
    head_steps=30,
    code_sample=100,
)
