"""The page without a kernel: what is packed, how large, the same bytes; and in a real browser."""

from __future__ import annotations

import base64
import dataclasses
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mmn_utils.browser.__main__ import main
from mmn_utils.browser.atlas.files import write_atlas
from mmn_utils.browser.atlas.query import Atlas
from mmn_utils.browser.atlas.words import ENDS
from mmn_utils.browser.page.maps import HeatMap, heat_map, heat_maps
from mmn_utils.browser.page.pack import Plan, from_text, short, to_text
from mmn_utils.browser.page.write import (
    BESIDE,
    LIMIT,
    STANDALONE_LIMIT,
    browsed,
    pictures_beside,
    plans_of,
    unpack,
    write_page,
)
from mmn_utils.browser.views import Views
from mmn_utils.neurons.receptive_fields import activation_maps
from mmn_utils.neurons.table import Neuron
from mmn_utils.presets import ROOT
from tests.browser.atlas.reference import random_atlas
from tests.tiny import tiny_limber

ODD = "a b#c%20d?é<b>&amp;'\".png"  # what a file's name may hold


@pytest.fixture(scope="module")
def written(made, tmp_path_factory):
    """The pages of the tiny system: one that refers to its pictures, one that holds them."""
    folder = tmp_path_factory.mktemp("figures") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield {
            standalone: write_page(
                "tiny", made.model, made.atlas, folder, standalone=standalone, progress=False
            )
            for standalone in (False, True)
        }


@pytest.fixture(scope="module")
def packed(written):
    return {key: unpack(page.path.read_text("utf-8")) for key, page in written.items()}


# --- heat maps ----------------------------------------------------------------------------


@given(arrays.arrays(np.float32, 12, elements=st.floats(-1e4, 1e4, width=32)))
def test_eight_bits_are_as_near_as_eight_bits_can_be(values):
    one = heat_map(values)
    assert (one.low, one.high) == (values.min(), values.max())
    step = (one.high - one.low) / 255
    near = step * 0.5 + 1e-6 * max(1, abs(values).max())
    assert np.abs(one.values(len(values)) - values).max() <= near


def test_a_constant_map_stays_what_it_is():
    assert heat_map(np.full(4, 2.5, np.float32)).values(4).tolist() == [2.5] * 4


def test_a_map_whose_highest_patches_are_close_has_two_bytes_for_each():
    values = np.linspace(-1e-4, -1e-6, 49, dtype=np.float32)
    values[7] = -0.05
    one = heat_map(values)
    assert len(one.steps) == 2 * 49
    wanted = values > np.quantile(values, 0.95)
    np.testing.assert_array_equal(one.values(49) > np.quantile(one.values(49), 0.95), wanted)
    assert len(heat_map(np.linspace(0, 1, 49)).steps) == 49


def test_maps_are_the_systems_and_computed_once(made, tmp_path, monkeypatch):
    monkeypatch.setenv("MMN_CACHE", str(tmp_path))
    chosen = {"1": ["L0.u3", "L2.u9"], "4": ["L1.u0"], "0": []}
    found = heat_maps(made.model, made.photographs, chosen, progress=False)
    assert {image: list(maps) for image, maps in found.items()} == {
        image: chosen[image] for image in ("1", "4")
    }
    for image, addresses in found.items():
        picture = made.photographs[int(image)].open()
        neurons = [Neuron.parse(address) for address in addresses]
        wanted = activation_maps(made.model, [picture], neurons)[0].flatten(1)
        for one, values in zip(addresses.values(), wanted, strict=True):
            step = (one.high - one.low) / 255
            np.testing.assert_allclose(one.values(len(values)), values, atol=0.51 * step + 1e-7)
    monkeypatch.setattr("mmn_utils.browser.page.maps.activation_maps", None)
    assert heat_maps(made.model, made.photographs, chosen, progress=False) == found


# --- what is packed -----------------------------------------------------------------------


def _apart(data) -> list[list]:
    """What is said in short of each neuron, its number of nouns last."""
    return [[*one[:3], *one[4:], one[3]] for one in data["about"]]


