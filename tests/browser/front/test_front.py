"""The front end in a page from a file, without a network: what is clicked, typed and read there."""

from __future__ import annotations

import base64
import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch

from mmn_utils.neurons.receptive_fields import mask, upsample
from tests.browser.front import access
from tests.browser.front.pages import PIXELS, Shown, invented, map_of, without_grid, write_page


@pytest.fixture(scope="module")
def data():
    return invented()


@pytest.fixture(scope="module")
def address(data, tmp_path_factory):
    return write_page(tmp_path_factory.mktemp("page") / "browser.html", data)


@pytest.fixture
def shown(windows, address):
    """The page, open at its first picture."""
    return open_at(windows, address)


def open_at(windows, address: str, hash_: str = "", **options) -> Shown:
    page = windows(**options)
    page.goto(address + hash_)
    page.wait_for_selector('.mmn [data-part="card"][data-state="ready"] .ends')
    return Shown(page)


def first_of(data: dict, image: str = "p0", noun: str = "horse") -> str:
    return data["neurons"][data["tops"][image][noun]["attribution"][0][0]]


def test_it_opens_with_a_picture_its_first_noun_and_the_first_neuron(shown, data):
    neuron = first_of(data)
    shown.settled(f"#{neuron}@p0&noun=horse")
    shown.titled("picture", "Scene p0")
    shown.titled("card", f"Neuron {neuron}")
    assert shown.part("caption").locator(".says").inner_text() == data["pictures"]["p0"]["caption"]
    place = data["neurons"].index(neuron)
    shown.titled("control", f"Control {data['neurons'][data['controls'][place]]}")
    assert shown.part("address").locator("input").input_value() == f"#{neuron}@p0&noun=horse"


def test_the_grid_has_pages_and_is_reached_by_keys(shown):
    grid = shown.part("grid")
    assert grid.locator("[data-image]").count() == 24
    later = grid.get_by_role("button", name="later pictures")
    later.focus()
    shown.page.keyboard.press("Enter")
    assert grid.locator("[data-image]").count() == 6
    assert grid.get_by_role("status").inner_text() == "25–30 of 30"
    assert later.is_disabled()
    grid.locator('[data-image="p29"]').focus()
    shown.page.keyboard.press("Enter")
    shown.titled("picture", "Scene p29")
    assert grid.locator("[aria-current]").get_attribute("data-image") == "p29"


def test_a_noun_a_row_and_a_patch_are_clicked(shown, data):
    shown.part("caption").locator('[data-noun="dog"]').click()
    shown.settled(f"#{first_of(data, noun='dog')}@p0&noun=dog")
    shown.titled("table", "Top neurons for “dog”")
    assert shown.part("caption").locator('[aria-pressed="true"]').inner_text() == "dog"
    row = shown.part("table").locator("tbody tr").nth(4)
    neuron = row.get_attribute("data-address")
    row.locator("td.number").first.click()
    shown.titled("card", f"Neuron {neuron}")
    assert row.get_attribute("aria-current") == "true"
    canvas = shown.part("overlay")
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] * 0.5, "y": box["height"] * 0.3})  # row 1, column 2
    shown.titled("patch", "Patch in row 2, column 3, “dog”")
    wrote = [r[0] for r in data["tops"]["p0"]["dog"]["attribution"] if r[2] == 7]
    assert shown.rows("patch") == [data["neurons"][i] for i in wrote]
    shown.settled(f"#{neuron}@p0&noun=dog&patch=7")


def test_patches_where_neurons_wrote_are_marked_under_the_pointer(shown, data):
    dots = shown.part("picture").locator(".stage .cell.wrote")
    wrote = {row[2] for row in data["tops"]["p0"]["horse"]["attribution"]} - {-1}
    assert dots.count() == len(wrote)
    assert not dots.first.is_visible()
    shown.part("overlay").hover()
    assert dots.first.is_visible()


def test_a_patch_is_reached_by_keys(shown):
    shown.part("overlay").focus()
    shown.page.keyboard.press("ArrowRight")
    assert "row 1, column 1" in shown.part("overlay").get_attribute("aria-label")
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft", "ArrowLeft", "Enter"):
        shown.page.keyboard.press(key)
    shown.titled("patch", "Patch in row 3, column 1, “horse”")
    shown.titled("picture", "Scene p0")  # the arrows were the picture's own
    shown.page.keyboard.press("Escape")
    assert not shown.part("patch").is_visible()


