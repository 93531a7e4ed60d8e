"""The training's log: lines on the screen, and a row of figures for each in a file."""

from __future__ import annotations

import csv
import shutil
import time
from pathlib import Path

import numpy as np


class ProgressLog:
    """Prints a line and appends a row of figures every ``every`` seconds."""

    FIELDS = ("stage", "images", "loss", "images_per_second", "patch", "object")

    def __init__(self, path: Path, total: int, every: float = 20) -> None:
        self.path, self.total, self.every = path, total, every
        self.losses: list[float] = []
        self.stage, self.seen, self.counted, self.rate = "", 0, None, 0.0
        self.clock = time.monotonic()
        self.last: dict[str, float] = {}

    def due(self, what: str, seconds: float) -> bool:
        """Say once every so many seconds that something is due."""
        now = time.monotonic()
        if now - self.last.setdefault(what, now) < seconds:
            return False
        self.last[what] = now
        return True

    def note(self, stage: str, seen: int, loss: float) -> None:
        """Take in one step."""
        if self.counted is None:
            self.counted, self.clock = seen, time.monotonic()
        self.stage, self.seen = stage, seen
        self.losses.append(loss)
        if time.monotonic() - self.clock >= self.every:
            self.write({})

    def write(self, measured: dict[str, float]) -> None:
        """Print and append the figures since the last line."""
        now = time.monotonic()
        if self.losses and not measured:  # measuring takes longer than a step
            self.rate = (self.seen - self.counted) / max(now - self.clock, 1e-9)
        left = (self.total - self.seen) / max(self.rate, 1e-9) / 60
        loss = float(np.mean(self.losses)) if self.losses else float("nan")
        row = {"stage": self.stage, "images": self.seen, "loss": round(loss, 4)}
        row |= {"images_per_second": round(self.rate, 1)}
        row |= {name: round(value, 4) for name, value in measured.items()}
        print(*(f"{k} {v}" for k, v in row.items()), f"left {left:.1f} min", flush=True)
        if self.stage:  # a run that had nothing left to train adds nothing to its curve
            self._append(row)
        self.losses, self.counted, self.clock = [], None, time.monotonic()

    def _append(self, row: dict) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.is_file()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.FIELDS)
            if new:
                writer.writeheader()
            writer.writerow(row)


def keep_curve(log: Path, target: Path) -> None:
    """Copy a training's log to where the curves are kept that ship."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(log, target)
