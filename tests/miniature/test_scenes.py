"""The scenes: deterministic, exactly masked, honestly captioned, readable as COCO."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from PIL import Image, ImageFilter
from pycocotools.coco import COCO

from mmn_utils.miniature import phrases
from mmn_utils.miniature import scenes as sc
from mmn_utils.miniature.world import World, load_world


@pytest.fixture(scope="module")
def world() -> World:
    return load_world()


@pytest.fixture(scope="module")
def font():
    try:
        return sc.find_font()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def made(world, font) -> list[sc.Scene]:
    return list(sc.make_scenes(123_000, 40, world, font=font))


def test_world_is_large_enough_and_its_looks_are_distinct(world):
    assert len(world.concepts) >= 32
    assert len(world.supercategories) >= 5
    looks = [look for c in world.concepts for look in (*c.looks, c.held_out_look) if look]
    assert len(set(looks)) == len(looks)


def test_missing_font_says_how_to_get_it():
    with pytest.raises(FileNotFoundError, match="fonts-noto-color-emoji"):
        sc.find_font("/nowhere/NotoColorEmoji.ttf")


def test_scene_depends_on_its_seed_alone(world, font, made):
    again = sc.make_scene(made[7].seed, world, font=font)
    assert np.array_equal(again.image, made[7].image)
    assert again.names == made[7].names
    assert again.background == made[7].background
    assert not np.array_equal(made[7].image, made[8].image)


def test_masks_are_visible_disjoint_and_sorted(made):
    for scene in made:
        masks = np.stack([thing.mask for thing in scene.objects])
        assert masks.shape[1:] == (sc.SIZE, sc.SIZE)
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
    scene = sc.make_scene(5, world, n_objects=3, first="pizza", font=font)
    assert len(scene.objects) == 3
    assert "pizza" in scene.names
    unseen = sc.make_scene(5, world, looks="held_out", font=font)
    cards = [world.by_name[thing.concept] for thing in unseen.objects]
    assert [c.held_out_look for c in cards] == [thing.look for thing in unseen.objects]
    with pytest.raises(ValueError, match="lion"):
        sc.make_scene(5, world, looks="held_out", first="lion", font=font)


def test_turned_colours_change_the_objects_and_nothing_else(world, font):
    own, turned = (sc.make_scene(9, world, font=font, colours=c) for c in ("own", "turned"))
    assert [t.look for t in own.objects] == [t.look for t in turned.objects]
    for one, other in zip(own.objects, turned.objects, strict=True):
        assert np.array_equal(one.mask, other.mask)
        assert (own.image[one.mask] != turned.image[one.mask]).mean() > 0.2
    far = ~np.any([thing.mask for thing in own.objects], axis=0)
    far = ~np.array(Image.fromarray(~far).filter(ImageFilter.MaxFilter(5)))  # off the soft rims
    assert far.any()
    assert np.array_equal(own.image[far], turned.image[far])


@pytest.mark.parametrize(
    ("names", "plainest"),
    [
        (["apple"], "an apple on the snow"),
        (["bread", "dog"], "some bread and a dog on the snow"),
        (["cat", "umbrella", "grapes"], "a cat, an umbrella and some grapes on the snow"),
    ],
)
def test_plainest_caption(world, names, plainest):
    texts = phrases.captions([world.by_name[name] for name in names], "snow")
    assert texts[0] == plainest
    assert len(set(texts)) == 5


def test_captions_name_the_largest_object_first(world, made):
    for scene in made:
        for text in sc.captions(scene, world):
            named = [word for word in text.replace(",", " ").split() if word in world.names]
            assert tuple(named) == scene.names
            assert scene.background in text.split()


def test_splits_never_share_a_seed():
    starts = [sc.TRAIN_SEED, sc.VAL_SEED, sc.LOOKS_SEED, sc.CLASS_TRAIN_SEED]
    starts += [sc.CLASS_VAL_SEED, sc.PROBE_SEED]
    assert starts == sorted(starts)
    assert min(np.diff(starts)) >= 10_000_000


def test_export_reads_as_coco(world, made, tmp_path):
    sc.write_coco(tmp_path, made[:6], world)
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO(tmp_path / "annotations" / "instances_val.json")
        texts = COCO(tmp_path / "annotations" / "captions_val.json")
    for scene in made[:6]:
        entry = data.imgs[scene.seed]
        assert (tmp_path / "images" / "val" / entry["file_name"]).is_file()
        assert (entry["background"], entry["looks"]) == (scene.background, "train")
        annotations = data.imgToAnns[scene.seed]
        for annotation, thing in zip(annotations, scene.objects, strict=True):
            assert np.array_equal(data.annToMask(annotation).astype(bool), thing.mask)
            assert annotation["area"] == thing.area
            assert data.cats[annotation["category_id"]]["name"] == thing.concept
        assert len(texts.imgToAnns[scene.seed]) == 5


def test_rendered_set_equals_single_scenes(world, font, tmp_path):
    many = sc.rendered_scenes(tmp_path, world, 3, first_seed=77, font=font, workers=1)
    scene = sc.make_scene(78, world, font=font)
    assert np.array_equal(many.images[1], scene.image)
    assert [world.names[c] for c in many.concepts[1] if c >= 0] == list(scene.names)
    assert world.backgrounds[many.backgrounds[1]].name == scene.background
    patches = set(many.patch_concepts[1].tolist()) - {sc.MIXED_PATCH, sc.BACKGROUND_PATCH}
    assert patches <= {world.names.index(name) for name in scene.names}
