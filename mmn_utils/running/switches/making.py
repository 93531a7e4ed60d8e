"""One notebook under one switch: run in a folder of its own, and never twice."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mmn_utils.cache import canonical, code_version
from mmn_utils.exhibits import judging, ledger, texts
from mmn_utils.exhibits.entries import exhibits_of
from mmn_utils.exhibits.formats import to_json, write_text
from mmn_utils.exhibits.ledger import CLAIM_COLUMNS, OUR_PAPER
from mmn_utils.presets import Preset, notebook_path, resolve
from mmn_utils.running.switches.plan import Switch

USUAL = {"OMP_NUM_THREADS": "1"}  # of every run, unless its switch says otherwise
KEPT = ["id", "statement", "holds", "value", "ci_low", "ci_high", "n"]  # of a ledger
SEEN = {"OMP_NUM_THREADS": "threads", "MMN_ROWS": "rows"}  # as circumstances record them


@dataclass(frozen=True)
class Made:
    """What a run of a notebook left: the papers' claims as the ledger has them, circumstances."""

    claims: list[dict[str, str]]
    circumstances: dict[str, str]
    seconds: float


@dataclass(frozen=True)
class Workplace:
    """The folder of one preset's runs: figures, build, a cache, and a record of each run."""

    folder: Path

    def cache(self, switch: Switch) -> Path:
        """Return the cache of a switch: shared, but where its key does not tell results apart."""
        return self.folder / (f"cache-{switch.run}" if switch.environment else "cache")

    def settings(self, preset: Preset, notebook: str, switch: Switch) -> str:
        """Write the file that gives the system a switch's facts; return its path."""
        path = self.folder / f"{switch.run}.yaml"
        facts = {"model": resolve(notebook, preset)["model"], **switch.system}
        write_text(path, "".join(f"{name}: {json.dumps(value)}\n" for name, value in facts.items()))
        return str(path)

    def make(
        self, notebook: str, preset: Preset, parameters: Mapping[str, Any], switch: Switch
    ) -> Made:
        """Run a notebook with its resolved parameters, or read what is recorded of it.

        A run whose code, notebook, texts, parameters or environment have changed is made again.
        papermill's error where a cell fails.
        """
        if kept := self.recorded(notebook, parameters, switch):
            return kept
        begun = time.monotonic()
        self._run(notebook, preset, parameters, switch)
        found = Made(
            self._claims(notebook, switch),
            self._circumstances(notebook, switch),
            round(time.monotonic() - begun, 1),
        )
        key = self._key(notebook, parameters, switch)
        write_text(self._record(notebook, switch), to_json({"key": key, **vars(found)}))
        print(f"{preset.name} {switch.run} {notebook}: {found.seconds:.0f} s", flush=True)
        return found

    def recorded(
        self, notebook: str, parameters: Mapping[str, Any], switch: Switch
    ) -> Made | None:
        """Read what is recorded of a run; None where it is not there, or would come out anew."""
        path = self._record(notebook, switch)
        kept = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        if kept.pop("key", None) != self._key(notebook, parameters, switch):
            return None
        return Made(**kept)

    def _record(self, notebook: str, switch: Switch) -> Path:
        return self.folder / "made" / switch.run / f"{notebook}.json"

    def check_environment(self, before: Made, after: Made, switch: Switch) -> None:
        """Raise ValueError where a variable of the environment did not reach the kernel."""
        for name, value in switch.environment.items():
            seen = after.circumstances[SEEN[name]]
            if seen != value or seen == before.circumstances[SEEN[name]]:
                raise ValueError(f"{switch.run}: the notebook ran with {name} = {seen!r}")

    def _run(self, notebook: str, preset: Preset, parameters: Mapping[str, Any], switch: Switch):
        from mmn_utils.running.run import execute

        given = {name: value for name, value in parameters.items() if name != "preset"}
        places = {"output_root": self.folder / "build", "figures": self.folder / "figures"}
        with _environment({**USUAL, **switch.environment}):
            execute(notebook, preset, given, **places, cache=self.cache(switch))

    def _key(self, notebook: str, parameters: Mapping[str, Any], switch: Switch) -> str:
        path = notebook_path(notebook)
        about = {
            "parameters": dict(parameters),
            "environment": dict(switch.environment),
            "system": dict(switch.system),
            "code": [code_version(), code_version([judging, ledger, texts])],
        }
        words = path.parent / texts.FOLDER / f"{path.stem}.yaml"
        digest = hashlib.sha256(canonical(about).encode())
        for file in (path, words):
            digest.update(file.read_bytes() if file.is_file() else b"")
        return digest.hexdigest()[:24]

    def _claims(self, notebook: str, switch: Switch) -> list[dict[str, str]]:
        """Read the papers' claims of a notebook from the run's ledger, as text."""
        path = self.folder / "figures" / switch.run / "claims.csv"
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)[CLAIM_COLUMNS]
        ids = {one.id for one in exhibits_of(notebook)}
        mine = rows[rows["exhibit"].isin(ids) & (rows["paper"] != OUR_PAPER)]
        if mine.empty:
            raise ValueError(f"{notebook} entered no claim of a paper into {path}")
        return mine[KEPT].to_dict("records")

    def _circumstances(self, notebook: str, switch: Switch) -> dict[str, str]:
        folder = self.folder / "build" / switch.run / "provenance"
        paths = [folder / f"{one.id}.json" for one in exhibits_of(notebook)]
        found = json.loads(next(filter(Path.is_file, paths)).read_text("utf-8"))
        return {name: found[name] for name in SEEN.values()}


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for a while, and take away those that no run shall have by itself."""
    names = {*SEEN, *values}
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        os.environ.update({name: value for name, value in before.items() if value is not None})


