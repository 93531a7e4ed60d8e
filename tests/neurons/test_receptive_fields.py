"""Heat maps, masks and IoU, against torch, numpy and pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from mmn_utils.neurons.receptive_fields import (
    dataset_thresholds,
    iou,
    map_quantile,
    mask,
    resize_truth,
    upsample,
)

quick = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**31 - 1)


def random_maps(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@quick
@given(seeds, st.floats(0, 1), st.integers(1, 300))
def test_the_quantile_is_numpys(seed, level, count):
    values = random_maps(seed, 3, count)
    expected = np.quantile(values.double().numpy(), level, axis=-1)
    np.testing.assert_allclose(map_quantile(values, level), expected, rtol=1e-5, atol=1e-6)


def test_a_quantile_that_falls_on_a_value_is_that_value():
    assert map_quantile(torch.arange(21.0), 0.95) == 19
    with pytest.raises(ValueError, match="95"):
        map_quantile(torch.arange(3.0), 95)


def test_upsampling_keeps_each_patch_over_its_own_pixels():
    maps = torch.zeros(2, 14, 14)
    maps[0, 3, 10] = 1
    up = upsample(maps, 112)
    assert up.shape == (2, 112, 112)
    rows, columns = torch.meshgrid(torch.arange(112.0), torch.arange(112.0), indexing="ij")
    centre = ((rows * up[0]).sum() / up[0].sum(), (columns * up[0]).sum() / up[0].sum())
    assert centre[0] == pytest.approx(3 * 8 + 3.5, abs=1e-3)
    assert centre[1] == pytest.approx(10 * 8 + 3.5, abs=1e-3)


def test_upsampling_by_hand_with_pixel_centres():
    up = upsample(torch.tensor([[0.0, 1.0]]), (1, 4))
    torch.testing.assert_close(up, torch.tensor([[0.0, 0.25, 0.75, 1.0]]))


@quick
@given(seeds)
def test_a_mask_holds_what_the_quantile_leaves(seed):
    masks = mask(upsample(random_maps(seed, 4, 14, 14), 112))
    assert masks.dtype == torch.bool
    counts = masks.sum((-2, -1))  # 628 lie above place 0.95 x 12543; corners hold equal values
    assert (counts <= 628).all()
    assert (counts > 600).all()


@quick
@given(seeds, st.floats(0.1, 10), st.floats(-5, 5))
def test_a_mask_does_not_depend_on_the_scale_of_its_map(seed, scale, shift):
    maps = (random_maps(seed, 14, 14) * 16).round()  # steps that survive the scaling
    torch.testing.assert_close(mask(maps), mask(maps.double() * scale + shift))


def test_each_map_has_its_own_quantile():
    maps = random_maps(0, 2, 3, 20, 20) * torch.tensor([1.0, 100.0]).reshape(2, 1, 1, 1)
    for i in range(2):
        for j in range(3):
            assert torch.equal(mask(maps)[i, j], mask(maps[i, j]))


def test_a_constant_map_has_an_empty_mask():
    assert not mask(torch.full((3, 14, 14), 2.5)).any()
    assert not mask(upsample(torch.zeros(14, 14), 224)).any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_map_that_is_not_finite_is_named(value):
    maps = torch.zeros(2, 3, 4, 4)
    maps[1, 2, 0, 0] = value
    for function in (mask, dataset_thresholds, lambda m: upsample(m, 8)):
        with pytest.raises(ValueError, match=r"\(1, 2\)"):
            function(maps)


def test_dataset_thresholds_cut_each_neuron_once_for_all_images():
    maps = random_maps(1, 50, 3, 14, 14)
    maps[7] += 10
    thresholds = dataset_thresholds(maps)
    assert thresholds.shape == (3,)
    cut = mask(maps, thresholds=thresholds)
    share = cut.float().mean((0, 2, 3))
    torch.testing.assert_close(share, torch.full((3,), 0.05), atol=1e-3, rtol=0)
    assert cut[7].all()
    assert not torch.equal(cut, mask(maps))


@quick
@given(seeds, st.integers(5, 60), st.integers(5, 60))
def test_iou_is_pycocotools(seed, height, width):
    rng = np.random.default_rng(seed)
    masks = rng.random((4, height, width)) < rng.uniform(0.1, 0.9, (4, 1, 1))
    truth = rng.random((height, width)) < 0.4
    truth[0, 0] = True
    encoded = [coco.encode(np.asfortranarray(m.astype(np.uint8))) for m in (*masks, truth)]
    expected = coco.iou(encoded[:-1], encoded[-1:], [0])[:, 0]
    ours = iou(torch.from_numpy(masks), torch.from_numpy(truth))
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_iou_with_itself_is_one_disjoint_zero_and_symmetric():
    a = random_maps(3, 10, 10) > 0
    b = random_maps(4, 10, 10) > 0
    assert iou(a, a) == 1
    assert iou(a, ~a) == 0
    assert iou(a, b) == iou(b, a)
    assert iou(torch.zeros(2, 10, 10), a).tolist() == [0, 0]


def test_iou_refuses_an_empty_truth_and_another_size():
    with pytest.raises(ValueError, match="empty"):
        iou(torch.ones(4, 4), torch.zeros(4, 4))
    with pytest.raises(ValueError, match="resize_truth"):
        iou(torch.ones(4, 4), torch.ones(5, 4))


def test_a_truth_is_squashed_to_the_maps():
    truth = np.zeros((40, 80), dtype=np.uint8)
    truth[10:30, 20:40] = 1
    small = resize_truth(truth, 20)
    expected = torch.zeros(20, 20, dtype=torch.bool)
    expected[5:15, 5:10] = True
    assert torch.equal(small, expected)
    assert torch.equal(resize_truth(small.repeat_interleave(3, 0), (20, 20)), small)
    with pytest.raises(ValueError, match="two dimensions"):
        resize_truth(np.zeros((1, 4, 4)), 4)
