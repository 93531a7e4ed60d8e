"""The probe: of every encoder, in every colour."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmn_utils.miniature.scenes.sprites import COLOURS
from mmn_utils.miniature.vision.encoder import build_encoder
from mmn_utils.miniature.vision.probe import colour_table, probe
from tests.miniature.vision.tiny import TINY


def test_every_encoder_is_probed_in_every_colour(model, scenes):
    rng, fresh = np.random.default_rng(1), build_encoder(TINY).eval()
    marked = replace(scenes, patch_concepts=rng.integers(0, 3, (12, 16)).astype(np.int8))
    shown = {name: replace(marked, images=scenes.images // (1 + i)) for i, name in
             enumerate(COLOURS)}  # fmt: skip
    table = colour_table({"trained": model, "fresh": fresh}, shown.get)
    assert list(table["encoder"]) == ["trained"] * len(COLOURS) + ["fresh"] * len(COLOURS)
    assert list(table["colours"]) == [*COLOURS] * 2
    for row in table.to_dict("records"):
        encoder = {"trained": model, "fresh": fresh}[row["encoder"]]
        expected = probe(encoder, shown[row["colours"]])
        assert {name: row[name] for name in expected} == pytest.approx(expected, abs=0.03)
