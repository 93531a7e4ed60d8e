"""The world: large enough, and no look twice."""

from __future__ import annotations


def test_world_is_large_enough_and_its_looks_are_distinct(world):
    assert len(world.concepts) >= 32
    assert len(world.supercategories) >= 5
    looks = [look for c in world.concepts for look in (*c.looks, c.held_out_look) if look]
    assert len(set(looks)) == len(looks)
