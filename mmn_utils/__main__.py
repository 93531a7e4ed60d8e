"""Commands about a model.

    python -m mmn_utils doctor llava-hf/llava-1.5-7b-hf --picture cat.jpg

``doctor`` says what was found in a model, what was checked, and what can be asked of it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from mmn_utils.running import examination

COMMANDS = {"doctor": examination.main}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that is named first, with the rest of the arguments."""
    name, *rest = [*(sys.argv[1:] if arguments is None else arguments)] or [""]
    if name in ("-h", "--help"):
        print(__doc__)
        return 0
    if name not in COMMANDS:
        print(f"error: {name!r} is no command; give {', '.join(COMMANDS)}", file=sys.stderr)
        return 1
    return COMMANDS[name](rest)


if __name__ == "__main__":
    sys.exit(main())
