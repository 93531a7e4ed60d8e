"""The pages of a run: its report, its executed notebooks, and each of them as one file.

    figures/<run>/report.html
    figures/<run>/browser.html             written by mmn_utils/browser, where the run has an atlas
    figures/<run>/notebooks/<name>.html    with the pictures <name>-1.png ... that are no exhibits
    *-standalone.html                      what lies beside the page is in it; not kept by git

They share one look, ``page.html.j2`` with ``page.css``, and need no network and no script.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path

from mmn_utils.exhibits.formats import write_text

TEMPLATES = Path(__file__).parent
NOTEBOOKS = "notebooks"  # folder in a run
BROWSER = "browser.html"  # in a run
STANDALONE = "-standalone"  # at the end of such a file's name
KINDS = {".png": "image/png", ".csv": "text/csv", ".json": "application/json"}
BESIDE = re.compile(r"<(\w+)[^<>]*\sdata-beside\b[^<>]*>.*?</\1>\n?", re.DOTALL)
SOURCE = re.compile(r'(<img\s(?:[^<>]*\s)?src=)"(?!data:)([^"]+)"')
LINK = re.compile(r'<a\s[^<>]*?href="(?!#|data:|https?:)([^"]+)"[^<>]*>(.*?)</a>', re.DOTALL)


def notebook_pages(folder: Path) -> list[Path]:
    """List the executed notebooks that a run in ``folder`` has as pages."""
    found = (folder / NOTEBOOKS).glob("*.html")
    return sorted(path for path in found if not path.stem.endswith(STANDALONE))


def forget_page(folder: Path, notebook: str) -> None:
    """Remove a notebook's page and its pictures from a run in ``folder``."""
    mine = re.compile(rf"{re.escape(notebook)}({STANDALONE})?\.html|{re.escape(notebook)}-\d+\.png")
    for path in list((folder / NOTEBOOKS).glob(f"{notebook}*")):
        if mine.fullmatch(path.name):
            path.unlink()


def write_standalone(page: Path) -> Path:
    """Write ``NAME-standalone.html`` beside the page ``NAME.html``; return its path."""
    path = page.with_name(f"{page.stem}{STANDALONE}.html")
    write_text(path, standalone(page.read_text(encoding="utf-8"), page.parent))
    return path


def standalone(html: str, folder: Path) -> str:
    """Return a page of ``folder`` with its pictures, numbers and records inside.

    Links to other pages are gone, and so is what bears the attribute ``data-beside``, which only
    leads to them. ValueError where a picture is not there.
    """
    html = BESIDE.sub("", html)
    html = SOURCE.sub(lambda found: f'{found[1]}"{_inside(folder / found[2])}"', html)
    return LINK.sub(lambda found: _link(folder / found[1], found[2]), html)


def _link(path: Path, text: str) -> str:
    if path.suffix not in (".csv", ".json") or not path.is_file():
        return text
    return f'<a href="{_inside(path)}" download="{path.name}">{text}</a>'


def _inside(path: Path) -> str:
    try:
        content = base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise ValueError(f"the page shows {path}, which cannot be read: {error}") from error
    return f"data:{KINDS[path.suffix]};base64,{content}"