def test_the_threshold_cuts_as_torch_does(shown, data):
    field = torch.tensor(map_of(data, "p0", first_of(data)), dtype=torch.float32)
    large = upsample(field, PIXELS)
    for quantile in ("0.95", "0.5", "0.8"):
        shown.part("threshold").fill(quantile)
        heat, expected = shown.heat(), mask(large, float(quantile))
        level = large.flatten().quantile(float(quantile))
        assert heat.threshold == pytest.approx(float(level), abs=1e-6)
        assert heat.above == pytest.approx(int(expected.sum()), abs=2)  # of equals, rounded apart
    assert "quantile=0.8" in shown.page.evaluate("location.hash")
    assert shown.part("picture").locator("output").inner_text() == "0.800 quantile"


def pixels(shown: Shown, name: str = "overlay") -> list[int]:
    """Read one line of what is drawn, once it is."""
    shown.page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    code = """(canvas) => [...canvas.getContext("2d").getImageData(
      0, canvas.height >> 1, canvas.width, 1).data]"""
    return shown.part(name).evaluate(code)


def test_what_is_drawn_follows_threshold_style_colours_and_outlines(shown):
    seen = [pixels(shown)]
    shown.part("threshold").fill("0.3")
    seen.append(pixels(shown))
    shown.part("colours").select_option("diverging")
    seen.append(pixels(shown))
    shown.part("style").select_option("mask")
    seen.append(pixels(shown))
    shown.part("picture").get_by_label("cat").check()
    seen.append(pixels(shown))
    seen.append(pixels(shown, "overlay-control"))
    assert len({tuple(line) for line in seen}) == len(seen)
    shown.part("picture").get_by_label("cat").uncheck()
    shown.part("style").select_option("none")
    assert not any(pixels(shown))


def test_maps_of_two_bytes_are_read_too(windows, data, tmp_path):
    neuron, shares = first_of(data), np.random.default_rng(3).integers(0, 1 << 16, 20)
    packed = base64.b64encode(shares.astype("<u2").tobytes()).decode()
    maps = {"p0": [[data["neurons"].index(neuron), -2.0, 3.0, packed]]}
    shown = open_at(windows, write_page(tmp_path / "fine.html", data | {"maps": maps}))
    field = torch.tensor(-2 + shares / 65535 * 5, dtype=torch.float32).reshape(4, 5)
    level = upsample(field, PIXELS).flatten().quantile(0.95)
    assert shown.heat().threshold == pytest.approx(float(level), abs=1e-6)


def test_maps_of_several_neurons_and_their_mean(shown, data):
    rows = shown.rows("table")[:3]
    for neuron in rows:
        shown.part("table").get_by_label(f"choose {neuron}", exact=True).check()
    shown.part("map").select_option("several")
    assert shown.part("picture").locator(".tiles canvas").count() == 3
    shown.part("map").select_option("mean")
    assert shown.page.evaluate("location.hash").endswith(f"&chosen={','.join(rows)}&map=mean")
    maps = torch.stack([torch.tensor(map_of(data, "p0", n)) for n in rows]).mean(0).float()
    level = upsample(maps, PIXELS).flatten().quantile(0.95)
    assert shown.heat().threshold == pytest.approx(float(level), abs=1e-6)
    shown.part("table").get_by_label("choose all shown").check()
    shown.part("table").get_by_label("choose all shown").uncheck()
    assert "chosen" not in shown.page.evaluate("location.hash")


def test_a_map_that_the_page_lacks_is_said_to_be_lacking(windows, address):
    shown = open_at(windows, address, "#L1.u2@p5")
    assert "keeps no map" in shown.part("picture").locator("figcaption").first.inner_text()
    assert shown.part("overlay").get_attribute("data-threshold") is None


