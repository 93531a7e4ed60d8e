"""Pictures of the miniature: objects on textured grounds, with masks and captions.

A scene is a pure function of its seed, so any scene can be made alone, in any
process. Training scenes are made when the miniature is trained (this needs the
emoji font); the held-out ones are exported once as a COCO data set and as class
folders, so that every later run needs no font.

Run ``python -m mmn_utils.miniature.scenes`` to export the held-out pictures.
"""

from __future__ import annotations

SIZE = 112  # pixels a side
PATCH = 8
GRID = SIZE // PATCH
SCENES = 24_000  # that there are to learn from

# First seeds of the splits; they are so far apart that no two splits ever meet.
TRAIN_SEED = 0
VAL_SEED = 10_000_000
LOOKS_SEED = 20_000_000
CLASS_TRAIN_SEED = 30_000_000
CLASS_VAL_SEED = 40_000_000
PROBE_SEED = 50_000_000
