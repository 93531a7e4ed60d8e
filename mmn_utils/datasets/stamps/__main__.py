"""Make the data set ``stamps``: ``python -m mmn_utils.datasets.stamps``.

    python -m mmn_utils.datasets.stamps                    the installed package, else fetch it
    python -m mmn_utils.datasets.stamps FOLDER_OR_DEB      with the package already at hand

Scenes of photographed cut-outs from Debian's package tuxpaint-stamps-default, in COCO's format,
and folders of classes. What is there already is left as it is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmn_utils.commands import parser_of, refusing
from mmn_utils.datasets.stamps.credits import read_credits
from mmn_utils.datasets.stamps.writing import HOME, Order, make


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("mmn_utils.datasets.stamps", __doc__)
    usual = Order()
    parser.add_argument(
        "source", nargs="?", metavar="FOLDER_OR_DEB", help="of the package; else it is found"
    )
    parser.add_argument("--scenes", type=int, default=usual.scenes, help="%(default)s")
    parser.add_argument(
        "--class-pictures", type=int, nargs=2, default=usual.class_pictures,
        metavar=("TRAIN", "VAL"), help="of each class, %(default)s; 0 0 for none",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=usual.seed, help="%(default)s")
    parser.add_argument("--data", type=Path, default=HOME, metavar="FOLDER", help="where to")
    return parser.parse_args(arguments)


@refusing
def main(arguments: Sequence[str] | None = None) -> int:
    """Make the data set; 2 where something is missing or not as it must be."""
    chosen = _arguments(arguments)
    order = Order(chosen.scenes, tuple(chosen.class_pictures), chosen.seed)
    fresh = make(chosen.source, order, chosen.data)
    credit = read_credits(chosen.data).line
    print(f"{order.scenes} scenes {'made' if fresh else 'are'} in {chosen.data}. {credit}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
