"""The report in a real browser: what fits, what stays in view, what opens."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from mmn_utils.exhibits.entries import shipped
from mmn_utils.exhibits.report import build_report
from mmn_utils.exhibits.saving import Run
from mmn_utils.presets import ROOT
from tests.exhibits.samples import entered, fill, open_run

TALLEST = 12_500  # pixels, at 1400 wide, before anything is unfolded
EACH = 800  # more for each exhibit beyond MANY, which is a screen
MANY = 28  # exhibits; a report of more may be taller
WIDTHS = (1400, 800, 420)


@pytest.fixture(scope="module")
def report(untold, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMN_BUILD", str(folder / "build"))
        return reported(open_run(folder, untold))


def reported(run: Run) -> Path:
    fill(run)
    wide = pd.DataFrame({f"a column with a long name, {i}": range(40) for i in range(30)})
    run.save_table("A-table-S1", wide, "A wide and long table.")
    for place in range(6):
        entered(run.folder, f"A-{place}", "A-table-S1", like_paper="yes", paper_value="80 %")
    return build_report(run)


def top_of(page, selector: str) -> float:
    return page.locator(selector).first.evaluate("one => one.getBoundingClientRect().top")


def scroll_to(page, y: int) -> None:
    page.evaluate("y => window.scrollTo({top: y, behavior: 'instant'})", y)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_as_wide_as_the_window_and_its_contents_stay(windows, report, width):
    page = windows(width, 700)
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    scroll_to(page, 500)
    assert page.evaluate("window.scrollY") == 500
    assert top_of(page, ".side") == 0


@pytest.mark.parametrize("width", WIDTHS)
def test_a_wide_table_scrolls_in_itself_and_its_first_column_stays(windows, report, width):
    page = windows(width, 700)
    page.goto(report.as_uri())
    box = page.locator("#A-table-S1 .shown .scroll")
    assert box.evaluate("one => one.scrollWidth > one.clientWidth")
    assert box.evaluate("one => one.scrollHeight > one.clientHeight")
    box.evaluate("one => one.scrollTo(400, 300)")
    corner = box.evaluate("one => [one.getBoundingClientRect().x, one.getBoundingClientRect().y]")
    first = "one => [one.getBoundingClientRect().x, one.getBoundingClientRect().y]"
    assert box.locator("thead th").first.evaluate(first) == pytest.approx(corner, abs=1)
    assert box.locator("tbody td").first.evaluate(first)[0] == pytest.approx(corner[0], abs=1)


def test_a_wide_table_has_the_page_and_all_counts_fit_the_window(windows, report):
    page = windows(1400, 700)
    page.goto(report.as_uri())
    width = "one => one.getBoundingClientRect().width"
    whole = page.locator("#A-table-S1").evaluate(width)
    assert page.locator("#A-table-S1 .shown").evaluate(width) == pytest.approx(whole, abs=1)
    assert page.locator("#A-table-1 .shown").evaluate(width) < whole / 2
    page.set_viewport_size({"width": 420, "height": 700})
    counts = page.locator("#claims .scroll").first
    assert counts.evaluate("one => one.scrollWidth - one.clientWidth") == 0


def test_a_figure_opens_large_and_closes(windows, report):
    page = windows(1400, 700)
    page.goto(report.as_uri())
    picture = page.locator("#A-fig-1 img")
    small = picture.bounding_box()["width"]
    page.click("#A-fig-1 .open")
    assert picture.bounding_box()["width"] > 2 * small
    page.mouse.click(1390, 690)
    assert picture.bounding_box()["width"] == small
    page.go_back()
    assert picture.bounding_box()["width"] > 2 * small


def test_in_the_dark_the_ground_is_dark_and_figures_lie_on_white(windows, report):
    page = windows(dark=True)
    page.goto(report.as_uri())
    ground = "one => getComputedStyle(one).backgroundColor"
    assert page.locator("body").evaluate(ground) == "rgb(21, 23, 26)"
    assert page.locator("#A-fig-1 img").evaluate(ground) == "rgb(255, 255, 255)"
    assert page.locator("#A-table-S1 tbody td").first.evaluate(ground) == "rgb(21, 23, 26)"


@pytest.mark.parametrize("name", shipped(ROOT / "figures"))
def test_a_committed_report_is_not_too_tall(windows, name):
    page = windows(1400, 900)
    page.goto((ROOT / "figures" / name / "report.html").as_uri())
    more = max(page.locator("article.exhibit").count() - MANY, 0)
    assert page.evaluate("document.documentElement.scrollHeight") < TALLEST + EACH * more
    assert "Unnamed" not in page.content()
