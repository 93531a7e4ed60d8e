"""The static site: built from what is committed, whole in itself, its numbers read from it."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pandas as pd
import pytest

from mmn_utils.browser.page.write import browsed, pictures_beside, render
from mmn_utils.exhibits.entries import SHIPPED, exhibits_of, load_exhibits, shipped
from mmn_utils.exhibits.ledger import claims
from mmn_utils.exhibits.pages import BROWSER
from mmn_utils.exhibits.report import build_report
from mmn_utils.presets import NOTEBOOKS, ROOT, load_preset
from mmn_utils.running.notebook_pages import write_page

pytest.importorskip("myst_nb", reason="the site's packages are not installed: pip install .[site]")
SHOWN, FIGURE = "04_ablation", "A-fig-6"
RUNS = shipped(ROOT / "figures")
RESOURCES = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """The links, the resources and the addresses of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.resources, self.ids = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids.add(attrs.get("id"))
        if tag in RESOURCES and attrs.get(RESOURCES[tag]):
            self.resources.append(attrs[RESOURCES[tag]])
        if tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])


@pytest.fixture(scope="module")
def figures(tmp_path_factory) -> Path:
    """The runs that ship; notebooks of the first are as if each cell had printed which it is."""
    folder = tmp_path_factory.mktemp("site") / "figures"
    if SHIPPED[0] not in RUNS:
        pytest.skip(f"figures/{SHIPPED[0]} is not there; make it with 'make figures'")
    for run in RUNS:
        shutil.copytree(ROOT / "figures" / run, folder / run)
    for stem in {exhibit.notebook for exhibit in load_exhibits().values()}:
        if load_preset(SHIPPED[0]).runs(stem):
            write_page(executed(stem, folder.parent, folder), SHIPPED[0], folder)
    for run in RUNS:
        if run in browsed() and not (folder / run / BROWSER).is_file():
            write_browser(folder / run)
        build_report(run, folder, RUNS)
    return folder


def write_browser(folder: Path) -> None:
    """Write a page of the browser that refers to a picture of the miniature's."""
    picture = sorted((ROOT / "data" / "miniature" / "coco" / "images" / "val").iterdir())[0]
    src = f"../../{picture.relative_to(ROOT)}"
    (folder / BROWSER).write_text(render(folder.name, {"pictures": {"1": {"src": src}}}), "utf-8")


def executed(stem: str, folder: Path, figures: Path) -> Path:
    notebook = nbformat.read(NOTEBOOKS / f"{stem}.ipynb", as_version=4)
    picture = base64.b64encode((figures / SHIPPED[0] / f"{FIGURE}.png").read_bytes()).decode()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            data = {"image/png": picture, "text/plain": FIGURE}
            cell.outputs = [
                nbformat.v4.new_output("stream", text=f"this is {cell.id}"),
                nbformat.v4.new_output("display_data", data),
            ]
    code = next(cell for cell in notebook.cells if cell.cell_type == "code")
    for exhibit in exhibits_of(stem):  # which reports lead to
        shown = {"text/markdown": exhibit.title, "text/plain": exhibit.id}
        code.outputs.append(nbformat.v4.new_output("display_data", shown))
    path = folder / f"{stem}.ipynb"
    nbformat.write(notebook, path)
    return path


@pytest.fixture(scope="module")
def site(figures) -> Path:
    out = figures.parent / "site"
    command = [sys.executable, str(ROOT / "docs" / "build.py"), "--out", str(out)]
    command += ["--figures", str(figures), "--rooms", "datasets", "cache"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=figures.parent, capture_output=True,
                          text=True, check=False, stdin=subprocess.DEVNULL)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


@pytest.mark.slow
def test_every_link_inside_leads_somewhere(site, pages):
    for path, page in pages.items():
        for link in page.links + page.resources:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), f"{path.relative_to(site)} leads to {link}"
            assert target.is_relative_to(site), link
            if parts.fragment and target in pages:
                assert parts.fragment in pages[target].ids, f"{path.relative_to(site)}: {link}"


@pytest.mark.slow
def test_nothing_comes_from_outside(site, pages):
    for path, page in pages.items():
        for resource in page.resources:
            assert urlsplit(resource).scheme in ("", "data"), f"{path.name} needs {resource}"
            assert not resource.startswith("//")
    for path in site.rglob("*.css"):
        assert not re.search(r"@import|url\(\s*['\"]?(?:https?:)?//", path.read_text("utf-8")), path


