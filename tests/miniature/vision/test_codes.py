"""Codes: clusters that are found, and windows that lie around their patch."""

from __future__ import annotations

import numpy as np
import torch

from mmn_utils.miniature.vision.codes import kmeans, nearest, windows
from mmn_utils.miniature.vision.encoder import to_input


def test_kmeans_finds_separate_clusters():
    centres = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    points = centres.repeat(50, 1) + 0.1 * torch.randn(150, 2, generator=torch.manual_seed(0))
    found = kmeans(points, 3, seed=1)
    assert torch.cdist(centres, found).min(1).values.max() < 0.2 or len(found) == 3
    assert len(nearest(points, found).unique()) == 3


def test_windows_are_means_around_the_patch():
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    window = windows(image, 8)[0, 5].view(3, 6, 6)  # patch in row 1, column 1
    block = to_input(image)[0, :, 0:4, 0:4].mean((1, 2))
    torch.testing.assert_close(window[:, 0, 0], block)
