"""Every claim of both papers again, under every choice that they leave open.

    python -m mmn_utils.running switches miniature miniature-llava
    python -m mmn_utils.running switches miniature --only rank_by dtype --minutes 20

Each switch (``notebooks/switches.yaml``) is put otherwise, alone, and the notebooks that it
concerns run again; verdicts, and how much of the lists of top units is left, go to
``data/switches/<preset>.csv`` after each. What has been run lies in ``data/cache/switches`` and is
not run again, until code, notebook or parameters change.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from mmn_utils.commands import parser_of, refusing
from mmn_utils.exhibits.formats import format_number, to_csv, write_text
from mmn_utils.exhibits.switches import COLUMNS, NOT_RUN, OVERLAP, table_path
from mmn_utils.measures.estimates import Estimate
from mmn_utils.presets import Preset, data_path, load_preset
from mmn_utils.running.switches.lists import RANKING, overlaps, top_list
from mmn_utils.running.switches.making import Made, Workplace
from mmn_utils.running.switches.plan import (
    DEFAULTS,
    Switch,
    asked_notebooks,
    concerned,
    lacking,
    parameters_of,
    read_sizes,
    read_switches,
)
from mmn_utils.values import refuse_unknown

LONGEST = 160  # letters of why a notebook stops
CLAIM = ("value", "ci_low", "ci_high", "n")


class Court:
    """One preset, whose claims are judged by default and under each switch."""

    def __init__(self, preset: Preset, folder: Path) -> None:
        """Take a preset and the folder of what is run; ValueError where it asks no claims."""
        self.preset, self.place = preset, Workplace(folder / preset.name)
        self.notebooks = asked_notebooks(preset)
        if not self.notebooks:
            raise ValueError(f"{preset.name} runs no notebook with a claim of a paper")
        self.sizes = read_sizes(preset.name)
        refuse_unknown(self.sizes, self.notebooks, f"a notebook with claims (in {preset.name})")

    def check(self, switches: Iterable[Switch]) -> None:
        """Resolve all parameters; ValueError for a switch that changes nothing."""
        for switch in switches:
            for notebook in concerned(switch, self.notebooks):
                self._asked(notebook, switch)

    def is_made(self, switch: Switch) -> bool:
        """Say whether all that a switch concerns has been run, so that it costs nothing."""
        mine = concerned(switch, self.notebooks)
        asked = {name: self._asked(name, switch) for name in mine}
        pairs = [(n, usual, DEFAULTS) for n, (usual, _) in asked.items()]
        pairs += [(n, put, switch) for n, (_, put) in asked.items() if n not in switch.refuses]
        return bool(mine) and all(self.place.recorded(*pair) for pair in pairs)

    def judge(self, switch: Switch) -> list[dict[str, str]]:
        """Run what a switch concerns, and the same by default; return its rows of the table.

        ValueError where nothing came out otherwise, unless that may be.
        """
        rows, moved = [], []
        for notebook in concerned(switch, self.notebooks):
            usual, put = self._asked(notebook, switch)
            before = self.place.make(notebook, self.preset, usual, DEFAULTS)
            after = self._under(notebook, put, switch)
            if isinstance(after, str):
                rows += [row(switch, claim["id"], why=after) for claim in before.claims]
                continue
            self.place.check_environment(before, after, switch)
            rows += [row(switch, claim["id"], claim) for claim in after.claims]
            moved.append(after.claims != before.claims)
            if notebook in RANKING and switch.lists:
                found = self._overlaps(notebook, usual, put, switch)
                moved += [one.value < 1 for one in found.values()]
                rows += [row(switch, f"{OVERLAP}{k}", one) for k, one in found.items()]
        if moved and not (any(moved) or switch.may_agree):
            raise ValueError(
                f"{switch.run}: every number of {self.preset.name} is what it was by default; is "
                "the parameter handed on?"
            )
        return rows

    def _under(self, notebook: str, put, switch: Switch) -> Made | str:
        """Run a notebook under a switch; where it refuses, or stops in a cell, return why."""
        from papermill.exceptions import PapermillExecutionError

        if reason := switch.refuses.get(notebook):
            return reason
        try:
            return self.place.make(notebook, self.preset, put, switch)
        except PapermillExecutionError as error:
            text = f"{notebook} stops: {error.ename} {' '.join(str(error.evalue).split())}"
            print(f"{switch.run}: {text}", file=sys.stderr, flush=True)
            return text[:LONGEST]

    def default(self, switches: Iterable[Switch]) -> list[dict[str, str]]:
        """Run by default all notebooks that some switches concern; return the table's rows.

        And those of notebooks that have been run so before.
        """
        mine = {name for switch in switches for name in concerned(switch, self.notebooks)}
        asked = {name: self._asked(name, DEFAULTS)[0] for name in self.notebooks}
        made = [
            self.place.make(name, self.preset, usual, DEFAULTS)
            for name, usual in asked.items()
            if name in mine or self.place.recorded(name, usual, DEFAULTS)
        ]
        claims = [claim for one in made for claim in one.claims]
        return [
            row(DEFAULTS, one["id"], one) | {"statement": one["statement"]} for one in claims
        ]

    def _asked(self, notebook: str, switch: Switch):
        model = ""
        if switch.system:
            model = self.place.settings(self.preset, notebook, switch)
        return parameters_of(notebook, self.preset, switch, self.sizes.get(notebook, {}), model)

    def _overlaps(self, notebook: str, usual, put, switch: Switch) -> dict[int, Estimate]:
        before = top_list(notebook, usual, self.place.cache(DEFAULTS))
        return overlaps(before, top_list(notebook, put, self.place.cache(switch)))


def row(switch: Switch, claim: str, found=None, why: str = "") -> dict[str, str]:
    """Lay one verdict, or one overlap, out as a row of the table, all texts."""
    cells = dict.fromkeys(COLUMNS, "") | {"switch": switch.switch, "setting": switch.setting}
    cells |= {"claim": claim, "why": why}
    if isinstance(found, Estimate):
        numbers = (found.value, found.low, found.high, found.n)
        return cells | dict(zip(CLAIM, map(format_number, numbers), strict=True))
    return cells | {name: str(found[name]) for name in ("holds", *CLAIM)} if found else cells


def collect(
    preset: str | Path | Preset,
    *,
    only: Sequence[str] = (),
    minutes: float | None = None,
    folder: str | Path | None = None,
    table: str | Path | None = None,
) -> list[str]:
    """Judge a preset's claims under each switch and write the table; return what was left out.

    ``only`` some switches, by the name that several settings may share, and those that have been
    run before; none for all. After ``minutes`` no other switch is begun. Everything is checked
    before anything runs: ValueError for an unknown switch, and for one that changes nothing.
    """
    switches = read_switches()
    refuse_unknown(only, [one.switch for one in switches], "a switch of switches.yaml")
    preset = preset if isinstance(preset, Preset) else load_preset(preset)
    court = Court(preset, Path(folder or data_path("cache", "switches")))
    reasons = _reasons(court, switches)
    possible = [one for one in switches if not reasons[one.run]]
    court.check(possible)
    asked = [one for one in possible if not only or one.switch in only]
    path, begun, left = Path(table or table_path(court.preset.name)), time.monotonic(), []
    made = [one for one in possible if court.is_made(one)]
    rows = {DEFAULTS.run: court.default([*asked, *made])}
    for switch in switches:
        if reason := reasons[switch.run]:
            rows[switch.run] = [row(switch, "", why=reason)]
        elif court.is_made(switch) or (switch in asked and _in_time(begun, minutes)):
            rows[switch.run] = court.judge(switch)
        elif concerned(switch, court.notebooks):
            left.append(switch.run)
            rows[switch.run] = [row(switch, "", why=NOT_RUN)]
        _write(path, rows.values())
    return left


def _in_time(begun: float, minutes: float | None) -> bool:
    return minutes is None or time.monotonic() - begun < 60 * minutes


def _reasons(court: Court, switches: Sequence[Switch]) -> dict[str, str]:
    """Say of each switch why the preset's system cannot have it; nothing where it can."""
    from mmn_utils.models import load_model

    system = None
    found = dict.fromkeys((one.run for one in switches), "")
    for switch in switches:
        if switch.needs:
            system = system or load_model(court.preset.settings["model"])
            found[switch.run] = lacking(switch, system)
    return found


def _write(path: Path, rows: Iterable[list[dict[str, str]]]) -> None:
    every = [cells for some in rows for cells in some]
    write_text(path, to_csv(pd.DataFrame(every, columns=COLUMNS)))


@refusing
def main(arguments: Sequence[str] | None = None) -> int:
    """Judge presets from the command line; 2 for what is refused."""
    parser = parser_of("mmn_utils.running switches", __doc__)
    parser.add_argument("presets", nargs="+", metavar="PRESET", help="a name or a YAML file")
    parser.add_argument("--only", nargs="+", default=[], metavar="SWITCH", help="some switches")
    parser.add_argument("--minutes", type=float, help="after which no other switch is begun")
    chosen = parser.parse_args(arguments)
    for preset in chosen.presets:
        left = collect(preset, only=chosen.only, minutes=chosen.minutes)
        print(f"{preset}: {table_path(load_preset(preset).name)}")
        if left:
            print(f"not run: {', '.join(left)}")
    return 0


__all__ = ["Court", "Made", "collect", "main", "row"]