@pytest.mark.parametrize("standalone", [False, True])
def test_the_page_answers_as_the_atlas_does(made, packed, standalone):
    data, views = packed[standalone], Views(made.atlas)
    assert data["facts"] == views.facts()
    names = data["neurons"]
    about = views.about(names)
    flags = ("interpretable", "interpretable_suppresses", "generic", "nouns")
    for name, card, (*said, nouns) in zip(names, data["cards"], _apart(data), strict=True):
        held = card and [[text for text, _ in card["tokens"][end][:5]] for end in ENDS]
        values = (*map(bool, said[:3]), nouns, *(held or said[3:]))
        one = dict(zip((*flags, *ENDS), values, strict=True))
        assert one == about[name]
    for image, nouns in data["tops"].items():
        picture = views.picture(image)
        own = {**data["pictures"][image], "src": None, "id": image}
        assert own == {**picture, "src": None}
        assert list(nouns) == picture["nouns"]
        for noun, rows in nouns.items():
            wanted = views.top(image, noun, made.atlas.facts.k)["rows"]
            for method, some in rows.items():
                ranks = [row[4] if len(row) > 4 else rank for rank, row in enumerate(some, 1)]
                known = [wanted[method][rank - 1] for rank in ranks]
                assert [[names[i], patch, sign] for i, _, patch, sign, *_ in some] == [
                    [address, patch, sign] for address, _, patch, sign in known
                ]
                scores = [score for _, score, *_ in known]
                np.testing.assert_allclose([row[1] for row in some], scores, rtol=5e-3)


@pytest.mark.parametrize("standalone", [False, True])
def test_every_neuron_of_a_table_has_its_card_its_control_and_their_maps(made, packed, standalone):
    data, views = packed[standalone], Views(made.atlas)
    names, images = data["neurons"], [one["id"] for one in data["facts"]["pictures"]]
    shown = {row[0] for nouns in data["tops"].values() for rows in nouns.values()
             for some in rows.values() for row in some}  # fmt: skip
    for i in shown:
        control = data["controls"][i]
        assert names[control] == views.control(names[i])["address"]
        assert data["cards"][i]
        assert data["cards"][control]
        vectors, pictures = data["similar"][i]
        near = views.similar(names[i])
        assert [names[j] for j, _ in pictures] == [a for a, _ in near["pictures"]][: len(pictures)]
        cosines = [cosine for _, cosine in near["vectors"]][: len(vectors)]
        np.testing.assert_allclose([cosine for _, cosine in vectors], cosines, atol=5e-3)
    for i in list(shown)[:10]:
        card, whole = data["cards"][i], views.card(names[i])
        assert [text for text, _ in card["tokens"]["writes"]] == [
            text for text, _ in whole["tokens"]["writes"]
        ]
        here = {(p[0], p[1], p[2]): (p[3], p[6]) for p in whole["places"]}
        for method, place, noun, rank, _, _, sign in card["places"]:
            assert here[method, images[place], noun] == (rank, sign)
        for kind, some in card["sights"].items():
            assert [[images[j], patch] for j, _, patch in some] == [
                [image, patch] for image, _, patch in whole["sights"][kind]
            ][: len(some)]
        assert card["placed"] == len(whole["places"])
        assert {noun for _, _, noun, *_ in card["places"]} <= {p[2] for p in whole["places"]}
    for image, nouns in data["tops"].items():
        kept = {names[row[0]] for row in data["maps"].get(image, [])}
        some = [rows[0] for noun in nouns.values() for rows in noun.values()]
        assert {names[row[0]] for noun in nouns.values() for rows in noun.values()
                for row in rows} <= kept  # fmt: skip
        assert {names[data["controls"][row[0]]] for row in some} <= kept


