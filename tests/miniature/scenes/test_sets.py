"""Rendered sets: the same scenes as one by one, and splits that never meet."""

from __future__ import annotations

import numpy as np

from mmn_utils.miniature.scenes import (
    CLASS_TRAIN_SEED,
    CLASS_VAL_SEED,
    LOOKS_SEED,
    PROBE_SEED,
    TRAIN_SEED,
    VAL_SEED,
)
from mmn_utils.miniature.scenes.composition import make_scene
from mmn_utils.miniature.scenes.sets import BACKGROUND_PATCH, MIXED_PATCH, rendered_scenes


def test_splits_never_share_a_seed():
    starts = [TRAIN_SEED, VAL_SEED, LOOKS_SEED, CLASS_TRAIN_SEED]
    starts += [CLASS_VAL_SEED, PROBE_SEED]
    assert starts == sorted(starts)
    assert min(np.diff(starts)) >= 10_000_000


def test_rendered_set_equals_single_scenes(world, font, tmp_path):
    many = rendered_scenes(tmp_path, world, 3, first_seed=77, font=font, workers=1)
    scene = make_scene(78, world, font=font)
    assert np.array_equal(many.images[1], scene.image)
    assert [world.names[c] for c in many.concepts[1] if c >= 0] == list(scene.names)
    assert world.backgrounds[many.backgrounds[1]].name == scene.background
    patches = set(many.patch_concepts[1].tolist()) - {MIXED_PATCH, BACKGROUND_PATCH}
    assert patches <= {world.names.index(name) for name in scene.names}
