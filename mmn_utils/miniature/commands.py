"""What the commands of the trainings share: their folders, and the scenes to learn from."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmn_utils.miniature.scenes import SCENES
from mmn_utils.miniature.scenes.sets import SceneSet, rendered_scenes
from mmn_utils.miniature.world import WORK, WORLD_FILE, World, load_world


def parser_of(about: str | None) -> argparse.ArgumentParser:
    """Return a parser of ``--data``, where weights lie, and ``--work``, for checkpoints."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--data", type=Path, default=WORLD_FILE.parent)
    parser.add_argument("--work", type=Path, default=WORK)
    return parser


def world_and_scenes(data: Path, work: Path) -> tuple[World, SceneSet]:
    """Return the world of ``data`` and its training scenes, which ``work`` keeps."""
    world = load_world(data / WORLD_FILE.name)
    return world, rendered_scenes(work, world, SCENES)
