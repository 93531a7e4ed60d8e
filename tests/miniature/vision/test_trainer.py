"""The training: stopped and resumed, its heads taught, its scenes of the right colours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmn_utils.miniature.vision.codes import feature_codes
from mmn_utils.miniature.vision.encoder import to_input
from mmn_utils.miniature.vision.trainer import Trainer
from tests.miniature.vision.tiny import RECIPE


def trained(scenes, folder, stops=()):
    """Train a tiny encoder; at each stop throw everything away but the checkpoint."""
    for steps in stops:
        trainer = Trainer(RECIPE, lambda colours: scenes, None, folder)
        trainer.resume()
        trainer.run_stage(stop_after=steps)
    return Trainer(RECIPE, lambda colours: scenes, None, folder).run().state_dict()


def test_resumed_training_equals_uninterrupted(scenes, tmp_path):
    whole = trained(scenes, tmp_path / "whole")
    parts = trained(scenes, tmp_path / "parts", stops=(1, 2))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_fresh_head_learns_before_the_encoder_goes_on(scenes, tmp_path):
    trainer = Trainer(RECIPE, lambda colours: scenes, None, tmp_path)
    trainer._begin_stage()
    trainer.stage_number, trainer.codes = 1, None
    before = {name: value.clone() for name, value in trainer.model.encoder.state_dict().items()}
    trainer._begin_stage()
    after = trainer.model.encoder.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())
    with torch.no_grad():
        taught = sum(float(loss()) for loss in trainer._losses(trainer._batch(0)))
        trainer.model.new_head(8)
        fresh = sum(float(loss()) for loss in trainer._losses(trainer._batch(0)))
    assert taught < 0.9 * fresh


def test_the_parts_of_a_batch_do_not_change_what_is_learnt(scenes, tmp_path):
    ends = []
    for part in (1, 3, 4):
        recipe = replace(RECIPE, part=part)
        trainer = Trainer(recipe, lambda colours: scenes, None, tmp_path / str(part))
        ends.append(trainer.run().state_dict())
    for end in ends[1:]:
        for name, value in ends[0].items():
            torch.testing.assert_close(end[name], value, atol=1e-4, rtol=1e-3)


def test_codes_are_of_the_scenes_in_their_own_colours(scenes, tmp_path):
    other = replace(scenes, images=np.roll(scenes.images, 1, axis=0))
    pool = {"own": other, "turned": scenes, "varied": scenes}
    trainer = Trainer(RECIPE, pool.get, None, tmp_path)
    trainer.run()
    before = trainer.encoder_after("features")
    expected = feature_codes(RECIPE, RECIPE.stages[2], before, other.images)
    state = torch.load(tmp_path / "vision_checkpoint.pt", weights_only=False)
    assert torch.equal(state["codes"], expected)
    assert not torch.equal(expected, feature_codes(RECIPE, RECIPE.stages[2], before, scenes.images))


def test_a_stage_sees_scenes_in_its_colours(scenes, tmp_path):
    other = replace(scenes, images=255 - scenes.images)
    trainer = Trainer(RECIPE, {"own": scenes, "varied": other}.get, None, tmp_path)
    trainer._begin_stage()
    rows = (to_input(other.images) == trainer._batch(0)[0][:, None]).flatten(2).all(2)
    assert rows.any(1).all()


def test_checkpoint_of_another_recipe_is_refused(scenes, tmp_path):
    trainer = Trainer(RECIPE, lambda colours: scenes, None, tmp_path)
    trainer.save()
    with pytest.raises(ValueError, match="another recipe"):
        Trainer(replace(RECIPE, batch=6), lambda colours: scenes, None, tmp_path).resume()
