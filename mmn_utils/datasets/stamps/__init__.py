"""Scenes composed of photographed cut-outs that anybody may have: Tux Paint's stamps.

Debian's package ``tuxpaint-stamps-default`` holds hundreds of captioned cut-outs. Those of
``data/stamps/stamps.csv`` are photographs of things that an encoder may know. ``make stamps``
sets them on painted grounds, whose every mask is exact, and writes a data set in COCO's format and
folders of classes beside it. The pictures are under the package's licence (``read_credits``).
"""

from mmn_utils.datasets.stamps.credits import Credits, read_credits

__all__ = ["Credits", "read_credits"]
