"""Stages: when windows give way to whole scenes."""

from __future__ import annotations

from mmn_utils.miniature.vision.recipe import Stage


def test_a_stage_ends_with_whole_scenes():
    stage = Stage("pixels", images=16, window=3, whole=4)
    assert [stage.window_at(seen) for seen in (0, 8, 12, 15)] == [3, 3, None, None]
    assert Stage("pixels", images=16).window_at(0) is None
