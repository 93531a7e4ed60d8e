"""Scenes: what they show, where it is to the pixel, and what is said of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mmn_utils.datasets.stamps import composition
from mmn_utils.datasets.stamps.catalogue import Entry, Stamp
from mmn_utils.datasets.stamps.composition import HEIGHT, WIDTH, choose, compose
from mmn_utils.datasets.stamps.grounds import GROUNDS, paint_ground
from mmn_utils.datasets.stamps.phrases import captions

ENTRY = Entry("a.png", "horse", "animal", "train", True, True, "00")
RED, BLUE = (255, 0, 0), (0, 0, 255)


def flat(colour: tuple[int, int, int], alpha: np.ndarray, **entry: object) -> Stamp:
    """Return a cut-out of one colour with an alpha of its own (height, width)."""
    colours = np.broadcast_to(np.array(colour, np.uint8), (*alpha.shape, 3))
    pixels = np.dstack([colours, alpha.astype(np.uint8)])
    return Stamp(replace(ENTRY, **entry), Image.fromarray(pixels))


@pytest.fixture
def black(monkeypatch):
    """Grounds of black, on which a picture shows each alpha."""

    def paint(rng, height, width):
        return "black", np.zeros((height, width, 3), np.float32)

    monkeypatch.setattr(composition, "paint_ground", paint)


def test_a_mask_is_where_the_alpha_is_half_or_more(black):
    slope = np.tile(np.linspace(0, 255, 100), (60, 1))
    for seed in range(8):
        scene = compose([flat((255, 255, 255), slope)], np.random.default_rng(seed))
        (thing,) = scene.things
        # White on black: the picture is the alpha itself.
        assert np.array_equal(thing.mask, scene.pixels[..., 0] >= 128)
        assert 0 < thing.mask.sum() < (scene.pixels[..., 0] > 0).sum()


def test_the_upper_thing_hides_the_lower_ones_pixels(black, monkeypatch):
    monkeypatch.setattr(composition, "PLACES", (0.45, 0.55))  # so that they overlap
    full = np.full((80, 80), 255)
    low, high = flat(RED, full), flat(BLUE, full, category="apple")
    clear = flat(BLUE, np.zeros((80, 80)))
    hidden = 0
    for seed in range(8):
        scene = compose([low, high], np.random.default_rng(seed))
        below, above = scene.things
        assert (below.entry.category, above.entry.category) == ("horse", "apple")
        assert np.array_equal(above.mask, (scene.pixels == BLUE).all(-1))
        assert np.array_equal(below.mask, (scene.pixels == RED).all(-1))
        whole = compose([low, clear], np.random.default_rng(seed)).things[0].mask
        assert np.array_equal(below.mask, whole & ~above.mask)
        hidden += (whole & above.mask).sum()
    assert hidden > 0


def test_things_lie_whole_in_the_picture_and_fill_their_room(black):
    for shape in ((80, 80), (30, 160), (160, 20)):
        stamp = flat(RED, np.full(shape, 255))
        for seed in range(12):
            rng = np.random.default_rng(seed)
            rows, columns = np.nonzero(compose([stamp], rng).things[0].mask)
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert height * width == len(rows)  # nothing is cut off: it is a whole rectangle
            fits = min(WIDTH / shape[1], HEIGHT / shape[0])
            for side, own in ((height, shape[0]), (width, shape[1])):  # to a rounded pixel
                assert min(0.5 * fits, 2.2) * own - 0.51 <= side
                assert side <= min(0.85 * fits, 2.2) * own + 0.51


def test_of_two_the_first_is_left_and_no_pixel_is_of_both(fake):
    stamps = fake.stamps()
    for seed in range(20):
        scene = compose([stamps[0], stamps[2]], np.random.default_rng(seed))
        left, right = (np.nonzero(thing.mask)[1].mean() for thing in scene.things)
        assert left < right
        assert not (scene.things[0].mask & scene.things[1].mask).any()


def test_only_what_may_be_mirrored_is(black):
    half = np.zeros((80, 80))
    half[:, :40] = half[:8] = half[-8:] = 255  # its weight is on the left
    for mirror, wanted in ((True, {True, False}), (False, {True})):
        found = set()
        for seed in range(16):
            scene = compose([flat(RED, half, mirror=mirror)], np.random.default_rng(seed))
            columns = np.nonzero(scene.things[0].mask)[1]
            found.add(bool(columns.mean() < (columns.min() + columns.max()) / 2))
        assert found == wanted


def test_another_number_of_cut_outs_is_refused(fake):
    for stamps in ((), fake.stamps()[:3]):
        with pytest.raises(ValueError, match="give one or two"):
            compose(stamps, np.random.default_rng(0))


def test_every_third_scene_has_two_categories_and_all_come_about_as_often(fake):
    chosen = choose(fake.stamps(), 60, 3)
    assert [len(one) for one in chosen] == [1, 1, 2] * 20
    shown = [[stamp.entry.category for stamp in one] for one in chosen]
    assert all(len(set(names)) == len(names) for names in shown)
    counts = Counter(name for names in shown for name in names)
    assert set(counts) == {"horse", "orange", "broccoli", "apple"}
    assert max(counts.values()) - min(counts.values()) <= 1
    assert choose(fake.stamps(), 20, 3) == chosen[:20]
    assert choose(fake.stamps(), 60, 4) != chosen


def test_grounds_are_of_their_seed_and_of_many_kinds():
    names = set()
    for seed in range(60):
        name, pixels = paint_ground(np.random.default_rng(seed), 48, 64)
        again = paint_ground(np.random.default_rng(seed), 48, 64)
        assert (name, pixels.tobytes()) == (again[0], again[1].tobytes())
        assert pixels.shape == (48, 64, 3)
        assert (pixels.dtype, pixels.min() >= 0, pixels.max() <= 255) == (np.float32, True, True)
        assert pixels.std(axis=(0, 1)).min() > 2
        names.add(name)
    assert names == set(GROUNDS)


def test_captions_have_the_nouns_with_their_articles():
    horse, apple = ENTRY, replace(ENTRY, category="apple")
    broccoli = replace(ENTRY, category="broccoli", counted=False)
    assert captions([apple])[:2] == ("an apple.", "a photograph of an apple.")
    assert captions([broccoli])[:2] == ("broccoli.", "a photograph of broccoli.")
    assert captions([horse, apple])[0] == "a horse and an apple."
    assert captions([broccoli, horse])[2] == "there is broccoli next to a horse in the picture."
    for shown in ([apple], [horse, apple]):
        assert len(set(captions(shown))) == 5
        assert all(one.category in text for text in captions(shown) for one in shown)
