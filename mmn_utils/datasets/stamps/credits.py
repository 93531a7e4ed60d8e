"""Whose the cut-outs are, and what a folder of scenes was made of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE, VERSION = "tuxpaint-stamps-default", "2022.06.04-1"
LICENCE = "GPL-2.0-or-later"
HOLDERS = "Bill Kendrick and the contributors of Tux Paint Stamps"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Credits:
    """The credit that goes with every picture made of the cut-outs."""

    holders: str = HOLDERS
    package: str = PACKAGE
    version: str = VERSION
    licence: str = LICENCE

    @property
    def line(self) -> str:
        """Return the credit as one sentence."""
        return (
            f"The pictures are composed of cut-outs by {self.holders}, 2002-2022, from Debian's "
            f"package {self.package} {self.version}, and are, as these, under the GNU General "
            f"Public License, version 2 or later ({self.licence})."
        )

    @property
    def notice(self) -> str:
        """Return what stands on pages that show the pictures: the credit, and what it is of."""
        return f"{self.line} So are the figures here that show them."


def read_credits(home: str | Path) -> Credits:
    """Read the credit of the scenes in a folder.

    FileNotFoundError where ``make stamps`` has not made it.
    """
    return Credits(**read_manifest(Path(home))["credits"])


def read_manifest(home: Path) -> dict[str, Any]:
    """Read what the scenes in a folder were made of; FileNotFoundError where they are not there."""
    path = home / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"no scenes of stamps at {home}: `make stamps` makes them")
    return json.loads(path.read_text(encoding="utf-8"))
