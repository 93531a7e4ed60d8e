"""The method court from nothing: the truth of every unit, what ships of it, and the notebook.

    python -m mmn_utils.running court miniature miniature-llava
    python -m mmn_utils.running court miniature-instructblip --pairs 2 --ship 2

For each preset, as its notebook 09 has model, pictures and seed: the exact losses of ``--pairs``
pairs of picture and noun are computed by ``--shards`` processes side by side, each picture once
and kept, so that a run resumes after a kill; those of the first ``--ship`` pairs are written where
the preset's ``stored`` says; the notebook runs on them, and the reports are built again. Who asks
for fewer than the notebook's ``n_images`` has a trial: it writes to ``data/cache/truth`` and
``figures/<preset>-court`` instead, and what ships stays as it is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmn_utils.commands import parser_of, refusing
from mmn_utils.exhibits.report import build_report
from mmn_utils.presets import Preset, data_path, from_root, load_preset
from mmn_utils.running.environment import with_defaults
from mmn_utils.running.run import check, execute

NOTEBOOK = "09_method_court"
COMMAND = "mmn_utils.studies.court.truth"
ASKED = ("model", "dataset", "data_root", "device", "dtype", "seed", "max_new_tokens")


@dataclass(frozen=True)
class Sitting:
    """What the court does for one preset.

    ``parameters`` are notebook 09's, ``folder`` is where ``ship`` of the ``pairs`` are written,
    ``given`` what the notebook is told beside the preset.
    """

    preset: Preset
    parameters: dict[str, Any]
    pairs: int
    ship: int
    folder: Path
    given: dict[str, Any]

    @classmethod
    def of(cls, preset: str | Path | Preset, pairs: int, ship: int) -> Sitting:
        """Plan for a preset; ``ValueError`` for one whose court reads no stored truth."""
        preset = preset if isinstance(preset, Preset) else load_preset(preset)
        parameters = check(NOTEBOOK, preset)
        if not (preset.runs(NOTEBOOK) and parameters["stored"]):
            raise ValueError(
                f"preset {preset.name}: its {NOTEBOOK} reads no stored truth; name the notebook in "
                f"only, and under notebooks, {NOTEBOOK}: 'stored: data/truth/{preset.name}'"
            )
        ship = min(ship, pairs)
        if ship < 1:
            raise ValueError(f"pairs = {pairs}, ship = {ship}: give 1 or more of each")
        if ship >= parameters["n_images"]:
            return cls(preset, parameters, pairs, ship, from_root(parameters["stored"]), {})
        folder = data_path("cache", "truth", preset.name)
        given = {"run": f"{preset.name}-court", "n_images": ship, "stored": str(folder)}
        return cls(preset, parameters, pairs, ship, folder, given)

    @property
    def run(self) -> str:
        """The folder of ``figures`` that the notebook fills."""
        return self.given.get("run", self.preset.name)

    @property
    def command(self) -> list[str]:
        """What computes the truth, all of it, and saves nothing."""
        words = [sys.executable, "-m", COMMAND, "--pairs", str(self.pairs)]
        for name in ASKED:
            if (value := self.parameters[name]) != "":
                words += [f"--{name.replace('_', '-')}", str(value)]
        return words

    def hold(self, shards: int) -> None:
        """Compute, save, and run the notebook; ``ValueError`` where a process fails."""
        print(f"{self.preset.name}: exact losses of {self.pairs} pairs", flush=True)
        words = [["--shard", f"{index}/{shards}"] for index in range(shards)]
        run_all([self.command + some for some in words], shards)
        run_all([[*self.command, "--out", str(self.folder), "--ship", str(self.ship)]])
        execute(NOTEBOOK, self.preset, self.given, lines=True)
        print(f"{self.preset.name}: truth in {self.folder}, figures/{self.run}", flush=True)


def run_all(commands: Sequence[Sequence[str]], processes: int = 1) -> None:
    """Run commands side by side, each with its share of the cores; end all where one fails.

    ``ValueError`` names the one that did.
    """
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    environment = with_defaults({"OMP_NUM_THREADS": threads, **os.environ})
    running = [subprocess.Popen(list(words), env=environment) for words in commands]
    try:
        for words, process in zip(commands, running, strict=True):
            if code := process.wait():
                raise ValueError(
                    f"'{' '.join(words[1:])}' ended with {code}; what it had computed is kept, and "
                    "another run goes on from there"
                )
    finally:
        for process in running:
            if process.poll() is None:
                process.terminate()
                process.wait()


@refusing
def main(arguments: Sequence[str] | None = None) -> int:
    """Hold court over presets from the command line; 2 for what is refused, 1 for a failed cell."""
    parser = parser_of("mmn_utils.running court", __doc__)
    parser.add_argument("presets", nargs="+", metavar="PRESET", help="a name or a YAML file")
    parser.add_argument("--pairs", type=int, default=100, help="pairs of picture and noun")
    parser.add_argument("--ship", type=int, default=20, help="of which so many are written")
    parser.add_argument("--shards", type=int, default=1, help="processes side by side")
    chosen = parser.parse_args(arguments)
    from papermill.exceptions import PapermillExecutionError

    try:
        if chosen.shards < 1:
            raise ValueError(f"shards = {chosen.shards}: give 1 or more")
        sittings = [Sitting.of(one, chosen.pairs, chosen.ship) for one in chosen.presets]
        for sitting in sittings:
            sitting.hold(chosen.shards)
        runs = [sitting.run for sitting in sittings]
        for run in runs:
            print(f"Report: {build_report(run, together=runs)}")
    except PapermillExecutionError as error:
        print(f"error: {NOTEBOOK} stopped in a cell\n{error}", file=sys.stderr)
        return 1
    return 0
