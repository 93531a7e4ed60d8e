"""What images of one concept share: on planted tables, against plain sets."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mmn_utils.datasets import Instance, Photograph
from mmn_utils.datasets.base import TooFew
from mmn_utils.measures.estimates import share_of
from mmn_utils.neurons.captions import Caption
from mmn_utils.neurons.table import neuron_table
from mmn_utils.neurons.targets import Target
from mmn_utils.studies.concepts.invariance import cross_image_invariance, unrelated_images
from mmn_utils.studies.concepts.sharing import by_chance, most_images, sharing
from mmn_utils.studies.subjects import Subjects
from tests.tiny import tiny_images

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
def some(tables, tmp_path_factory):
    """Return the photographs of the tables: those of cats and dogs have an annotation."""
    pairs = tables["contribution"][["image", "target"]].drop_duplicates()
    path = tmp_path_factory.mktemp("sharing") / "one.png"
    tiny_images(1)[0].save(path)
    photographs, every = [], []
    for image, noun in pairs.itertuples(index=False):
        shape = Instance(noun, "animal", 4.0, False, (48, 40), [])
        named = (shape,) if noun in ("cat", "dog") else ()
        photographs.append(Photograph(image, path, instances=named, size=(48, 40)))
        every.append([Target(image, noun, 1, ())])
    return Subjects(photographs, [Caption("", ())] * len(every), every)


@pytest.fixture(scope="module")
def found(tables, some):
    return sharing(tables, some, ns=NS, ks=KS, k=4, draws=2, seed=5)


def test_planted_neurons_are_found_again(found):
    assert found.n == 3
    assert found.methods == ("contribution", "attribution")
    at = found.at
    assert at.index.tolist() == list(CONCEPTS)
    np.testing.assert_allclose(at["contribution"], 0.75)
    np.testing.assert_allclose(at["attribution"], 0.25)
    np.testing.assert_allclose(at["contribution_unrelated"], 0)
    assert at["contribution_gate"].isna().all()  # no table of it was given


def test_shown_are_annotated_objects_first_and_those_in_most_images(found):
    assert found.at["object"].to_dict() == {c: c in ("cat", "dog") for c in CONCEPTS}
    shown = found.shown(objects=1, others=2)
    assert shown.index.tolist() == ["dog", "boat", "house"]
    assert shown["images"].tolist() == [4, 3, 3]
    assert (shown["contribution_low"] <= shown["contribution"]).all()
    assert (shown["contribution"] <= shown["contribution_high"]).all()
    assert len(found.shown(objects=4, others=2)) == 5  # the other kind fills up


def test_numbers_are_those_of_the_counts_themselves(tables, found):
    options = {"ns": NS, "ks": KS, "seed": 5, "draws": 2}
    same = cross_image_invariance(tables["attribution"], **options)
    apart = unrelated_images(tables["attribution"], **options)
    curves = found.curves(5)
    assert list(curves) == ["method", "concept", "k", "n", "mean", "low", "high", "cases"]
    assert len(curves) == len(NS) * len(KS) * 4
    curves = curves.query("method == 'attribution' and k == 2 and n == 3").set_index("concept")
    for kind, ratios in (("same", same), ("different", apart)):
        expected = share_of(ratios.query("k == 2 and n == 3")["ratio"], 5)
        found_there = curves.loc[kind, ["mean", "low", "high", "cases"]].tolist()
        assert found_there == [expected.value, *expected.ci, expected.n]
    rows = found.rows.query("k == 2 and n == 3").set_index("concept")
    ratios = same.query("k == 2 and n == 3").set_index("concept")["ratio"]
    assert rows["attribution"].to_dict() == ratios.to_dict()


def test_the_k_of_claims_is_one_of_those_counted(tables, some):
    with pytest.raises(ValueError, match="k = 3 is not among ks"):
        sharing(tables, some, ns=NS, ks=KS, k=3)


def test_concepts_of_one_image_each_share_nothing(tables, some):
    alone = {name: table.query("image.str.endswith('-0')") for name, table in tables.items()}
    with pytest.raises(TooFew, match="no noun is in 2 of the 5 photographs' captions; take more"):
        sharing(alone, some, ns=NS, ks=KS, k=4)


@pytest.mark.parametrize(
    ("concepts", "reached"), [(["dog"], None), (["cat", "dog"], 2), (["boat", "cat", "dog"], 3)]
)
def test_images_of_other_concepts_limit_how_many_are_compared(tables, some, concepts, reached):
    few = {name: table[table["target"].isin(concepts)] for name, table in tables.items()}
    if reached is None:
        with pytest.raises(TooFew, match="4 of the 4 photographs' captions have the noun 'dog'"):
            sharing(few, some, ns=NS, ks=KS, k=4)
        return
    found = sharing(few, some, ns=NS, ks=KS, k=4)
    assert found.rows["n"].max() == reached
    assert found.curves()["mean"].notna().all()
    assert list(found.shown()["images"]) == sorted(found.at["images"], reverse=True)


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
