"""What commands share: a parser that shows a module's text as it stands, and refusals in words."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import wraps

Main = Callable[[Sequence[str] | None], int]


def parser_of(module: str, about: str | None) -> argparse.ArgumentParser:
    """Return a parser of ``python -m MODULE``; ``about`` is printed with its own lines."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def refusing(main: Main) -> Main:
    """Let a command print what it refuses, ``ValueError`` and ``OSError``, and return 2."""

    @wraps(main)
    def told(arguments: Sequence[str] | None = None) -> int:
        try:
            return main(arguments)
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    return told
