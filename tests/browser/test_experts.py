"""In a mixture of experts an atlas, its views and its page name a unit by its expert."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from mmn_utils.browser.address import read, write
from mmn_utils.browser.atlas.query import Atlas
from mmn_utils.browser.views import Views
from mmn_utils.models.architectures import Experts
from mmn_utils.neurons.table import Neuron, address, neuron_at
from tests.browser.conftest import SEED, make
from tests.studies.boxes import boxed
from tests.tiny import tiny_limber


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    """The atlas of a system whose units are told to be experts': names are all that changes."""
    folder = tmp_path_factory.mktemp("experts")
    model = copy.copy(tiny_limber(SEED))
    part = model.sizes.units // 4
    experts = Experts(3, part, model.sizes.units - 3 * part)
    model.architecture = replace(model.architecture, experts=experts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMN_CACHE", str(folder / "cache"))
        path = make(model, boxed(folder)[:2], folder / "tiny")
    with Atlas.open(path) as opened:
        yield opened


def test_tables_and_cards_name_the_expert(atlas):
    facts = atlas.facts
    scores = atlas.image(atlas.pictures()["image"][0]).scores
    assert len(scores)
    expected = [
        address(facts, Neuron(a, b)) for a, b in zip(scores["layer"], scores["unit"], strict=True)
    ]
    assert scores["address"].tolist() == expected
    last = Neuron(1, facts.units - 1)
    named = f"L1.shared.u{facts.experts.shared - 1}"
    assert address(facts, last) == named
    assert atlas.neuron(named).neuron == atlas.neuron(str(last)).neuron == last
    with pytest.raises(ValueError, match="is not in this model"):
        atlas.neuron("L1.e3.u0")


def test_views_and_addresses_keep_the_name(atlas):
    views = Views(atlas)
    assert views.facts()["experts"] == {
        "count": 3, "units": atlas.facts.experts.units, "shared": atlas.facts.experts.shared,
    }  # fmt: skip
    assert views.card("L1.e2.u1")["address"] == "L1.e2.u1"
    control = views.control("L1.e2.u1")["address"]
    assert address(atlas.facts, neuron_at(atlas.facts, control)) == control
    view, trouble = read("#L1.e02.u1&chosen=L0.shared.u3")
    assert not trouble
    assert (view["neuron"], view["chosen"]) == ("L1.e2.u1", ["L0.shared.u3"])
    assert read(write(view))[0] == view
