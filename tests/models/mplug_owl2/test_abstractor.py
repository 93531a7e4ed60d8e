"""The visual abstractor against its formulas, line by line."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmn_utils.models.mplug_owl2.abstractor import VisualAbstractor, grid_embedding, line_embedding
from tests.models.mplug_owl2.tiny import ABSTRACTOR, lively


def test_line_embedding_is_sines_then_cosines():
    found = line_embedding(64, 24)
    for place in (0, 1, 17, 63):
        for j in range(12):
            angle = place / 10000 ** (j / 12)
            assert float(found[place, j]) == pytest.approx(math.sin(angle), abs=1e-5)
            assert float(found[place, 12 + j]) == pytest.approx(math.cos(angle), abs=1e-5)


def test_grid_embedding_tells_the_column_then_the_row_and_nothing_for_cls():
    found = grid_embedding(4, 24)
    assert found.shape == (17, 24)
    assert not found[0].any()
    line = line_embedding(4, 12)
    for row in range(4):
        for column in range(4):
            patch = found[1 + 4 * row + column]
            assert torch.equal(patch[:12], line[column])
            assert torch.equal(patch[12:], line[row])


def reference_abstractor(abstractor: VisualAbstractor, vision: torch.Tensor) -> torch.Tensor:
    """The abstractor line by line from its tensors, in float64."""
    w = {name: tensor.double() for name, tensor in abstractor.state_dict().items()}
    vision = vision.double()

    def affine(x, name):
        return torch.einsum("bnd,ed->bne", x, w[f"{name}.weight"]) + w[f"{name}.bias"]

    def norm(x, name, eps):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def heads(x):
        return x.reshape(*x.shape[:2], 4, 6)

    line = line_embedding(5, 24).double()
    places = torch.cat([line, grid_embedding(4, 24).double()])
    x = w["query_embeds"].repeat(len(vision), 1, 1)
    for layer in range(2):
        at = f"encoder.layers.{layer}.crossattention"
        normed = norm(x, f"{at}.norm1", 1e-5)
        kv = torch.cat([normed, norm(vision, f"{at}.normk", 1e-5)], dim=1)
        q = heads(affine(normed + line, f"{at}.attention.query"))
        k = heads(affine(kv + places, f"{at}.attention.key"))
        v = heads(affine(kv, f"{at}.attention.value"))
        shares = torch.einsum("bnhe,bmhe->bhnm", q, k).div(math.sqrt(6)).softmax(-1)
        mixed = torch.einsum("bhnm,bmhe->bnhe", shares, v).reshape(normed.shape)
        x = normed + affine(mixed, f"{at}.output.out_proj")
        y = norm(x, f"{at}.output.norm2", 1e-5)
        gate = affine(y, f"{at}.output.mlp.w1")
        hidden = gate / (1 + (-gate).exp()) * affine(y, f"{at}.output.mlp.w3")
        x = x + affine(norm(hidden, f"{at}.output.mlp.ffn_ln", 1e-6), f"{at}.output.mlp.w2")
    end = w["vit_eos"].repeat(len(vision), 1, 1)
    return torch.cat([affine(x, "visual_fc"), end], dim=1)


@settings(max_examples=3)
@given(seed=st.integers(0, 1000))
@torch.no_grad()
def test_the_abstractor_line_by_line(seed):
    abstractor = lively(VisualAbstractor(ABSTRACTOR, side=4, language_width=32), seed)
    vision = torch.randn(3, 17, 24, generator=torch.Generator().manual_seed(seed))
    found = abstractor(vision)
    assert found.shape == (3, 6, 32)
    expected = reference_abstractor(abstractor, vision).float()
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)
