"""Build the static site from what is committed: notebooks with outputs, reports, docstrings.

    python docs/build.py --out build/site

Nothing runs: outputs are taken from the pages in ``figures/<run>/notebooks``, numbers from
``figures/<run>/claims.csv``. The site needs no network.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from sphinx.cmd.build import build_main

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
FIGURES = ROOT / "figures"  # from where the pages that are committed find their pictures
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(HERE))

from mmn_utils.compat import unavailable  # noqa: E402

# or jsonschema has a grammar of international addresses compiled as it is imported: seconds
with unavailable("rfc3987_syntax"):
    from sources import ROOMS, write_sources

from mmn_utils.browser.page.write import pictures_beside  # noqa: E402
from mmn_utils.exhibits.entries import shipped  # noqa: E402
from mmn_utils.exhibits.pages import BROWSER, STANDALONE  # noqa: E402


def build(out: Path, figures: Path, rooms: Sequence[str], quiet: bool = False) -> int:
    """Build the site into ``out``, which is made anew; return Sphinx's exit status.

    ``figures`` holds the runs, ``rooms`` are those that have a page of the API.
    """
    sources = out.with_name(f"{out.name}-sources")
    for folder in (out, sources):
        shutil.rmtree(folder, ignore_errors=True)
    write_sources(sources, figures, rooms)
    for run in shipped(figures):
        without = shutil.ignore_patterns(f"*{STANDALONE}.html")
        shutil.copytree(figures / run, out / "figures" / run, ignore=without)
        _copy_pictures(figures / run / BROWSER, out)
    options = ["-b", "html", "-c", str(HERE), "-d", str(sources / ".doctrees"), "--keep-going"]
    options += ["--fail-on-warning", "--show-traceback", *(["-q"] if quiet else [])]
    return build_main([*options, str(sources), str(out)])


def _copy_pictures(page: Path, out: Path) -> None:
    """Copy the pictures that a run's browser refers to, to where it finds them on the site.

    ValueError for one that would lie outside of the site.
    """
    for url in pictures_beside(page) if page.is_file() else ():
        beside = [folder / unquote(url) for folder in (page.parent, FIGURES / page.parent.name)]
        copy = (out / "figures" / page.parent.name / unquote(url)).resolve()
        if not copy.is_relative_to(out):
            raise ValueError(f"{page} shows {url}, which lies outside of the repository")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(next(filter(Path.is_file, beside), beside[0]), copy)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the site from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    parser.add_argument("--figures", type=Path, default=FIGURES)
    parser.add_argument("--rooms", nargs="*", default=list(ROOMS), help="of the API")
    chosen = parser.parse_args(arguments)
    status = build(chosen.out.resolve(), chosen.figures.resolve(), chosen.rooms, quiet=True)
    if status == 0:
        print(f"Site: {chosen.out.resolve() / 'index.html'}")
    return status


if __name__ == "__main__":
    sys.exit(main())
