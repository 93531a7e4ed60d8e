"""Write what is made of saved exhibits: reports, and the README's tables.

python -m mmn_utils.exhibits report RUN ...    rebuild figures/RUN/report.html; with --standalone
                                               also it and the notebooks, each as one file
python -m mmn_utils.exhibits readme            rewrite the README's two tables
python -m mmn_utils.exhibits verify RUN ...    compute every claim again from the stored rows
"""

from __future__ import annotations

import argparse
import sys

from mmn_utils.commands import refusing
from mmn_utils.exhibits.formats import write_text
from mmn_utils.exhibits.pages import notebook_pages, write_standalone
from mmn_utils.exhibits.readme import update_readme
from mmn_utils.exhibits.report import build_report
from mmn_utils.exhibits.verify import verify
from mmn_utils.presets import ROOT, check_run_name


@refusing
def main(arguments: list[str] | None = None) -> int:
    """Rebuild the reports of some runs or the README's table of exhibits."""
    parser = argparse.ArgumentParser(prog="python -m mmn_utils.exhibits", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    report = commands.add_parser("report", help="write figures/RUN/report.html")
    report.add_argument("runs", nargs="+", metavar="RUN")
    report.add_argument(
        "--standalone", action="store_true", help="and pages that hold their pictures"
    )
    commands.add_parser("readme", help="rewrite the tables of README.md")
    verified = commands.add_parser("verify", help="compute the claims of runs again")
    verified.add_argument("runs", nargs="+", metavar="RUN")
    chosen = parser.parse_args(arguments)
    if chosen.command == "report":
        _build_reports(chosen.runs, chosen.standalone)
    elif chosen.command == "verify":
        return _verify(chosen.runs)
    else:
        readme = ROOT / "README.md"
        write_text(readme, update_readme(readme.read_text(encoding="utf-8")))
    return 0


def _verify(runs: list[str]) -> int:
    """Print what differs; return 1 if anything does."""
    differs = False
    for run in map(check_run_name, runs):
        count, lines = verify(run)
        print(*(f"{run}: {line}" for line in lines), sep="\n", end="\n" if lines else "")
        print(f"{run}: {count} claims computed again, {len(lines)} differences")
        differs |= bool(lines)
    return int(differs)


def _build_reports(runs: list[str], standalone: bool) -> None:
    for run in map(check_run_name, runs):
        path = build_report(run, together=runs)
        print(path)
        for page in (path, *notebook_pages(path.parent)) if standalone else ():
            print(write_standalone(page))


if __name__ == "__main__":
    sys.exit(main())