def test_search_of_what_neurons_write_and_suppress(shown, data):
    shown.page.keyboard.press("/")
    shown.page.keyboard.type(" <B>bold</b> ")  # blanks and case aside
    shown.page.keyboard.press("Enter")
    expected = found(data, "writes", "<b>bold</b>")
    assert shown.rows("search") == expected
    assert f"{len(expected)} neurons of the 120 on this page" in shown.part("search").inner_text()
    shown.part("end").select_option("suppresses")
    assert shown.rows("search") == found(data, "suppresses", "<b>bold</b>")
    shown.part("norm").select_option("final")
    assert shown.rows("search") == found(data, "suppresses_final", "<b>bold</b>")
    assert shown.page.evaluate("location.hash").endswith("&search=suppresses:%3CB%3Ebold%3C%2Fb%3E")
    shown.part("search").locator("tbody tr").first.click()
    shown.titled("card", f"Neuron {shown.rows('search')[0]}")
    shown.part("query").fill("nowhere")
    shown.page.keyboard.press("Enter")
    assert "0 neurons of the 120" in shown.part("search").inner_text()


def found(data: dict, end: str, word: str) -> list[str]:
    some = [
        (-logit, i)
        for i, card in enumerate(data["cards"])
        for text, logit in card["tokens"][end] if text == word
    ]  # fmt: skip
    return [data["neurons"][i] for _, i in sorted(some)]


def test_the_table_is_sorted_and_filtered(shown, data):
    table, tops = shown.part("table"), data["tops"]["p0"]["horse"]
    by = {m: [data["neurons"][row[0]] for row in rows] for m, rows in tops.items()}
    assert shown.rows("table") == by["attribution"][:20]
    table.locator('[data-sort="activation"]').click()
    assert shown.rows("table") == by["activation"][:20]
    assert table.locator("th[aria-sort=ascending]").inner_text().startswith("activ")
    assert "method=activation" in shown.page.evaluate("location.hash")
    table.locator('[data-sort="activation"]').click()
    assert shown.rows("table") == by["activation"][::-1][:20]
    table.locator('[data-sort="address"]').click()
    every = sorted({n for rows in by.values() for n in rows}, key=data["neurons"].index)
    assert shown.rows("table") == every[:20]
    table.locator('[data-filter="layer"]').select_option("2")
    some = [n for n in every if n.startswith("L2.")]
    assert shown.rows("table") == some[:20]
    flags = {n: data["about"][data["neurons"].index(n)] for n in some}
    table.locator('[data-filter="interpretable"]').select_option("yes")
    table.locator('[data-filter="generic"]').select_option("no")
    read = {n: sign_of(tops, data["neurons"].index(n), "activation") < 0 for n in some}
    assert shown.rows("table") == [n for n in some if flags[n][read[n]] and not flags[n][2]][:20]


def sign_of(tops: dict, place: int, method: str) -> int:
    """The sign with which a method found a neuron, or else the first method that did."""
    names = (method, "attribution", "contribution", "activation")
    return next(row[3] for name in names for row in tops[name] if row[0] == place)


def first_words(data: dict, place: int) -> dict[str, str]:
    tokens = data["cards"][place]["tokens"]
    return {end: " | ".join(t for t, _ in tokens[end][:5]) for end in ("writes", "suppresses")}


@pytest.mark.parametrize("method", ["attribution", "contribution"])
def test_rows_have_the_sign_and_what_was_written_there(windows, data, address, method):
    shown = open_at(windows, address, f"#@p0&method={method}")
    tops, lines = data["tops"]["p0"]["horse"], shown.part("table").locator("tbody tr")
    assert shown.part("table").locator("[data-sort=wrote]").inner_text() == "Wrote there"
    for place, (index, _, _, sign) in enumerate(tops[method][:20]):
        mark = lines.nth(place).locator(".sign-of .sign")
        assert mark.inner_text() == ("\u2212" if sign < 0 else "+")
        named = "negative activation: pushes against" if sign < 0 else "positive activation"
        assert mark.get_attribute("aria-label").startswith(named)
        assert mark.get_attribute("title") == mark.get_attribute("aria-label")
        card = data["cards"][index]["tokens"]["suppresses" if sign < 0 else "writes"]
        raw = (
            lines.nth(place)
            .locator("td.tokens .token")
            .evaluate_all("(some) => some.map((one) => JSON.parse(one.title))")
        )
        assert raw == [text for text, _ in card[:3]]
        others = [r[3] for name, rows in tops.items() if name != method
                  for r in rows if r[0] == index and r[3] != sign]  # fmt: skip
        assert lines.nth(place).locator(".number .sign").count() == len(others)


