"""The live browser in a real one: run and read in JupyterLab, Notebook 7 and Voila."""

from __future__ import annotations

import os
import re
import time
from types import SimpleNamespace

import pytest

from mmn_utils.datasets import load_dataset
from mmn_utils.running.serve import browser_copy
from tests.browser.chromium import REQUIRED, Windows
from tests.browser.live.servers import jupyter, voila

pytestmark = [pytest.mark.slow, pytest.mark.weights]
if not os.environ.get(REQUIRED):
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
from playwright.sync_api import expect  # noqa: E402

from tests.benchmarks import bench_browser  # noqa: E402
from tests.browser.live.steps import PATIENCE, Reader  # noqa: E402

PICTURES = 6
# Notebook 7 shows a cell as JupyterLab does: there the first steps of a reader are enough.
mostly = pytest.mark.parametrize("reader", ["voila", "lab"], indirect=True)
PRESET = f"name: live\nsettings: {{model: miniature, n_images: {PICTURES}}}\n"
# What a server's own page says on the console, whatever notebook it shows.
KNOWN = {"notebook": ["Cannot read properties of undefined (reading 'schema')"]}
OUTSIDE = re.compile(r"^(https?|wss?)://(?!127\.0\.0\.1[:/])")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder that the servers share, so that the atlas is made once, and a preset."""
    folder = tmp_path_factory.mktemp("live")
    preset = folder / "live.yaml"
    preset.write_text(PRESET)
    return SimpleNamespace(folder=folder, preset=preset)


@pytest.fixture(scope="module", params=["voila", "lab", "notebook"])
def reader(request, chromium, place):
    """A reader before the browser of one server, opened and run; no fault while they read."""
    kind = request.param
    notebook = browser_copy(place.preset, folder=place.folder / kind, whole=kind == "lab")
    start = voila(notebook, place.folder) if kind == "voila" else None
    with start or jupyter(kind, notebook, place.folder) as server:
        windows = Windows(chromium)
        page = windows(1400, 1000, offline=False)
        page.context.route(OUTSIDE, lambda route: refuse(route, windows))
        page.goto(server.url, wait_until="commit", timeout=4 * PATIENCE)
        if kind != "voila":
            run_all(page, server)
        found = Reader(page)
        found.arrive()
        yield found
        known = KNOWN.get(kind, [])
        faults = [one for one in windows.faults if not any(text in one for text in known)]
        windows.close()
    assert not faults, faults


def refuse(route, windows: Windows) -> None:
    """Let nothing be asked of another machine."""
    windows.faults.append(route.request.url)
    route.abort()


def run_all(page, server) -> None:
    """Run all cells by the menu; a kernel that has just started may not have heard it.

    The page shows a kernel that is idle before there is one, and a menu that is chosen then asks
    which kernel to start beside it: the server alone knows. A prompt with a star or a number tells
    that cells run: the indicator is busy with a kernel's own start, too.
    """
    indicator = page.locator(".jp-Notebook-ExecutionIndicator")
    asked = page.locator(".jp-InputPrompt").filter(has_text=re.compile(r"[*\d]"))
    for _ in range(5):
        await_kernel(page, server)
        expect(indicator).to_have_attribute("data-status", "idle", timeout=2 * PATIENCE)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.locator(".lm-Menu-item[data-command='runmenu:run-all']").click()
        try:
            return expect(asked.first).to_be_attached(timeout=10_000)
        except AssertionError:
            continue
    pytest.fail("the kernel does not run the notebook")


def await_kernel(page, server) -> None:
    """Return once the server says that the page's kernel is idle."""
    begun = time.monotonic()
    while not server.has_idle_kernel():
        if time.monotonic() - begun > 120:
            pytest.fail(f"no kernel is idle:\n{server.log.read_text()}")
        page.wait_for_timeout(100)


@pytest.fixture
def start(reader):
    """The reader at the first picture, its first noun and that one's best neuron."""
    return begin(reader)


def begin(reader: Reader) -> Reader:
    reader.visit(reader.home)
    reader.expect_address(f"^{re.escape(reader.home)}$")
    reader.settled()
    return reader


def sample() -> list:
    return load_dataset("miniature").sample(PICTURES, 0)


def first_picture() -> str:
    return sample()[0].id


def test_a_picture_a_noun_and_a_neuron_are_chosen(start):
    image = start.choose_picture(1)
    expect(start.part("picture")).to_contain_text(image)
    noun = start.choose_noun(1)
    expect(start.part("table")).to_contain_text(noun)
    before = start.pixels()
    neuron = start.choose_neuron(3)
    expect(start.part("control")).not_to_contain_text(f" {neuron} ")
    start.repainted(before)
    start.expect_address(f"^#{neuron}@{image}&noun={noun}$")


@mostly
def test_a_patch_says_who_wrote_there(start):
    rows, columns = 14, 14
    start.click_patch(0.52, 0.42)
    patch = int(0.42 * rows) * columns + int(0.52 * columns)
    start.expect_address(f"patch={patch}")
    expect(start.part("patch")).to_contain_text("row 6, column 8")
    start.root.press("Escape")
    expect(start.part("patch")).to_be_hidden()
    assert "patch" not in start.address