def test_neurons_of_one_method_have_their_scores_by_the_others(made, tmp_path):
    page = write_page("tiny", None, made.atlas, tmp_path, limit=1, progress=False)
    data, views = unpack(page.path.read_text("utf-8")), Views(made.atlas)
    assert page.top == 1
    for image, nouns in data["tops"].items():
        for noun, rows in nouns.items():
            named = {data["neurons"][some[0][0]] for some in rows.values()}
            wanted = views.top(image, noun, made.atlas.facts.k)["rows"]
            for method, some in rows.items():
                assert [(data["neurons"][row[0]], *row[3:]) for row in some[1:]] == [
                    (row[0], row[3], rank)
                    for rank, row in enumerate(wanted[method], 1)
                    if rank > 1 and row[0] in named
                ]


def test_the_packed_maps_are_the_systems(made, packed):
    data = packed[False]
    image, rows = next(iter(data["maps"].items()))
    neurons = [Neuron.parse(data["neurons"][row[0]]) for row in rows]
    place = int(image)
    wanted = activation_maps(made.model, [made.photographs[place].open()], neurons)[0].flatten(1)
    for (_, low, high, code), values in zip(rows, wanted.numpy(), strict=True):
        found = HeatMap(low, high, base64.b64decode(code)).values(len(values))
        width = float(values.max() - values.min())
        np.testing.assert_allclose(found, values, atol=0.01 * width + 1e-3 * abs(values).max())