def test_without_an_activation_both_ends_are_listed(shown, data):
    shown.part("scope").select_option("all")
    shown.titled("table", "All neurons")
    heads = (
        shown.part("table").locator("[data-sort]").evaluate_all("a => a.map(b => b.dataset.sort)")
    )
    assert heads[1:3] == ["writes", "suppresses"]
    assert shown.part("table").locator("td .sign").count() == 0
    heads = shown.part("similar").locator("th").all_inner_texts()
    assert heads[:4] == ["Neuron", "Writes", "Suppresses", "cosine"]


def test_the_card_says_which_end_was_written(windows, data, address):
    tops = data["tops"]["p0"]["horse"]
    index = next(row[0] for row in tops["attribution"] if row[3] < 0)
    shown = open_at(windows, address, f"#{data['neurons'][index]}@p0&noun=horse")
    card = shown.part("card")
    found = {name: row[3] for name, rows in tops.items() for row in rows if row[0] == index}
    said = card.locator(".there").inner_text()
    assert said.startswith("On p0, \u201chorse\u201d")
    for value, text in ((-1, "Suppresses"), (1, "Writes")):
        there = value in found.values()
        assert (f"it wrote what stands under \u201c{text}\u201d" in said) == there
        end = card.locator(f".end.{text.lower()}")
        assert (end.locator(".written").inner_text() == "written here") == there
        assert end.locator(".token").count() == 10
    listed = {row[0] for rows in tops.values() for row in rows}
    other = next(i for i in range(1, 29) if i not in listed)  # nor on its card
    shown.part("address").locator("input").fill(f"#{data['neurons'][other]}@p0&noun=horse")
    shown.part("address").locator("input").press("Enter")
    shown.titled("card", f"Neuron {data['neurons'][other]}")
    assert "which end it wrote there is not known" in card.locator(".there").inner_text()


def test_a_patch_lists_signs_and_what_was_written_there(windows, data, address):
    row = data["tops"]["p0"]["horse"]["attribution"]
    index, _, patch, _ = next(one for one in row if one[2] >= 0 and one[3] < 0)
    shown = open_at(windows, address, f"#@p0&noun=horse&patch={patch}")
    line = shown.part("patch").locator(f'tr[data-address="{data["neurons"][index]}"]')
    assert line.locator(".sign").inner_text() == "\u2212"
    raw = line.locator(".token").evaluate_all("(some) => some.map((one) => JSON.parse(one.title))")
    assert raw == [text for text, _ in data["cards"][index]["tokens"]["suppresses"][:4]]


def test_headings_speak_of_the_data_as_it_does(shown):
    shown.titled("grid", "Scenes")
    assert shown.part("caption").locator("summary").inner_text() == "Reference captions"
    assert "Strongest scenes" in shown.part("card").locator("h3").all_inner_texts()


def test_the_table_begins_with_the_method_of_the_address(windows, data, address):
    shown = open_at(windows, address, "#@p0&method=contribution")
    best = [data["neurons"][row[0]] for row in data["tops"]["p0"]["horse"]["contribution"]]
    assert shown.rows("table") == best[:20]
    shown.titled("card", f"Neuron {best[0]}")
    shown.settled(f"#{best[0]}@p0&noun=horse&method=contribution")


def test_all_neurons_are_listed_by_filters(shown, data):
    shown.part("scope").select_option("all")
    shown.part("table").locator('[data-filter="layer"]').select_option("1")
    shown.part("table").locator('[data-filter="generic"]').select_option("yes")
    shown.part("table").locator('[data-sort="contribution"]').click()
    expected = [i for i in range(40, 80) if data["about"][i][2]]
    assert shown.rows("table") == [f"L1.u{i - 40}" for i in reversed(expected)][:20]
    highest = shown.part("table").locator("th[aria-sort=descending]")
    assert highest.inner_text().startswith("contrib")
    least = shown.part("table").locator('[data-filter="least"]')
    least.fill(str(expected[-3]))
    least.press("Enter")
    assert shown.rows("table") == [f"L1.u{i - 40}" for i in reversed(expected[-3:])]