@mostly
def test_the_threshold_moves_without_the_kernel(start):
    before = start.pixels()
    start.part("style").select_option("mask")
    before = start.repainted(before)
    start.part("threshold").evaluate(
        "s => { s.value = 0.4; s.dispatchEvent(new Event('input', {bubbles: true})); }"
    )
    low = start.repainted(before)
    assert "quantile" not in start.address, "nobody is told while it moves"
    start.move_threshold(0.8)
    high = start.repainted(low)
    start.move_threshold(0.4)
    assert start.repainted(high) == low
    start.part("style").select_option("heat")


def test_interventions_are_stacked_removed_and_undone(start):
    start.choose_shown()
    start.apply("ablate")
    start.stacked(1)
    before, after = start.captions()
    assert after != before
    expect(start.part("outcome")).to_contain_text("The caption changed.")
    without = start.probabilities()
    assert without[1] < without[0]
    start.set_factor(-2)
    start.apply("scale")
    start.stacked(2)
    both = start.probabilities()
    assert both[0] == without[0], "before is before all of them"
    start.part("outcome").locator("[data-tool=remove]").first.click()
    start.stacked(1)
    scaled = start.probabilities()
    assert scaled[1] < without[1], "turned round is more than gone"
    start.undo_by_key()
    start.stacked(2)
    assert start.probabilities() == both
    start.undo_by_key()
    start.stacked(1)
    assert start.probabilities() == without
    start.widget("button", "undo").click()
    expect(start.part("outcome")).to_be_hidden(timeout=PATIENCE)


@mostly
def test_each_shown_neuron_is_ablated_alone(start):
    start.part("table").locator("[data-tool=exact]").click()
    start.settled()
    cells = start.rows.locator("td [title^=logit]")
    expect(cells).to_have_count(start.rows.count(), timeout=PATIENCE)
    assert len(set(cells.all_inner_texts())) > 1


@mostly
def test_an_address_is_opened_and_one_that_is_none_is_told_of(start):
    image = sample()[2].id
    start.visit(f"#L1.u2@{image}&method=contribution&quantile=0.9")
    expect(start.part("card")).to_contain_text("L1.u2")
    expect(start.part("picture")).to_contain_text(image)
    start.expect_address(f"^#L1.u2@{image}&noun=.*method=contribution&quantile=0.9$")
    # a picture alone, that which is shown: its first noun, and the best neuron
    start.visit(f"#@{image}")
    start.expect_address(f"^#L\\d+.u\\d+@{image}&noun=[^&]+$")
    start.visit("#L99.u2@nowhere")
    alert = start.root.get_by_role("alert").first
    expect(alert).to_contain_text("there is no picture \"nowhere\"")
    expect(alert).to_contain_text("there is no neuron L99.u2")


NAME = '<b onload="x">own & only</b>.jpg'


def test_a_picture_is_dropped_and_captioned(start):
    other = load_dataset("miniature").sample(PICTURES + 1, 0)[-1]
    start.drop(other.path.read_bytes(), NAME)
    start.expect_address("@own%3A|@own:")
    start.settled()
    thumb = start.part("grid").locator("[data-image]").first
    assert thumb.get_attribute("data-image") == f"own:{NAME}"
    expect(start.part("picture")).to_contain_text(NAME)
    expect(start.part("caption").locator("[data-noun]").first).to_be_visible()
    expect(start.rows.first).to_be_visible()
    assert start.root.locator("b[onload]").count() == 0, "a name is text"


@mostly
def test_a_file_that_is_no_picture_is_told_of(start):
    start.drop(b"no picture", "notes.txt")
    expect(start.root).to_contain_text("notes.txt", timeout=PATIENCE)
    expect(start.root).not_to_contain_text("Traceback")
    assert start.address.startswith("#")
    assert first_picture() in start.address


@mostly
def test_words_are_searched_and_keys_lead_through_neurons_and_pictures(start):
    found = start.search("horse")
    start.expect_address("search=writes(:|%3A)horse")
    neuron = found.first.get_attribute("data-address")
    found.first.click()
    start.expect_address(f"^#{neuron}@")
    begin(start)
    second = start.rows.nth(1).get_attribute("data-address")
    start.root.focus()
    start.page.keyboard.press("ArrowDown")
    start.expect_address(f"^#{second}@")
    start.settled()
    start.page.keyboard.press("ArrowRight")
    start.expect_address(f"@{sample()[1].id}")
    start.settled()
    start.page.keyboard.press("ArrowLeft")
    start.expect_address(f"@{first_picture()}")
    start.settled()


@pytest.mark.parametrize("reader", ["voila"], indirect=True)
def test_the_benchmark_times_what_it_says(start, capsys):
    images, own = [one.id for one in sample()[1:3]], load_dataset("miniature").sample(8, 0)[-1:]
    table, frames = bench_browser.measure(start.page, images, own)
    assert set(table.index) == {"picture", "noun", "search", "neuron", "ablation", "own picture"}
    assert (table["median"] > 0).all()
    assert (table["all"] >= table["median"]).all()
    assert len(frames) == bench_browser.FRAMES
    bench_browser.report(table, frames)
    assert "frames a second" in capsys.readouterr().out


def test_the_notebook_ran_without_an_error(reader):
    assert reader.page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    expect(reader.page.locator("body")).not_to_contain_text("Traceback")
