"""Run one notebook headless on a preset.

    python -m mmn_utils.running 02_attribution --preset miniature -p n_images 100 -p run small
    python -m mmn_utils.running plan PRESET          what it needs of this machine, before a run
    python -m mmn_utils.running shard NOTEBOOK ...   a share of one of its heavy stages
    python -m mmn_utils.running switches PRESET ...  every claim again, under every open choice
    python -m mmn_utils.running court PRESET ...     the truth of every unit, and notebook 09 on it

The parameters are resolved, checked and recorded in
``build/<run>/parameters/NAME.json`` before a kernel starts. The executed copy is
``build/<run>/notebooks/NAME.ipynb``, and ``figures/<run>/notebooks/NAME.html`` shows it;
exhibits go to ``figures/<run>/``. Give another ``run`` with other parameters, to keep the
preset's own figures.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from mmn_utils.commands import parser_of
from mmn_utils.presets import load_preset, read_parameters
from mmn_utils.running.run import check, execute
from mmn_utils.values import read_value

COMMANDS = {
    "court": "mmn_utils.running.court",
    "plan": "mmn_utils.running.planning",
    "shard": "mmn_utils.running.stages",
    "switches": "mmn_utils.running.switches",
}


def read_overrides(notebook: str | Path, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Read ``-p name text`` pairs in the types of the notebook's parameters.

    Names that the notebook does not have are kept as text, for ``resolve`` to refuse.
    """
    parameters = read_parameters(notebook)
    return {
        name: read_value(name, text, parameters[name].default) if name in parameters else text
        for name, text in pairs
    }


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("mmn_utils.running", __doc__)
    parser.add_argument("notebook", help="its name, such as 02_attribution, or its path")
    parser.add_argument("--preset", default="miniature", help="a name or a YAML file")
    parser.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set one parameter; repeatable",
    )
    parser.add_argument("--output-root", default="build", help="for executed copies")
    parser.add_argument("--lines", action="store_true", help="begin printed lines with the name")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a notebook from the command line; 2 for bad parameters, 1 for a failed cell."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] and words[0] in COMMANDS:
        return import_module(COMMANDS[words[0]]).main(words[1:])
    chosen = _arguments(words)
    try:
        preset = load_preset(chosen.preset)
        overrides = read_overrides(chosen.notebook, chosen.parameter)
        check(chosen.notebook, preset, overrides)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from papermill.exceptions import PapermillExecutionError

    try:
        output = execute(
            chosen.notebook,
            preset,
            overrides,
            output_root=chosen.output_root,
            lines=chosen.lines,
        )
    except PapermillExecutionError as error:
        print(f"error: {chosen.notebook} stopped in a cell\n{error}", file=sys.stderr)
        return 1
    print(f"executed copy: {os.path.relpath(output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
