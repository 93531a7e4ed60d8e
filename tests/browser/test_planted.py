"""A gated unit written in by hand whose activation is negative: it adds the word it suppresses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mmn_utils.browser.atlas.build import build
from mmn_utils.browser.atlas.query import Atlas
from mmn_utils.browser.live import still
from mmn_utils.browser.live.session import Session
from mmn_utils.browser.page.write import unpack, write_page
from mmn_utils.browser.views import Views
from mmn_utils.datasets import Photograph, Words
from tests.neurons.test_planted_gated import WORDS, picture, planted, planted_system

SAID = Words("scene", "scenes", "reference caption", "reference captions")
NOUNS = [word.strip() for word in WORDS]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The planted system, a picture of each colour, and their atlas."""
    folder, model = tmp_path_factory.mktemp("planted"), planted_system()
    photographs = []
    for word, noun in zip(WORDS, NOUNS, strict=True):
        picture(word).save(folder / f"{noun}.png")
        photographs.append(Photograph(noun, folder / f"{noun}.png", (f"a {noun}",)))
    options = {"k": 10, "max_new_tokens": 1, "words": SAID, "progress": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMN_CACHE", str(folder / "cache"))
        path = build("planted", model, photographs, folder=folder / "atlas", **options)
    with Atlas.open(path) as atlas:
        yield SimpleNamespace(model=model, photographs=photographs, atlas=atlas, folder=folder)


@pytest.mark.parametrize("word", WORDS)
def test_its_row_has_the_sign_and_the_word_that_it_promotes(made, word):
    noun, views = word.strip(), Views(made.atlas)
    found = views.top(noun, noun)
    signs = {address: sign for address, _, _, sign in found["rows"]["contribution"]}
    double, plain = (str(planted(kind, word)) for kind in ("double", "planted"))
    assert (signs[double], signs[plain]) == (-1, 1)
    assert found["about"][double]["suppresses"][0] == word
    assert found["about"][plain]["writes"][0] == word
    assert word not in found["about"][double]["writes"]
    place = made.atlas.neuron(double).written(noun, noun)["contribution"]
    assert (place.end, place.rank) == ("suppresses", 2)


def test_so_it_is_live_and_in_the_still(made):
    session = Session(made.model, made.atlas, made.photographs, max_new_tokens=1)
    double = str(planted("double", " horse"))
    rows = session.word("horse", "horse", 2)["rows"]["contribution"]
    kept = session.top("horse", "horse", 2)["rows"]["contribution"]
    assert [(row[0], row[3]) for row in rows] == [(row[0], row[3]) for row in kept]
    assert next(row[3] for row in rows if row[0] == double) == -1
    view = {"image": "horse", "noun": "horse", "neuron": double, "method": "contribution"}
    html = still.html(session, view, heat=False)
    assert f"{double} " in html
    cell = html.split(f"<td>{double} ")[1].split("</td>")[0]
    assert cell.split(": ")[0].endswith("(−)")
    assert cell.split(": ")[1].split()[0] == "horse"
    assert "contribution: −, suppresses" in html


def test_so_it_is_on_the_page(made, windows):
    page = write_page("planted", None, made.atlas, made.folder, progress=False)
    assert unpack(page.path.read_text("utf-8"))["facts"]["words"] == SAID.facts()
    double = str(planted("double", " horse"))
    window = windows()
    window.goto(page.path.as_uri() + f"#{double}@horse&noun=horse&method=contribution")
    window.wait_for_selector('[data-part="card"][data-state="ready"] .there .sign')
    row = window.locator(f'[data-part="table"] tr[data-address="{double}"]')
    assert row.locator(".sign-of .sign").get_attribute("title").startswith("negative activation")
    assert row.locator("td.tokens .token").first.inner_text().strip() == "horse"
    end = window.locator('[data-part="card"] .end.suppresses')
    assert "written here" in end.inner_text()
    assert end.locator(".token").first.inner_text().strip() == "horse"
