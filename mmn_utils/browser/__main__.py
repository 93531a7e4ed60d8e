"""Make what the browser reads.

    python -m mmn_utils.browser atlas PRESET ...    write data/atlas/RUN from a preset's system

Resumed picture by picture after a kill; a preset's name or its YAML file.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from mmn_utils.browser.atlas import of_preset


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the atlases of some presets; 2 for bad parameters or missing files."""
    parser = argparse.ArgumentParser(
        prog="python -m mmn_utils.browser",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    atlas = commands.add_parser("atlas", help="write data/atlas/RUN")
    atlas.add_argument("presets", nargs="+", metavar="PRESET")
    chosen = parser.parse_args(arguments)
    try:
        for preset in chosen.presets:
            print(f"atlas: {os.path.relpath(of_preset(preset))}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