def test_all_neurons_begin_with_the_highest_score_or_peak(shown, data):
    shown.part("scope").select_option("all")
    table = shown.part("table")
    table.locator('[data-sort="contribution"]').click()
    assert shown.rows("table") == [data["neurons"][i] for i in range(119, 99, -1)]
    table.locator('[data-sort="peak"]').click()
    peak = [card["sights"]["strongest"][0][1] for card in data["cards"]]
    highest = sorted(range(120), key=lambda i: -peak[i])
    assert shown.rows("table") == [data["neurons"][i] for i in highest[:20]]


def test_scores_below_the_least_are_left_out(shown, data):
    least = shown.part("table").locator('[data-filter="least"]')
    rows = data["tops"]["p0"]["horse"]["attribution"]
    least.fill(str(rows[4][1]))
    least.press("Enter")
    assert shown.rows("table") == [data["neurons"][row[0]] for row in rows[:5]]


def test_an_address_that_somebody_writes_is_not_overwritten(shown):
    field = shown.part("address").locator("input")
    field.fill("#L1.u")
    shown.page.evaluate("location.hash = '#L2.u3@p1'")
    shown.titled("picture", "Scene p1")
    assert field.input_value() == "#L1.u"
    field.press("Escape")
    assert field.input_value().startswith("#L2.u3@p1")
    field.fill("#L1.u7@p0")
    shown.part("address").get_by_role("button", name="Go").click()
    shown.titled("card", "Neuron L1.u7")


def test_the_table_shown_is_saved_as_csv(shown, data):
    shown.part("table").locator('[data-filter="layer"]').select_option("0")
    with shown.page.expect_download() as download:
        shown.part("table").locator('[data-tool="csv"]').click()
    assert download.value.suggested_filename == "p0-horse.csv"
    text = Path(download.value.path()).read_bytes().decode()
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    every = data["tops"]["p0"]["horse"]["attribution"]
    best = next(row for row in every if row[0] < 40)
    assert rows[0]["neuron"] == data["neurons"][best[0]]
    assert float(rows[0]["attribution_score"]) == best[1]
    assert int(rows[0]["attribution_rank"]) == every.index(best) + 1
    tops = data["tops"]["p0"]["horse"]
    for row in rows:
        place = data["neurons"].index(row["neuron"])
        ends = first_words(data, place)
        assert [row["writes"], row["suppresses"]] == list(ends.values())
        assert int(row["sign"]) == sign_of(tops, place, "attribution")
        assert row["wrote"] == ends["writes" if int(row["sign"]) > 0 else "suppresses"]
        for method, some in tops.items():
            own = [[str(rank), str(one[3])] for rank, one in enumerate(some, 1) if one[0] == place]
            assert [row[f"{method}_rank"], row[f"{method}_sign"]] == (own or [["", ""]])[0]
    assert {row["sign"] for row in rows} == {"1", "-1"}
    assert {row["layer"] for row in rows} == {"0"}


def test_a_deep_link_opens_what_it_says_and_back_leads_back(windows, address):
    start = "#L2.u3@p1&noun=dog&method=contribution&quantile=0.9&chosen=L1.u2&patch=7"
    start += "&search=writes:word9"
    shown = open_at(windows, address, start)
    shown.titled("picture", "Scene p1")
    shown.titled("card", "Neuron L2.u3")
    shown.titled("patch", "Patch in row 2, column 3, “dog”")
    assert shown.part("threshold").input_value() == "0.9"
    assert shown.part("query").input_value() == "word9"
    assert shown.page.evaluate("location.hash") == start
    shown.part("search").locator("tbody tr").first.click()
    shown.part("grid").locator('[data-image="p4"]').click()
    shown.titled("picture", "Scene p4")
    shown.page.go_back()
    shown.page.go_back()
    shown.settled(start)
    shown.titled("picture", "Scene p1")
    shown.titled("card", "Neuron L2.u3")
    shown.page.go_forward()
    shown.page.wait_for_function("!location.hash.startsWith('#L2.u3@')")


