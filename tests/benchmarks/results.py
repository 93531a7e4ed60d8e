"""All benchmarks, and the page of their ratios: ``python -m tests.benchmarks.results``.

Writes ``RESULTS.md`` beside this file: the machine in general terms, versions, and one table for
each benchmark; of those that are not asked for, what the same machine wrote stays. What needs
weights or a browser that are not here is named with the reason.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mmn_utils.browser.atlas.files import write_atlas
from mmn_utils.cache import atomic
from mmn_utils.datasets import load_dataset
from mmn_utils.miniature.vision.recipe import Recipe
from mmn_utils.models import MissingParts, load_model
from mmn_utils.neurons.ranking import RANKS
from mmn_utils.presets import ROOT
from tests.benchmarks import (
    bench_ablation,
    bench_atlas,
    bench_attribution,
    bench_contribution,
    bench_edit_trials,
    bench_exact,
    bench_peers,
    bench_planning,
    bench_scores,
    bench_session,
    bench_smol,
    bench_training,
)
from tests.benchmarks.timing import best_times

PAGE = Path(__file__).with_name("RESULTS.md")
PACKAGES = ("torch", "transformers", "captum", "numpy", "pandas")
Table = Callable[[bool], pd.DataFrame]


def ablation(tiny: bool) -> pd.DataFrame:
    """Sweeps: how many times as long plain hooks take."""
    small = {"llava": {"layers": 2, "width": 32, "side": 4}, "miniature": {"layers": 2}}
    rows = []
    for system in bench_ablation.SYSTEMS:
        for score in bench_ablation.SCORES:
            more = {"tokens": 2, "ways": ["cache"], **small[system]} if tiny else {}
            count, equal, ratios = bench_ablation.measure(system, score, **more)
            for way, ratio in ratios.items():
                alike = f"{equal[way]} of {count}"
                rows.append((system, score, way, alike, ratio))
    return pd.DataFrame(rows, columns=["system", "score", "plain hooks", "captions equal", "ratio"])


def attribution(tiny: bool) -> pd.DataFrame:
    """Attribution: its time over the floor, and Captum's over its."""
    size = {"images": 1, "repeats": 1, "layers": 2} if tiny else {}
    times = bench_attribution.measure(**size)
    rows = [(f"ours by {rank}, over the floor", times[rank] / times["floor"]) for rank in RANKS]
    others = [way for way in times if way != "floor" and way not in RANKS]
    rows += [(f"{way}, over ours", times[way] / times["max"]) for way in others]
    parts = bench_attribution.in_parts(*((4, 1, 2, 1) if tiny else ()))
    about = f"a batch in parts of {parts['rows']}, over one pass"
    rows += [(f"{about}: {what}", parts[what]) for what in ("time", "memory")]
    return pd.DataFrame(rows, columns=["what", "ratio"])


def contribution(tiny: bool) -> pd.DataFrame:
    """Contribution of one noun: its time, with the pass, over plain hooks'."""
    size = {"repeats": 1, "layers": 2} if tiny else {"repeats": 15}
    found = bench_contribution.against_hooks(**size)
    rows = [(f"ours, over {way}", ratio) for way, ratio in found.items()]
    return pd.DataFrame(rows, columns=["what", "ratio"])


def exact(tiny: bool) -> pd.DataFrame:
    """Units off: how many times as long one at a time takes, operations over derived; pairs too."""
    sizes = {"all": (64, 4), "step": (1024, 16)}
    more = {"repeats": 1, "layers": 2} if tiny else {}
    rows = []
    for positions, (units, plain) in sizes.items():
        one = bench_exact.measure(positions, *((4, 2) if tiny else (units, plain)), **more)
        ratio, operations = one.plain / one.ours, one.operations / one.derived
        rows.append((positions, "each unit", ratio, one.plain * one.pace / one.derived, operations))
        alike = one.alike / one.ours
        rows.append((positions, "each unit, our products for both", alike, np.nan, operations))
        for late in (False, True):
            size = (5, 5, 1, 3) if tiny else (50, 16)
            ratio = bench_exact.measure_pairs(positions, late, *size)[1]
            rows.append((positions, f"pairs{' of upper layers' * late}", ratio, np.nan, np.nan))
    columns = ["positions", "off", "ratio", "ceiling by operations", "operations over derived"]
    return pd.DataFrame(rows, columns=columns)


def peers(tiny: bool) -> pd.DataFrame:
    """Attribution by other packages, all with the same weights: their time over ours."""
    small = {"llava": {"layers": 2, "width": 32, "side": 4}, "miniature": {"layers": 2}}
    versions = {name: bench_peers.version_of(name) for name in bench_peers.PEERS}
    rows = [("", name, "not installed", np.nan) for name, there in versions.items() if not there]
    for system in bench_peers.SYSTEMS:
        more = {"repeats": 1, **small[system]} if tiny else {}
        for way, ratio in bench_peers.measure(system, **more).items():
            rows.append((system, way, versions.get(way.partition(",")[0], ""), ratio))
    return pd.DataFrame(rows, columns=["system", "way", "version", "ratio"])


def planning(tiny: bool) -> pd.DataFrame:
    """Plans: the time that they give passes of small systems, over the time taken."""
    systems = list(bench_planning.SYSTEMS)[: 1 if tiny else None]
    only = {"names": ("caption",), "repeats": 1} if tiny else {}
    found = {system: bench_planning.measure(system, **only) for system in systems}
    rows = [(system, name, one) for system in found for name, one in found[system].items()]
    return pd.DataFrame(rows, columns=["system", "pass", "planned over measured"])


