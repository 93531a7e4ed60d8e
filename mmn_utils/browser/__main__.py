"""Make what the browser reads, and the page that needs no kernel.

    python -m mmn_utils.browser atlas PRESET ...    write data/atlas/RUN from a preset's system
    python -m mmn_utils.browser page PRESET ...     write figures/RUN/browser.html from that atlas;
                                                    --standalone: browser-standalone.html, with
                                                    the pictures inside

Resumed picture by picture after a kill; a preset's name or its YAML file.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from mmn_utils.browser.atlas.build import of_preset as atlas_of
from mmn_utils.browser.page.write import of_preset as page_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the atlases or the pages of some presets; 2 for bad parameters or missing files."""
    parser = argparse.ArgumentParser(
        prog="python -m mmn_utils.browser",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    atlas = commands.add_parser("atlas", help="write data/atlas/RUN")
    atlas.add_argument("presets", nargs="+", metavar="PRESET")
    page = commands.add_parser("page", help="write figures/RUN/browser.html")
    page.add_argument("presets", nargs="+", metavar="PRESET")
    page.add_argument("--standalone", action="store_true", help="with its pictures inside")
    chosen = parser.parse_args(arguments)
    try:
        for preset in chosen.presets:
            if chosen.command == "atlas":
                print(f"atlas: {os.path.relpath(atlas_of(preset))}")
            else:
                print(page_of(preset, standalone=chosen.standalone))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
