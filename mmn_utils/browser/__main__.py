"""Make what the browser reads, and the page that needs no kernel.

    python -m mmn_utils.browser atlas PRESET ...    write data/atlas/RUN from a preset's system
    python -m mmn_utils.browser page PRESET ...     write figures/RUN/browser.html from that atlas;
                                                    --standalone: browser-standalone.html, with
                                                    the pictures inside

Resumed picture by picture after a kill; a preset's name or its YAML file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from mmn_utils.browser.atlas.build import of_preset as atlas_of
from mmn_utils.browser.page.write import of_preset as page_of
from mmn_utils.commands import parser_of, refusing


@refusing
def main(arguments: Sequence[str] | None = None) -> int:
    """Make the atlases or the pages of some presets; 2 for bad parameters or missing files."""
    parser = parser_of("mmn_utils.browser", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    atlas = commands.add_parser("atlas", help="write data/atlas/RUN")
    atlas.add_argument("presets", nargs="+", metavar="PRESET")
    page = commands.add_parser("page", help="write figures/RUN/browser.html")
    page.add_argument("presets", nargs="+", metavar="PRESET")
    page.add_argument("--standalone", action="store_true", help="with its pictures inside")
    chosen = parser.parse_args(arguments)
    for preset in chosen.presets:
        if chosen.command == "atlas":
            print(f"atlas: {os.path.relpath(atlas_of(preset))}")
        else:
            print(page_of(preset, standalone=chosen.standalone))
    return 0


if __name__ == "__main__":
    sys.exit(main())