def test_a_page_is_as_full_as_its_limit_allows(made, tmp_path, monkeypatch, written):
    monkeypatch.setenv("MMN_CACHE", str(tmp_path / "cache"))
    options = {"folder": tmp_path, "progress": False}
    full = written[False]
    assert full.top == 10
    less = write_page("tiny", made.model, made.atlas, limit=full.size * 24 // 25, **options)
    assert less.size <= full.size * 24 // 25
    assert less.top < full.top
    one = write_page("tiny", made.model, made.atlas, limit=1, **options)
    assert (one.top, one.size > 1) == (1, True)
    assert str(one).endswith(f"{one.neurons:,} cards, {one.maps:,} heat maps")


def test_the_same_answers_give_the_same_bytes(made, tmp_path, monkeypatch, written):
    for name in ("first", "second"):
        monkeypatch.setenv("MMN_CACHE", str(tmp_path / name))
        page = write_page("tiny", made.model, made.atlas, tmp_path / name, standalone=True,
                          progress=False)  # fmt: skip
        assert page.path.read_bytes() == written[True].path.read_bytes()


def test_without_a_model_or_a_grid_there_are_no_maps(made, tmp_path):
    page = write_page("tiny", None, made.atlas, tmp_path, progress=False)
    assert page.maps == 0
    facts, parts = random_atlas(0)
    facts = dataclasses.replace(facts, grid=None)
    pictures = [str(photograph.path) for photograph in made.photographs]
    parts.pictures["file"] = [pictures[i % len(pictures)] for i in range(len(parts.pictures))]
    with Atlas.open(write_atlas(tmp_path / "bare", facts, parts)) as atlas:
        page = write_page("bare", made.model, atlas, tmp_path, progress=False)
        data = unpack(page.path.read_text("utf-8"))
    assert (page.maps, data["facts"]["grid"]) == (0, None)


def test_another_systems_model_is_refused(made, tmp_path):
    with pytest.raises(ValueError, match="give the one that it was made from"):
        write_page("tiny", tiny_limber(99), made.atlas, tmp_path, progress=False)


def test_pictures_are_referred_to_or_inside(made, written, packed):
    folder = written[False].path.parent
    for image, one in packed[False]["pictures"].items():
        path = (folder / unquote(one["src"])).resolve()
        assert path == made.photographs[int(image)].path.resolve()
    assert pictures_beside(written[False].path) == [
        one["src"] for one in packed[False]["pictures"].values()
    ]
    assert pictures_beside(written[True].path) == []
    assert written[True].path.name == "browser-standalone.html"
    with pytest.raises(ValueError, match="not a page of the browser"):
        unpack("<html>")


def test_plans_get_smaller_and_a_large_system_has_not_every_card(made):
    for standalone in (False, True):
        plans = plans_of(made.atlas, standalone)
        assert plans == sorted(plans, key=lambda plan: (not plan.every, -plan.top, -plan.mapped))
        assert len(set(plans)) == len(plans)
        assert all(1 <= plan.mapped <= plan.top for plan in plans)
        assert plans[-1].top == 1
        assert all(plan.beside <= min(plan.top, BESIDE) for plan in plans)
    facts = dataclasses.replace(made.atlas.facts, layers=28, units=16384, k=100)
    large = Atlas(made.folder, facts, None)
    assert not any(plan.every for plan in plans_of(large, True))
    small = Atlas(made.folder, dataclasses.replace(facts, units=704), None)
    assert plans_of(small, True)[0] == Plan(100, 100, BESIDE, True, 10, 10, 10)


PLAIN = st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(st.recursive(PLAIN, lambda some: st.lists(some) | st.dictionaries(st.text(), some)))
def test_text_of_answers_is_read_back(value):
    assert from_text(to_text({"x": value})) == {"x": value}


@given(st.floats(-1e6, 1e6))
def test_numbers_keep_three_digits(value):
    assert short(value) == pytest.approx(value, rel=5e-3)
    assert len(str(abs(short(value))).replace(".", "").split("e")[0].strip("0")) <= 3


def test_the_command_writes_a_page_or_says_what_is_missing(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MMN_FIGURES", str(tmp_path))
    monkeypatch.setenv("MMN_ATLAS", str(tmp_path / "none"))
    monkeypatch.setattr("mmn_utils.presets.ROOT", tmp_path / "none")
    assert main(["page", "miniature"]) == 2
    assert "make it with: make atlas PRESET=miniature" in capsys.readouterr().err


@pytest.mark.parametrize("options", [[], ["--standalone"]])
def test_the_command_loads_the_presets_system(
    made, written, options, capsys, monkeypatch, tmp_path
):
    monkeypatch.setenv("MMN_FIGURES", str(tmp_path))
    monkeypatch.setenv("MMN_CACHE", str(tmp_path / "cache"))
    asked = {"run": "tiny", "model": "a system", "device": "cpu", "dtype": "float32"}
    monkeypatch.setattr("mmn_utils.browser.page.write.resolve", lambda *_: asked)
    monkeypatch.setattr("mmn_utils.browser.page.write.load_model", lambda name, **_: made.model)
    opened = Atlas.open(made.folder)
    monkeypatch.setattr("mmn_utils.browser.page.write.Atlas.open", lambda run: opened)
    assert main(["page", "tiny", *options]) == 0
    page = written[bool(options)]
    assert f"tiny/{page.path.name}: " in capsys.readouterr().out
    data = unpack((tmp_path / "tiny" / page.path.name).read_text("utf-8"))
    assert sum(map(len, data["maps"].values())) == page.maps


# --- the pages that are committed -------------------------------------------------------------


@pytest.mark.parametrize("run", browsed())
def test_a_committed_page_is_small_and_finds_its_pictures(run):
    path = ROOT / "figures" / run / "browser.html"
    if not path.is_file():
        pytest.skip(f"{run} has no page yet; make it with: make page PRESET={run}")
    assert path.stat().st_size < LIMIT
    beside = pictures_beside(path)
    assert len(beside) == len(unpack(path.read_text("utf-8"))["pictures"])
    for url in beside:
        assert (path.parent / unquote(url)).resolve().is_relative_to(ROOT / "data" / "miniature")
        assert (path.parent / unquote(url)).is_file()
    standalone = path.with_name("browser-standalone.html")
    if standalone.is_file():
        assert standalone.stat().st_size < STANDALONE_LIMIT


# --- in a browser -------------------------------------------------------------------------


def opened(windows, path: Path, address: str = "", **options):
    """Open a page from the disk; whatever would go over a network fails the test."""
    page = windows(**options)
    page.route(re.compile("^https?:"), lambda route: windows.faults.append(route.request.url))
    page.on("requestfailed", lambda request: windows.faults.append(f"failed: {request.url}"))
    page.goto(path.as_uri() + address)
    page.wait_for_selector("[data-part=table] [data-address]")
    return page


def addresses(page, part: str = "table") -> list[str]:
    rows = page.locator(f"[data-part={part}] [data-address]").all()
    return list(dict.fromkeys(row.get_attribute("data-address") for row in rows))


@pytest.mark.parametrize("standalone", [False, True])
def test_the_page_opens_from_the_disk_without_a_network(windows, written, packed, standalone):
    page = opened(windows, written[standalone].path)
    assert page.locator("[data-part=grid] [data-image]").count() == 5
    shown = page.evaluate("[...document.images].map((one) => one.complete && one.naturalWidth > 0)")
    assert shown
    assert all(shown)
    caption = packed[standalone]["pictures"][packed[standalone]["facts"]["pictures"][0]["id"]]
    assert caption["caption"].strip() in page.locator("[data-part=caption]").inner_text()


def test_first_paint_is_printed(windows, written, capsys):
    page = opened(windows, written[True].path)
    paint = page.evaluate("performance.getEntriesByType('paint').map((e) => [e.name, e.startTime])")
    with capsys.disabled():
        print(f"\nfirst paint of a page of {written[True].size:,} bytes: {dict(paint)} ms")
    assert paint


def test_a_noun_a_row_and_a_picture_change_the_view_and_the_address(windows, written):
    page = opened(windows, written[False].path)
    first = page.evaluate("location.hash")
    page.locator("[data-part=grid] [data-image]").nth(2).click()
    page.wait_for_function("(before) => location.hash !== before", arg=first)
    image = page.locator("[data-part=grid] [data-image]").nth(2).get_attribute("data-image")
    assert f"@{image}" in page.evaluate("location.hash")
    row = page.locator("[data-part=table] [data-address]").nth(3)
    address = row.get_attribute("data-address")
    row.get_by_text(address, exact=True).first.click()
    page.wait_for_function("(one) => location.hash.includes(one)", arg=f"#{address}")
    assert address in page.locator("[data-part=card]").inner_text()


def test_a_deep_link_opens_its_view(windows, written, packed):
    data = packed[False]
    image = data["facts"]["pictures"][1]["id"]
    noun, rows = next(iter(data["tops"][image].items()))
    address = data["neurons"][rows["contribution"][1][0]]
    link = f"#{address}@{image}&noun={noun}&method=contribution&quantile=0.8"
    page = opened(windows, written[False].path, link)
    page.wait_for_function(
        "(one) => document.querySelector('[data-part=card]').innerText.includes(one)", arg=address
    )
    control = data["neurons"][data["controls"][rows["contribution"][1][0]]]
    assert control in page.locator("[data-part=control]").inner_text()
    assert float(page.locator("[data-part=threshold]").input_value()) == pytest.approx(0.8)
    assert page.evaluate("location.hash").startswith(f"#{address}@{image}")


def test_the_table_sorts_by_each_method(windows, written):
    page = opened(windows, written[False].path)
    before = addresses(page)
    page.locator("[data-part=table] th button", has_text="contribution").click()
    page.wait_for_function(
        "(first) => document.querySelector('[data-part=table] [data-address]')"
        ".dataset.address !== first", arg=before[0],
    )  # fmt: skip
    assert set(addresses(page)) == set(before)
    assert addresses(page) != before


def test_search_finds_the_neurons_that_the_page_holds(windows, written, packed):
    data = packed[False]
    written_by = {
        name: {text.strip().lower() for text, _ in card["tokens"]["writes"]}
        for name, card in zip(data["neurons"], data["cards"], strict=True)
        if card
    }
    word = next(text for texts in written_by.values() for text in sorted(texts) if text.isalpha())
    wanted = {name for name, texts in written_by.items() if word in texts}
    page = opened(windows, written[False].path)
    page.locator("[data-part=search] input").first.fill(word)
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-part=search] [data-address]")
    assert set(addresses(page, "search")) <= wanted
    assert addresses(page, "search")


def test_the_threshold_moves_the_overlay(windows, written):
    page = opened(windows, written[False].path)
    overlay = page.locator("canvas[data-part=overlay]").first
    overlay.wait_for()
    page.wait_for_timeout(300)
    before = overlay.evaluate("(one) => one.toDataURL()")
    page.locator("[data-part=threshold]").fill("0.3")
    page.wait_for_function(
        "(before) => document.querySelector('canvas[data-part=overlay]').toDataURL() !== before",
        arg=before,
    )
    page.wait_for_function("location.hash.includes('quantile=0.3')")


# --- text is never markup -------------------------------------------------------------------


HOSTILE = (
    "<filename>", "<b>", "&amp;", "</script>", "]]>", "<!--", "<img src=x onerror=alert(1)>",
    "${x}", "\\u003cb\\u003e", "{{ 7*7 }}", "'\"`", "__proto__", "constructor",
)  # fmt: skip


@pytest.fixture(scope="module")
def hostile(made, tmp_path_factory):
    """A page whose run, tokens, captions, nouns and files are called as markup is written."""
    folder = tmp_path_factory.mktemp("hostile <b>&amp; #%20?é")
    facts, parts = random_atlas(1)
    texts = [*HOSTILE, *parts.vocabulary["text"][len(HOSTILE) :]]
    parts.vocabulary["text"] = texts
    for end in parts.decoded.values():
        end.tokens[:, : len(HOSTILE)] = np.arange(end.tokens.shape[1])[: len(HOSTILE)]
    images = [f"{text} {i}" for i, text in enumerate(HOSTILE)]
    names = dict(zip(parts.pictures["image"], images, strict=False))
    for table in (parts.pictures, parts.nouns, parts.masks, parts.scores):
        table["image"] = table["image"].map(lambda one: names.get(one, one))
    nouns = dict(zip(sorted(set(parts.nouns["noun"])), HOSTILE, strict=False))
    parts.nouns["noun"] = parts.nouns["noun"].map(lambda one: nouns.get(one, one))
    parts.scores["target"] = parts.scores["target"].map(lambda one: nouns.get(one, one))
    said = parts.nouns.groupby("image")["noun"].agg(" and ".join)
    parts.pictures["caption"] = [f"<b>{said.get(i, '')}</b>" for i in parts.pictures["image"]]
    human = ["&lt;blink&gt; <blink></script><!--"]
    parts.pictures["human"] = [human for _ in parts.pictures["image"]]
    file = folder / ODD
    shutil.copy(made.photographs[0].path, file)
    parts.pictures["file"] = str(file)
    facts = dataclasses.replace(facts, run="</title><b>&amp;", model="<filename>")
    with Atlas.open(write_atlas(folder / "atlas", facts, parts)) as atlas:
        page = write_page(facts.run, None, atlas, folder / "figures", progress=False)
        yield page, unpack(page.path.read_text("utf-8"))


def test_hostile_texts_stay_texts(windows, hostile):
    page, data = hostile
    window = opened(windows, page.path)
    assert window.title() == f"Multimodal neurons: the browser of the run “{data['facts']['run']}”"
    made = ("blink", "filename", "#browser script", "img[src=x]", "b:not([data-part=elsewhere] b)")
    for selector in made:
        found = window.locator(selector)
        assert found.count() == 0, found.first.evaluate("(one) => one.outerHTML")
    assert all(window.evaluate("[...document.images].map((one) => one.naturalWidth > 0)"))
    text = window.locator("#browser").evaluate("(one) => one.textContent")
    for token in HOSTILE[:8]:
        assert token in text, token
    first = data["facts"]["pictures"][0]
    assert first["caption"] in window.locator("[data-part=caption]").evaluate(
        "(one) => one.textContent"
    )


def test_hostile_pictures_and_nouns_can_be_chosen(windows, hostile):
    page, data = hostile
    window = opened(windows, page.path)
    for place in range(3):
        window.locator("[data-part=grid] [data-image]").nth(place).click()
        image = data["facts"]["pictures"][place]["id"]
        window.wait_for_function(
            "(one) => decodeURIComponent(location.hash).includes('@' + one)", arg=image
        )
        for noun in data["pictures"][image]["nouns"][:2]:
            button = window.locator("[data-part=caption] [data-noun]").filter(has_text=noun)
            assert button.count() >= 1, noun
