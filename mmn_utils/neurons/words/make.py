"""Make the packaged word list from SCOWL's own lists.

apt-get download scowl && dpkg -x scowl_*.deb scowl
python -m mmn_utils.neurons.words.make scowl/usr/share/dict/scowl
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

from mmn_utils.neurons.words import FILE

SIZE = 60
# English as such, American, and British with either of its spellings, -ise and -ize.
SPELLINGS = ("english", "american", "british", "british_z")
# What the hunspell dictionaries made from SCOWL contain, less the contractions.
KINDS = ("words", "upper", "proper-names", "abbreviations")


def read_words(folder: str | Path, size: int = SIZE) -> list[str]:
    """Return the sorted words of three letters or more in SCOWL's lists up to ``size``."""
    found: set[str] = set()
    for path in sorted(Path(folder).iterdir()):
        spelling, _, kind = path.stem.partition("-")
        if spelling in SPELLINGS and kind in KINDS and int(path.suffix[1:]) <= size:
            found.update(path.read_text(encoding="utf-8").split())
    if not found:
        raise ValueError(f"no SCOWL list such as english-words.10 in {folder}")
    return sorted(word for word in found if len(word) >= 3 and word.isalpha())


def write_words(words: list[str], path: str | Path) -> None:
    """Write one word a line, compressed without a time stamp so that the bytes repeat."""
    Path(path).write_bytes(gzip.compress("\n".join(words).encode("utf-8"), 9, mtime=0))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    write_words(read_words(sys.argv[1]), Path(__file__).with_name(FILE))
