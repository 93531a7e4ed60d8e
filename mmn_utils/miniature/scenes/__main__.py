"""Export the held-out pictures: ``python -m mmn_utils.miniature.scenes``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmn_utils.miniature import looks
from mmn_utils.miniature.scenes import LOOKS_SEED, VAL_SEED
from mmn_utils.miniature.scenes.composition import make_scenes
from mmn_utils.miniature.scenes.export import contact_sheet, write_classes, write_coco
from mmn_utils.miniature.scenes.sprites import find_font
from mmn_utils.miniature.world import WORLD_FILE, load_world


def main() -> None:
    """Export the held-out scenes and the class folders."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--world", type=Path, default=WORLD_FILE)
    parser.add_argument("--out", type=Path, default=WORLD_FILE.parent)
    parser.add_argument("--font", type=Path, help="NotoColorEmoji.ttf, if not in a usual place")
    parser.add_argument("--val", type=int, default=600, help="held-out scenes, training looks")
    parser.add_argument("--looks", type=int, default=100, help="scenes with held-out looks")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of the first scenes")
    options = parser.parse_args()
    world, font = load_world(options.world), find_font(options.font)
    held_out = make_scenes(VAL_SEED, options.val, world, font=font)
    if options.sheet:
        contact_sheet(make_scenes(VAL_SEED, 24, world, font=font)).save(options.sheet)
    print("scenes:", write_coco(options.out / "coco", held_out, world, "val"))
    unseen = make_scenes(LOOKS_SEED, options.looks, world, "held_out", font)
    print("scenes with looks held out:", write_coco(options.out / "coco", unseen, world, "looks"))
    looks.keep(looks.compare(world, font), options.out / "looks.csv")
    print("class pictures:", write_classes(options.out / "classes", world, font=font))


if __name__ == "__main__":
    main()