def scores(tiny: bool) -> pd.DataFrame:
    """What scores cost: processor time and peak memory over those of one forward pass."""
    presets = ["miniature-instructblip"] if tiny else bench_scores.MINIATURES
    size = {"repeats": 1, "units": 2, "names": ["gradient", "random"]} if tiny else {}
    found = {one: bench_scores.measure(*bench_scores.of_preset(one), **size) for one in presets}
    table = pd.concat(part.assign(system=one) for one, part in found.items())
    named = {"time": "ratio", "memory": "memory over a pass's"}
    return table.rename(columns=named)[["system", "score", *named.values()]]


def edit_trials(tiny: bool) -> pd.DataFrame:
    """Edits tried on photographs: how many times as long edited weights take."""
    size = {"photographs": 12, "tokens": 6, "repeats": 1} if tiny else {}
    alike, made, times = bench_edit_trials.measure(**size)
    ours = times.pop("rows")
    rows = [(way, f"{alike} of {made}", time / ours) for way, time in times.items()]
    return pd.DataFrame(rows, columns=["way", "captions alike", "ratio"])


def training(tiny: bool) -> pd.DataFrame:
    """Steps of training: how many times as long the first way takes."""
    size = {"layers": 1, "width": 32} if tiny else {}
    rows = []
    for what, steps in bench_training.pairs_of(Recipe(), **size).items():
        first, second = best_times(steps, 1 if tiny else 3).values()
        rows.append((what, " / ".join(steps), first / second))
    return pd.DataFrame(rows, columns=["step", "ways", "ratio"])


def atlas(tiny: bool) -> pd.DataFrame:
    """Questions to an atlas: seconds, and those of pandas."""
    size = {"layers": 3, "units": 64, "width": 300, "vocabulary": 90, "k": 10} if tiny else {
        "layers": 28, "units": 4096, "width": 1024, "vocabulary": 50258, "k": 100}  # fmt: skip
    facts = bench_atlas.random_facts(**size)
    with tempfile.TemporaryDirectory() as folder:
        parts = bench_atlas.random_parts(facts, pictures=30 if tiny else 300)
        return bench_atlas.measure(write_atlas(Path(folder) / "atlas", facts, parts), asked=3)


def session(tiny: bool) -> pd.DataFrame:
    """Questions of the live browser on the miniature: seconds."""
    found = bench_session.of_preset("miniature")
    return bench_session.measure(found, 2 if tiny else 20).reset_index()


def smol(tiny: bool) -> pd.DataFrame:
    """The real language model: how many times as long the plain way takes, and could at most."""
    model, shown = load_model("smol"), load_dataset("stamps").sample(4 if tiny else 32, 0)
    bench = bench_smol.Bench(model, shown, 4 if tiny else 20)
    only = ["attribution"] if tiny else [*bench_smol.AIMS]
    found = bench_smol.measure(bench, 1 if tiny else 2, only)
    aims = bench_smol.AIMS
    rows = [(name, one.ratio, aims[name], one.ceiling, one.alike) for name, one in found.items()]
    columns = ["question", "ratio", "aimed at", "ceiling by operations", "our products for both"]
    return pd.DataFrame(rows, columns=columns)


TABLES: dict[str, Table] = {
    one.__name__: one
    for one in (
        ablation,
        attribution,
        peers,
        contribution,
        edit_trials,
        exact,
        planning,
        scores,
        training,
        atlas,
        session,
        smol,
    )
}


def machine() -> str:
    """Say in general terms what machine this is, and which versions are in use."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    kind = f"{platform.system()} on {platform.machine()}, {os.cpu_count()} cores"
    return f"{kind}; one thread, processor time. Python {platform.python_version()}, {versions}."


def page(tables: dict[str, pd.DataFrame | str], before: str = "") -> str:
    """Lay tables, or the reasons why there are none, out as Markdown.

    Those of a page ``before``, written on the same machine, stay where there are no new ones.
    """
    head = "\n".join(["# Benchmarks", "", "Written by `make bench`. " + machine()])
    old, *others = before.rstrip("\n").split("\n\n## ")
    parts = {part.partition("\n")[0]: part for part in others} if old == head else {}
    for name, found in tables.items():
        about = TABLES[name].__doc__.splitlines()[0]
        shown = found if isinstance(found, str) else _markdown(found)
        title = name.replace("_", " ")
        parts[title] = "\n".join([title, "", about, "", shown])
    titles = [name.replace("_", " ") for name in TABLES]
    ordered = [parts[title] for title in titles if title in parts]
    return "\n\n## ".join([head, *ordered]) + "\n"


def _markdown(table: pd.DataFrame) -> str:
    """Write a table with numbers of three digits."""
    cells = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    lines = [list(map(str, table.columns)), ["---"] * len(table.columns), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: object) -> str:
    """Write one cell; a dash for a number that there is none of."""
    if not isinstance(value, float):
        return str(value)
    return "–" if np.isnan(value) else f"{value:.3g}"


def results(names: list[str], tiny: bool = False) -> dict[str, pd.DataFrame | str]:
    """Run benchmarks: a table of each, or the reason why it could not be run here."""
    torch.set_num_threads(1)
    found: dict[str, pd.DataFrame | str] = {}
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            found[name] = TABLES[name](tiny)
        except (MissingParts, FileNotFoundError) as error:
            reason = str(error).splitlines()[0].replace(f"{ROOT}{os.sep}", "")
            found[name] = f"Not run: {reason}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(TABLES), default=list(TABLES))
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try it")
    parser.add_argument("--page", type=Path, default=PAGE)
    chosen = parser.parse_args()
    before = chosen.page.read_text(encoding="utf-8") if chosen.page.is_file() else ""
    written = page(results(chosen.only, chosen.tiny), before)
    with atomic(chosen.page) as part:
        part.write_text(written, encoding="utf-8")
    print(f"Results: {chosen.page}")


if __name__ == "__main__":
    main()