def test_an_address_that_is_wrong_is_told_and_something_is_shown(windows, address):
    shown = open_at(windows, address, "#L9.u1@nowhere&what=1&method=guess")
    said = shown.page.locator(".top > .note").inner_text()
    for text in ('"what" is no part', 'no picture "nowhere"', "no neuron L9.u1", '"guess" is none'):
        assert text in said
    shown.titled("picture", "Scene p0")
    field = shown.part("address").locator("input")
    field.fill("#L0.u1@p2&patch=99")
    field.press("Enter")
    assert "the patch 99 is not among 20" in shown.page.locator(".top > .note").inner_text()
    field.fill("#L0.u1@p2")
    field.press("Enter")
    shown.titled("card", "Neuron L0.u1")
    assert not shown.page.locator(".top > .note").is_visible()


def test_the_keys_go_through_pictures_and_neurons(shown, data):
    press, rows = shown.page.keyboard.press, shown.rows("table")
    press("ArrowDown")
    press("ArrowDown")
    press("ArrowUp")
    shown.titled("card", f"Neuron {rows[1]}")
    press("ArrowRight")
    shown.titled("picture", "Scene p1")
    shown.titled("card", f"Neuron {rows[1]}")  # chosen by somebody, so it stays
    press("ArrowLeft")
    press("ArrowLeft")
    shown.titled("picture", "Scene p0")
    press("?")
    assert shown.part("help").is_visible()
    press("Escape")
    assert not shown.part("help").is_visible()
    press("/")
    press("ArrowRight")
    press("?")
    shown.titled("picture", "Scene p0")
    assert shown.part("query").input_value() == "?"
    press("Escape")
    press("ArrowRight")
    shown.titled("picture", "Scene p1")


def test_keys_are_heard_only_inside(shown):
    shown.page.evaluate("document.body.append(document.createElement('button'))")
    shown.page.locator("body > button").focus()
    shown.page.keyboard.press("ArrowRight")
    shown.titled("picture", "Scene p0")


def test_focus_stays_on_a_row_that_is_drawn_again(shown):
    button = shown.part("table").locator('[data-sort="contribution"]')
    button.focus()
    shown.page.keyboard.press("Enter")
    shown.page.keyboard.press("Enter")
    assert shown.page.evaluate("document.activeElement.dataset.sort") == "contribution"


def test_texts_are_text_whatever_they_hold(shown, data):
    for name in ("writes", "writes_final"):
        wanted = {t for card in data["cards"] for t, _ in card["tokens"][name]}
        assert "<img src=x onerror='window.touched = 1'>" in wanted
    seen = set()
    for neuron in data["neurons"][:30]:
        shown.part("address").locator("input").fill(f"#{neuron}@p0")
        shown.part("address").locator("input").press("Enter")
        shown.titled("card", f"Neuron {neuron}")
        seen |= set(shown.part("card").locator(".writes .token").all_inner_texts())
    assert {"<b>bold</b>", "&amp;", "</script>", "\\n", "(empty)"} <= seen
    assert "<img src=x onerror='window.touched = 1'>" in seen
    assert shown.page.evaluate("window.touched") is None
    assert shown.page.locator(".mmn :is(b, i, u) :is(b, i, u), .mmn .token *").count() == 0
    shown.part("caption").locator("summary").click()
    assert "a <i>horse</i>" in shown.part("caption").inner_text()
    assert "<u>dog</u>" in shown.part("card").inner_text()


def test_the_card_has_what_the_page_holds(shown, data):
    card = data["cards"][data["neurons"].index(first_of(data))]
    part = shown.part("card")
    tokens = part.locator(".writes .token").all_inner_texts()
    assert len(tokens) == 10
    part.locator('[data-part="card-norm"]').select_option("_final")
    final = [text for text, _ in card["tokens"]["writes_final"]]
    assert [t for t in part.locator(".writes .token").all_inner_texts() if "word" in t] == [
        t.strip() and t for t in final if "word" in t
    ]
    assert shown.part("control").locator('[data-part="card-norm"]').input_value() == "_final"
    assert part.locator(".histogram i").count() == len(card["histogram"])
    heights = part.locator(".histogram i").evaluate_all("bars => bars.map((b) => b.offsetHeight)")
    order = sorted(range(len(heights)), key=lambda i: card["histogram"][i])
    assert [heights[i] for i in order] == sorted(heights)
    assert part.locator(".sight").count() == 18
    assert "25.0 % negative" in part.inner_text()
    peak = part.locator(".sight .cell").nth(7 - 6 + 6).evaluate("e => [e.style.left, e.style.top]")
    assert peak == ["20%", "0%"]  # patch 1 of four rows and five columns
    part.locator(".sight").nth(2).click()
    shown.titled("picture", "Scene p2")
    shown.titled("card", f"Neuron {first_of(data)}")


