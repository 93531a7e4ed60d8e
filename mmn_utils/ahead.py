"""Lend a hand to notebook 03, most of whose time is class selectivity.

    python -m mmn_utils.ahead miniature

Computes what the notebook of that preset asks of ``selectivity.class_study``, beside it: through
the cache the two take turns, batch by batch, and a core that has nothing else to do halves what
is left. The notebook does not need it, and does not know of it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .ablation_study import interpretable_units
from .datasets import ClassFolders
from .models import load_model
from .presets import from_root, load_preset, resolve
from .selectivity import class_study
from .study import Say

NOTEBOOK = "03_selectivity"


def class_selectivity(asked: Mapping[str, Any], progress: Say = print) -> None:
    """Compute what the notebook of these parameters computes of classes, or find it computed."""
    system = load_model(asked["model"], device=asked["device"], dtype=asked["dtype"])
    class_study(
        system,
        ClassFolders(from_root(asked["classes"])),
        asked["class_names"],
        interpretable_units(system),
        progress=progress,
        **{name: asked[name] for name in ("per_class", "seed", "k", "target", "rank_by")},
        **asked["class_captions"],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Work for the preset named on the command line; 2 for one that is none."""
    names = sys.argv[1:] if arguments is None else arguments
    try:
        if len(names) != 1:
            raise ValueError(f"{len(names)} arguments; give the name of one preset")
        name = names[0]
        parameters = resolve(NOTEBOOK, load_preset(name))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # one write a line, as others print beside it
    class_selectivity(parameters, lambda text: sys.stdout.write(f"{name} ahead | {text}\n"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
