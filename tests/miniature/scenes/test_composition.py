"""Scenes: a function of their seed, exactly masked, honestly captioned."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mmn_utils.miniature.scenes import SIZE
from mmn_utils.miniature.scenes.composition import captions, make_scene


def test_scene_depends_on_its_seed_alone(world, font, made):
    again = make_scene(made[7].seed, world, font=font)
    assert np.array_equal(again.image, made[7].image)
    assert again.names == made[7].names
    assert again.background == made[7].background
    assert not np.array_equal(made[7].image, made[8].image)


def test_masks_are_visible_disjoint_and_sorted(made):
    for scene in made:
        masks = np.stack([thing.mask for thing in scene.objects])
        assert masks.shape[1:] == (SIZE, SIZE)
        assert masks.sum(0).max() == 1
        areas = [thing.area for thing in scene.objects]
        assert areas == sorted(areas, reverse=True)
        assert min(areas) > 100
        assert len(set(scene.names)) == len(scene.names)


def test_bounding_boxes_are_tight(made):
    for thing in (thing for scene in made for thing in scene.objects):
        x, y, width, height = thing.bbox
        assert thing.mask[y : y + height, x : x + width].sum() == thing.area
        assert thing.mask[y].any()
        assert thing.mask[:, x].any()


def test_counts_looks_and_first_can_be_asked_for(world, font):
    scene = make_scene(5, world, n_objects=3, first="pizza", font=font)
    assert len(scene.objects) == 3
    assert "pizza" in scene.names
    unseen = make_scene(5, world, looks="held_out", font=font)
    cards = [world.by_name[thing.concept] for thing in unseen.objects]
    assert [c.held_out_look for c in cards] == [thing.look for thing in unseen.objects]
    with pytest.raises(ValueError, match="lion"):
        make_scene(5, world, looks="held_out", first="lion", font=font)


def test_turned_colours_change_the_objects_and_nothing_else(world, font):
    own, turned = (make_scene(9, world, font=font, colours=c) for c in ("own", "turned"))
    assert [t.look for t in own.objects] == [t.look for t in turned.objects]
    for one, other in zip(own.objects, turned.objects, strict=True):
        assert np.array_equal(one.mask, other.mask)
        assert (own.image[one.mask] != turned.image[one.mask]).mean() > 0.2
    far = ~np.any([thing.mask for thing in own.objects], axis=0)
    far = ~np.array(Image.fromarray(~far).filter(ImageFilter.MaxFilter(5)))  # off the soft rims
    assert far.any()
    assert np.array_equal(own.image[far], turned.image[far])


def test_captions_name_the_largest_object_first(world, made):
    for scene in made:
        for text in captions(scene, world):
            named = [word for word in text.replace(",", " ").split() if word in world.names]
            assert tuple(named) == scene.names
            assert scene.background in text.split()
