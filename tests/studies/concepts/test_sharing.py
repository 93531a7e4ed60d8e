"""What images of one concept share: on planted tables, against plain sets."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mmn_utils.measures.estimates import difference_of, mean_of
from mmn_utils.neurons.table import neuron_table
from mmn_utils.studies.concepts.invariance import cross_image_invariance, unrelated_images
from mmn_utils.studies.concepts.sharing import by_chance, most_images, sharing

CONCEPTS = ("boat", "cat", "dog", "house", "tree")
NS, KS = [2, 3], [2, 4]


def table(own: int, seed: int) -> pd.DataFrame:
    """Give each concept ``own`` units of its own in each of its images, and random others."""
    rng = np.random.default_rng(seed)
    rows = []
    for c, concept in enumerate(CONCEPTS):
        for image in range(3 + (concept == "dog")):  # dogs are in one image more
            units = [10 * c + i for i in range(own)] + [100 + int(u) for u in rng.permutation(800)]
            rows += [
                {"image": f"{concept}-{image}", "target": concept, "token": c, "layer": 0,
                 "unit": unit, "patch": -1, "score": float(-i)}
                for i, unit in enumerate(units[:4])
            ]  # fmt: skip
    return neuron_table(rows)


@pytest.fixture(scope="module")
def tables():
    return {"contribution": table(3, 1), "attribution": table(1, 2)}


@pytest.fixture(scope="module")
def found(tables):
    return sharing(tables, ns=NS, ks=KS, k=4, draws=2, seed=5)


def test_planted_neurons_are_found_again(found):
    assert found.n == 3
    assert list(found.ratios) == ["contribution", "attribution"]
    assert found.ratios.index.tolist() == list(CONCEPTS)
    np.testing.assert_allclose(found.ratios["contribution"], 0.75)
    np.testing.assert_allclose(found.ratios["attribution"], 0.25)
    assert found.share["contribution"].value == 0.75
    assert found.floor["contribution"].value == 0
    assert found.gap.value == pytest.approx(0.5)
    assert found.beyond.value == pytest.approx(0.75)
    assert found.most_frequent(2).index.tolist() == ["dog", "boat"]


def test_numbers_are_those_of_the_counts_themselves(tables, found):
    options = {"ns": NS, "ks": KS, "seed": 5}
    same = cross_image_invariance(tables["attribution"], draws=2, **options)
    apart = unrelated_images(tables["attribution"], draws=20, **options)
    curves = found.curves()
    assert list(curves) == ["n", "mean", "low", "high", "cases", "k", "method", "concept"]
    assert len(curves) == len(NS) * len(KS) * 4
    curves = curves.query("method == 'attribution' and k == 2 and n == 3").set_index("concept")
    for kind, ratios in (("same", same), ("different", apart)):
        expected = mean_of(ratios.query("k == 2 and n == 3")["ratio"], 5)
        found_there = curves.loc[kind, ["mean", "low", "high", "cases"]].tolist()
        assert found_there == [expected.value, *expected.ci, expected.n]
    ratios = found.ratios
    assert found.gap == difference_of(ratios["contribution"], ratios["attribution"], 5)


def test_the_k_of_claims_is_one_of_those_counted(tables):
    with pytest.raises(ValueError, match="k = 3 is not among ks"):
        sharing(tables, ns=NS, ks=KS, k=3)


def test_random_sets_share_less_with_every_image():
    found = by_chance([2, 3], [10, 100], 1000)
    assert found.index.tolist() == [2, 3]
    np.testing.assert_allclose(found[10], [0.01, 0.0001])
    np.testing.assert_allclose(found[100], [0.1, 0.01])


def test_claims_take_the_most_images_that_enough_concepts_have():
    ratios = pd.DataFrame({"concept": [*"abcdef", *"abcde", "a"], "n": [2] * 6 + [3] * 5 + [4]})
    assert most_images(ratios) == 3
    assert most_images(ratios, least=1) == 4
    assert most_images(ratios, least=7) == 2
    with pytest.raises(ValueError, match="take more photographs"):
        most_images(ratios.iloc[:0])
