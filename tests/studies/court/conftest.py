"""A system in which it is known which unit writes which word, its pictures, and their truth."""

from __future__ import annotations

import pandas as pd
import pytest

from mmn_utils.datasets import Photograph
from mmn_utils.neurons.captions import Caption
from mmn_utils.studies.court import trial
from mmn_utils.studies.subjects import Subjects
from tests.interventions.planted import picture, planted, target

SHOWN = [("c", "horse", 0), ("a", "boat", 0), ("d", "horses", 0), ("b", "horse", 2)]


@pytest.fixture(scope="module")
def system():
    return planted()


@pytest.fixture(scope="module")
def some(tmp_path_factory) -> Subjects:
    """Four pictures, whose ids are in no order, each with the word that it shows."""
    folder, photographs = tmp_path_factory.mktemp("planted"), []
    for name, word, shade in SHOWN:
        picture(word, shade).save(folder / f"{name}.png")
        photographs.append(Photograph(name, folder / f"{name}.png"))
    every = [[target(word, name)] for name, word, _ in SHOWN]
    return Subjects(photographs, [Caption(word, (1,)) for _, word, _ in SHOWN], every)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A cache for what all tests of a file share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMN_CACHE", str(tmp_path_factory.mktemp("results")))
        yield


@pytest.fixture(scope="module")
def truth(system, some, results) -> pd.DataFrame:
    return trial.truth_of(system, some)


@pytest.fixture(scope="module")
def court(system, some, truth) -> trial.Trial:
    return trial.Trial.of(system, some, truth)


@pytest.fixture(scope="module")
def fields(court) -> pd.DataFrame:
    return trial.fields(court)