@pytest.mark.slow
def test_the_start_page_has_the_numbers_of_the_ledger(site, figures):
    html = (site / "index.html").read_text(encoding="utf-8")
    ledgers = {run: claims(run, figures) for run in RUNS}
    top = ledgers[SHIPPED[0]].set_index("id").loc["A-fig-6-top", "value"]
    quality = pd.read_csv(figures / SHIPPED[0] / "C-table-quality.csv", index_col="measure")
    for value in (top, float(quality.loc["first noun is in the scene", "value"])):
        assert f"<strong>{value:.0%}</strong>" in html
    for column in ("holds", "like_paper"):
        yes = 0
        for ledger in ledgers.values():
            counted = (ledger["paper"] != "C") & ~ledger["id"].str.endswith("-gate")
            yes += int((ledger[column][counted] == "yes").sum())
        assert f"<strong>{yes}</strong> yes" in html
    assert html.count("<img src=") == 1


@pytest.mark.slow
def test_notebooks_come_in_order_with_the_outputs_of_their_run(site):
    index = (site / "notebooks" / "index.html").read_text(encoding="utf-8")
    stems = sorted({exhibit.notebook for exhibit in load_exhibits().values()})
    linked = [link for link in Page(site / "notebooks" / "index.html").links if link[0].isdigit()]
    assert list(dict.fromkeys(link.split(".")[0] for link in linked)) == stems, index
    html = (site / "notebooks" / f"{SHOWN}.html").read_text(encoding="utf-8")
    for cell in nbformat.read(NOTEBOOKS / f"{SHOWN}.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            assert f"this is {cell.id}</pre>" in html
    assert f'src="../figures/{SHIPPED[0]}/{FIGURE}.png"' in html
    assert f'href="../figures/{SHIPPED[0]}/report.html#{FIGURE}"' in html
    assert "Executed on the run" in html
    assert "<math" in html
    assert "MathJax" not in html


@pytest.mark.slow
def test_every_shipped_exhibit_is_on_the_site(site, figures):
    page = Page(site / "exhibits.html")
    for id in load_exhibits():
        there = [run for run in RUNS if (figures / run / f"{id}.json").is_file()]
        for run in there:
            assert f"figures/{run}/report.html#{id}" in page.links
    for run in RUNS:
        assert (site / "figures" / run / "report.html").is_file()


@pytest.mark.slow
def test_browsers_are_on_the_site_with_their_pictures(site):
    index = Page(site / "index.html").links
    for run in [run for run in browsed() if run in RUNS]:
        path = site / "figures" / run / BROWSER
        assert f"figures/{run}/{BROWSER}" in index
        assert f"figures/{run}/{BROWSER}" in Page(site / "exhibits.html").links
        beside = pictures_beside(path)
        assert beside
        assert all((path.parent / unquote(url)).is_file() for url in beside)


@pytest.mark.slow
def test_the_api_tells_of_a_rooms_functions(site):
    for room, name in (("datasets", "load_dataset"), ("cache", "atomic")):
        page = Page(site / "api" / f"{room}.html")
        assert f"mmn_utils.{room}.{name}" in page.ids


# --- what needs no site -------------------------------------------------------------------


@pytest.fixture
def docs(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))


@pytest.mark.usefixtures("docs")
def test_every_room_has_a_page_of_the_api():
    from sources import ROOMS

    there = {path.stem for path in (ROOT / "mmn_utils").iterdir() if path.name[0] not in "._"}
    assert set(ROOMS) == there


@pytest.mark.usefixtures("docs")
@pytest.mark.parametrize(
    ("docstring", "rest"),
    [
        ("Of L7.u*, x_ or |a|.", r"Of L7.u\*, x\_ or \|a\|."),
        ("``a*b_`` stays, and so does\n\n* a list", "``a*b_`` stays, and so does\n\n* a list"),
        (
            "As in\n\n    x = 1*2\n\n    y\n\nand on_.",
            "As in\n\n::\n\n    x = 1*2\n\n    y\n\nand on\\_.",
        ),
        ("Attributes:\n    id: paper_", "Attributes:\n    id: paper\\_"),
    ],
)
def test_docstrings_are_read_as_the_house_writes_them(docstring, rest):
    from house import to_rest

    assert "\n".join(to_rest(docstring.split("\n"))) == rest
