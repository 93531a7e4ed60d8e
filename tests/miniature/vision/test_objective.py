"""What is hidden and cut out: exact numbers, and pictures and codes of one place."""

from __future__ import annotations

import numpy as np
import pytest

from mmn_utils.miniature.vision.objective import block_mask, cut_windows


def test_windows_of_pictures_and_codes_are_of_the_same_place():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (60, 16))
    pixels = codes.reshape(60, 4, 4, 1).repeat(8, 1).repeat(8, 2).repeat(3, 3).astype(np.uint8)
    images, cut = cut_windows(rng, pixels, codes, 3)
    assert images.shape == (60, 24, 24, 3)
    np.testing.assert_array_equal(images[:, ::8, ::8, 1].reshape(60, 9), cut)
    np.testing.assert_array_equal(images[:, 7::8, 7::8, 2].reshape(60, 9), cut)
    grid = codes.reshape(60, 4, 4)
    places = [
        (grid[:, t : t + 3, x : x + 3].reshape(60, 9) == cut).all(1) for t in (0, 1) for x in (0, 1)
    ]
    assert np.sum(places, 0).min() == 1
    assert np.sum(places, 1).min() > 5
    whole, same = cut_windows(rng, pixels, codes, 4)
    np.testing.assert_array_equal(whole, pixels)
    np.testing.assert_array_equal(same, codes)


@pytest.mark.parametrize("seed", range(5))
def test_block_mask_hides_the_exact_number(seed):
    mask = block_mask(np.random.default_rng(seed), 14, 78)
    assert mask.shape == (196,)
    assert mask.sum() == 78
