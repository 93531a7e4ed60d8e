"""The probe: how well a linear map names the category of a patch, to watch the training.

No label takes part in the training itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from timm.models.beit import Beit
from torch import Tensor

from mmn_utils.miniature.scenes.sets import SceneSet
from mmn_utils.miniature.scenes.sprites import COLOURS
from mmn_utils.miniature.vision.encoder import encode_images
from mmn_utils.training.loop import side_by_side


def probe(model: Beit, scenes: SceneSet) -> dict[str, float]:
    """Return how well a linear map names the category, from a patch and from an object.

    Three quarters of the scenes teach the linear map, the rest test it.
    """
    return probe_features(torch.cat(list(encode_images(model, scenes.images))), scenes)


def probe_features(x: Tensor, scenes: SceneSet) -> dict[str, float]:
    """Return the same for features (N, P, D); a patch of theirs may be several of the scenes'."""
    y = torch.from_numpy(np.array(scenes.patch_concepts)).long()
    side = round(x.shape[1] ** 0.5)
    reach = round(y.shape[1] ** 0.5) // side
    x = x.unflatten(1, (side, side)).repeat_interleave(reach, 1).repeat_interleave(reach, 2)
    x = x.flatten(1, 2)
    scene = torch.arange(len(x))[:, None].expand_as(y)
    teaches = scene < len(x) * 3 // 4
    parts = [(x[m], y[m], scene[m]) for m in ((y >= 0) & teaches, (y >= 0) & ~teaches)]
    patch = probe_accuracy(*[(p[0], p[1]) for p in parts])
    whole = probe_accuracy(*[_pooled(*p) for p in parts])
    return {"patch": patch, "object": whole}


def colour_table(encoders: Mapping[str, Beit], scenes: Callable[[str], SceneSet]) -> pd.DataFrame:
    """Probe encoders on scenes in each of ``COLOURS``: encoder, colours, patch, object."""
    shown = {colours: scenes(colours) for colours in COLOURS}
    cells = list(product(encoders, COLOURS))
    with side_by_side() as pool:
        found = list(pool.map(lambda cell: probe(encoders[cell[0]], shown[cell[1]]), cells))
    names = pd.DataFrame(cells, columns=["encoder", "colours"])
    return names.join(pd.DataFrame(found))


# --- a linear classifier ----------------------------------------------------------------


def probe_accuracy(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """Return the test accuracy of a linear classifier on standardised (x (N, D), y (N,))."""
    (x, y), (x_test, y_test) = train, test
    mean, spread = x.mean(0), x.std(0) + 1e-6
    x, x_test = (x - mean) / spread, (x_test - mean) / spread
    weight = torch.zeros(x.shape[1] + 1, int(y.max()) + 1, requires_grad=True)
    solver = torch.optim.LBFGS([weight], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(x @ weight[:-1] + weight[-1], y) + 1e-4 * weight.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    with torch.no_grad():
        return float(((x_test @ weight[:-1] + weight[-1]).argmax(1) == y_test).float().mean())


def _pooled(x: Tensor, y: Tensor, scene: Tensor) -> tuple[Tensor, Tensor]:
    """Average the patches (N, D) of each object; an object is a category in a scene."""
    key, owner = torch.unique(scene * 1000 + y, return_inverse=True)
    counts = torch.bincount(owner).float()[:, None]
    return torch.zeros(len(key), x.shape[1]).index_add_(0, owner, x) / counts, key % 1000