def test_every_view_gives_its_python(shown):
    shown.page.evaluate("location.hash = '#L0.u1@p0&noun=dog&patch=3&search=writes:word9'")
    shown.part("patch").wait_for()
    for name in ("picture", "caption", "table", "patch", "card", "control", "similar", "elsewhere",
                 "search"):  # fmt: skip
        part = shown.part(name)
        part.locator('[data-tool="python"]').click()
        code = part.locator("pre").inner_text()
        compile(code, name, "exec")
        assert '"invented"' in code
        part.locator('[data-tool="python"]').click()
        assert not part.locator("pre").is_visible()


def test_a_picture_without_a_noun(shown):
    shown.part("grid").locator('[data-image="p3"]').click()
    assert "No noun was found" in shown.part("caption").inner_text()
    assert "There is no noun" in shown.part("table").inner_text()
    assert shown.rows("table") == []
    assert "@p3" in shown.page.evaluate("location.hash")


def test_a_system_without_a_grid_says_so(windows, data, tmp_path):
    shown = open_at(windows, write_page(tmp_path / "none.html", without_grid(data)))
    assert "have no place in the picture" in shown.part("picture").inner_text()
    assert shown.part("threshold").count() == 0
    shown.part("overlay").click()
    assert not shown.part("patch").is_visible()
    assert shown.page.locator(".mmn .cell").count() == 0


def test_a_neuron_that_is_only_named_is_no_link_and_says_who_knows_it(windows, data, tmp_path):
    first = data["tops"]["p0"]["horse"]["attribution"][0][0]
    near = (first + 7) % 120
    less = {name: list(data[name]) for name in ("cards", "controls", "similar")}
    for some in less.values():
        some[near] = None
    shown = open_at(windows, write_page(tmp_path / "less.html", data | less))
    named = data["neurons"][near]
    row = shown.part("similar").locator(f'[data-address="{named}"]')
    assert row.get_by_role("button").count() == 0
    assert "no card on this page" in shown.part("similar").inner_text()
    row.click()
    shown.titled("card", f"Neuron {data['neurons'][first]}")
    shown.page.evaluate("address => (location.hash = `#${address}@p0`)", named)
    shown.titled("card", f"Neuron {named}")
    said = shown.part("card").inner_text()
    assert f"{named} is not among the 119 of 120 neurons" in said
    assert "make browser" in said
    for name in ("control", "similar", "elsewhere"):
        assert f"There is no card of {named}." in shown.part(name).inner_text()
        assert data["neurons"][first] not in shown.part(name).inner_text()
    assert not shown.part("overlay-control").is_visible()
    shown.page.go_back()
    shown.titled("card", f"Neuron {data['neurons'][first]}")


# --- for everybody -----------------------------------------------------------------------


def test_every_control_has_a_name(windows, address):
    shown = open_at(windows, address, "#L0.u1@p1&noun=dog&patch=3&search=writes:word9&chosen=L0.u1")
    shown.page.keyboard.press("?")
    assert access.nameless(shown.page) == []


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_contrast_enough(windows, address, dark):
    shown = open_at(windows, address, "#L0.u1@p1&noun=dog&patch=3&search=writes:word9", dark=dark)
    shown.page.keyboard.press("?")
    shown.part("card").locator('[data-tool="python"]').click()
    assert access.faint(shown.page) == []
    ground = shown.page.evaluate("getComputedStyle(document.querySelector('.mmn')).backgroundColor")
    assert (ground == "rgb(21, 23, 26)") == dark


@pytest.mark.parametrize("width", [400, 800, 1000, 1160, 1400, 1800])
def test_nothing_is_wider_than_the_page_or_lies_over_another(windows, address, width):
    shown = open_at(windows, address, "#L0.u1@p1&noun=dog&patch=3&search=writes:word9", width=width)
    assert shown.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert access.overlapping(shown.page) == []
    assert access.clipped(shown.page) == []
