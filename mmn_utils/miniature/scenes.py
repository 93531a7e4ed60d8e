"""Pictures of the miniature: objects on textured grounds, with masks and captions.

A scene is a pure function of its seed, so any scene can be made alone, in any
process. Training scenes are made when the miniature is trained (this needs the
emoji font); the held-out ones are exported once as a COCO data set and as class
folders, so that every later run needs no font.

Run ``python -m mmn_utils.miniature.scenes`` to export the held-out pictures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from pycocotools import mask as mask_tools

from mmn_utils.cache import locked
from mmn_utils.miniature import phrases
from mmn_utils.miniature.world import WORLD_FILE, Concept, World, load_world

SIZE = 112
PATCH = 8
GRID = SIZE // PATCH
FONT_SIZE = 109  # the only bitmap size inside NotoColorEmoji
FONT_FILES = (
    Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"),
    Path("/usr/share/fonts/noto/NotoColorEmoji.ttf"),
    Path("/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf"),
    Path.home() / ".local/share/fonts/NotoColorEmoji.ttf",
)
OBJECT_COUNTS = (0.5, 0.35, 0.15)
# Longest side of an object in pixels, by the number of objects in its scene.
OBJECT_SIZES = {1: (60, 86), 2: (48, 68), 3: (40, 54)}
MAX_OVERLAP = 0.08
PLACEMENT_TRIES = 24

# First seeds of the splits; they are so far apart that no two splits ever meet.
SCENES = 24_000  # that there are to learn from
TRAIN_SEED = 0
VAL_SEED = 10_000_000
LOOKS_SEED = 20_000_000
CLASS_TRAIN_SEED = 30_000_000
CLASS_VAL_SEED = 40_000_000
PROBE_SEED = 50_000_000


@dataclass(frozen=True)
class Colours:
    """How far the colours of objects stray: hue in radians either way, two ranges of factors."""

    hue: float
    saturation: tuple[float, float]
    brightness: tuple[float, float]


# In their own colours many objects can be told by colour alone, and that much the patches
# of an untrained encoder hold as well. The world varies them, in more than hue, so that
# they have to be told by shape.
COLOURS = {
    "own": Colours(0.22, (0.8, 1.15), (0.85, 1.1)),
    "turned": Colours(np.pi / 2, (0.7, 1.2), (0.75, 1.15)),
    "varied": Colours(np.pi / 2, (0.6, 1.2), (0.7, 1.2)),
}
SHOWN = "varied"  # the colours of the world's pictures, where no others are asked for

SELECTIVITY_CLASSES = (
    "dog", "bird", "turtle", "car", "boat", "banana", "pizza", "clock", "guitar", "flower",
)  # fmt: skip


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene; ``mask`` (112, 112) holds its visible pixels.

    ``bbox`` is x, y, width, height of the visible part, as in COCO.
    """

    concept: str
    look: str
    bbox: tuple[int, int, int, int]
    mask: np.ndarray

    @property
    def area(self) -> int:
        """Number of visible pixels."""
        return int(self.mask.sum())


@dataclass(frozen=True)
class Scene:
    """A picture (112, 112, 3) uint8 and what is in it, largest visible area first."""

    image: np.ndarray
    background: str
    objects: tuple[SceneObject, ...]
    looks: str
    seed: int

    @property
    def names(self) -> tuple[str, ...]:
        """The concepts' names, largest object first."""
        return tuple(thing.concept for thing in self.objects)


# --- glyphs -----------------------------------------------------------------


def find_font(path: str | Path | None = None) -> Path:
    """Return the emoji font's file, or say how to get it."""
    candidates = (Path(path),) if path else FONT_FILES
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        "new pictures need the font NotoColorEmoji.ttf, not found at "
        f"{', '.join(map(str, candidates))}; install it (Debian: "
        "'apt-get install fonts-noto-color-emoji') or pass its path (--font)"
    )


@lru_cache(maxsize=4)
def _load_font(path: Path) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), FONT_SIZE)


@lru_cache(maxsize=512)
def glyph(look: str, font: Path) -> Image.Image:
    """Return the glyph of a hexadecimal code point, cropped to its ink (RGBA)."""
    canvas = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
    draw = ImageDraw.Draw(canvas)
    draw.text((8, 8), chr(int(look, 16)), font=_load_font(font), embedded_color=True)
    box = canvas.getchannel("A").getbbox()
    if box is None:
        raise ValueError(f"{font} has no picture of code point U+{look.upper()}")
    return canvas.crop(box)


# Luma and chroma axes (YIQ): turning the chroma plane turns the hue.
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


def _recolour(pixels: np.ndarray, colours: Colours, rng: np.random.Generator) -> np.ndarray:
    """Change hue, saturation and brightness of float pixels (H, W, 3)."""
    angle = rng.uniform(-colours.hue, colours.hue)
    saturation, brightness = rng.uniform(*colours.saturation), rng.uniform(*colours.brightness)
    cos, sin = saturation * np.cos(angle), saturation * np.sin(angle)
    turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    matrix = brightness * (_FROM_YIQ @ turn @ _TO_YIQ)
    return np.clip(pixels @ matrix.T.astype(np.float32), 0, 255)


def _sprite(
    look: str, longest: int, colours: Colours, rng: np.random.Generator, font: Path
) -> np.ndarray:
    """Return a jittered object as float32 RGBA (h, w, 4), cropped to its ink."""
    picture = glyph(look, font)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle = rng.uniform(-15, 15)
    picture = picture.rotate(angle, resample=Image.Resampling.BICUBIC, expand=True)
    picture = picture.crop(picture.getchannel("A").getbbox())
    scale = longest / max(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    # A filter without ringing: Lanczos leaves odd colours on the rim of transparent pictures.
    pixels = np.asarray(picture.resize(size, Image.Resampling.HAMMING), dtype=np.float32)
    coloured = _recolour(pixels[..., :3], colours, rng)
    return np.concatenate([coloured, pixels[..., 3:] / 255], axis=2)


# --- backgrounds ------------------------------------------------------------


def _noise(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Return smooth noise (112, 112) with about rows x columns bumps, near unit scale."""
    coarse = rng.standard_normal((rows + 2, columns + 2)).astype(np.float32)
    if rows >= SIZE and columns >= SIZE:
        return coarse[:SIZE, :SIZE]
    picture = Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def _paint(base: tuple[int, int, int], shade: np.ndarray, tint: np.ndarray | None = None):
    """Return float pixels (112, 112, 3): a colour, a shade for all channels, a tint for red."""
    pixels = np.array(base, dtype=np.float32) + shade[..., None]
    if tint is not None:
        pixels = pixels + tint[..., None] * np.array([1.0, 0.35, -0.2], dtype=np.float32)
    return pixels


def _axes() -> tuple[np.ndarray, np.ndarray]:
    return np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)


def _grass(rng: np.random.Generator) -> np.ndarray:
    blades = _noise(rng, 16, SIZE) * 13 + _noise(rng, 30, 60) * 9
    meadow = _noise(rng, 4, 4) * 9
    return _paint((92, 150, 58), blades + meadow, _noise(rng, 6, 6) * 9)


def _sand(rng: np.random.Generator) -> np.ndarray:
    y, x = _axes()
    slope, phase = rng.uniform(-0.5, 0.5), rng.uniform(0, 6.28)
    ripples = np.sin((y + slope * x) * rng.uniform(0.34, 0.5) + 2.2 * _noise(rng, 4, 4) + phase)
    grains = _noise(rng, SIZE, SIZE) * 6
    return _paint((222, 190, 128), ripples * 9 + grains, _noise(rng, 4, 4) * 4)


def _snow(rng: np.random.Generator) -> np.ndarray:
    drifts = _noise(rng, 3, 5) * 7 + _noise(rng, 9, 14) * 3
    sparkle = (rng.random((SIZE, SIZE)) > 0.985) * 18.0
    pixels = _paint((226, 234, 243), drifts + sparkle)
    pixels[..., 0] -= np.abs(drifts)  # the hollows of the drifts are bluish
    return pixels


def _water(rng: np.random.Generator) -> np.ndarray:
    y, _ = _axes()
    swell = np.sin(y * rng.uniform(0.45, 0.65) + 3.0 * _noise(rng, 6, 4) + rng.uniform(0, 6.28))
    crests = np.clip(swell - 0.72, 0, 1) * 150
    return _paint((46, 118, 178), swell * 12 + crests + _noise(rng, 40, 16) * 4)


def _road(rng: np.random.Generator) -> np.ndarray:
    y, x = _axes()
    tar = _noise(rng, SIZE, SIZE) * 9 + _noise(rng, 40, 40) * 5 + _noise(rng, 3, 3) * 5
    pixels = _paint((98, 98, 102), tar)
    across, along = (y, x) if rng.random() < 0.5 else (x, y)
    across = across - rng.uniform(8, SIZE - 8)
    dashes = ((along + rng.uniform(0, 40)) % 40 < 24) & (np.abs(across) < 2.5)
    pixels[dashes] = pixels[dashes] * 0.3 + 158
    return pixels


def _carpet(rng: np.random.Generator) -> np.ndarray:
    y, x = _axes()
    x, y = x + rng.uniform(0, 28), y + rng.uniform(0, 28)
    weave = np.sin(x * 1.57) * np.sin(y * 1.57) * 9 + _noise(rng, SIZE, SIZE) * 5
    diamonds = np.abs(x % 28 - 14) + np.abs(y % 28 - 14)
    pixels = _paint((158, 42, 50), weave + _noise(rng, 3, 3) * 6)
    pixels[diamonds < 5] += np.array([58, 78, 26])
    pixels[np.abs(diamonds - 12) < 1.3] += np.array([-62, -8, 18])
    return pixels


_PAINTERS = {
    "grass": _grass,
    "sand": _sand,
    "snow": _snow,
    "water": _water,
    "road": _road,
    "carpet": _carpet,
}


def paint_background(name: str, rng: np.random.Generator) -> np.ndarray:
    """Return a textured ground as float32 pixels (112, 112, 3) in 0..255."""
    pixels = _PAINTERS[name](rng) * rng.uniform(0.92, 1.06)
    return np.clip(pixels, 0, 255).astype(np.float32)


# --- composition ------------------------------------------------------------


def _overlap(box: np.ndarray, others: list[np.ndarray]) -> float:
    """Return the largest share of any box (x0, y0, x1, y1) that two boxes have in common."""
    worst = 0.0
    for other in others:
        sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
        shared = float(np.prod(np.clip(sides, 0, None)))
        smaller = min(np.prod(box[2:] - box[:2]), np.prod(other[2:] - other[:2]))
        worst = max(worst, shared / smaller)
    return worst


def _place(sprite: np.ndarray, others: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Return a box inside the picture that covers the other boxes as little as it can."""
    height, width = sprite.shape[:2]
    best, least = None, np.inf
    for _ in range(PLACEMENT_TRIES):
        corner = rng.integers(0, (SIZE - width + 1, SIZE - height + 1))
        box = np.tile(corner, 2) + np.array([0, 0, width, height])
        overlap = _overlap(box, others)
        if overlap < least:
            best, least = box, overlap
        if least <= MAX_OVERLAP:
            break
    return best


def _cast_shadow(pixels: np.ndarray, alpha: np.ndarray) -> None:
    """Darken the ground softly below and beside an object, in place."""
    shadow = Image.fromarray((np.roll(alpha, (3, 2), axis=(0, 1)) * 255).astype(np.uint8))
    soft = np.asarray(shadow.filter(ImageFilter.GaussianBlur(2.5)), dtype=np.float32) / 255
    pixels *= 1 - 0.35 * soft[..., None]


def _draw(pixels: np.ndarray, sprite: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Paint a sprite into float pixels (112, 112, 3) in place; return its mask (112, 112)."""
    alpha = np.zeros((SIZE, SIZE), dtype=np.float32)
    inside = np.s_[box[1] : box[3], box[0] : box[2]]
    alpha[inside] = sprite[..., 3]
    _cast_shadow(pixels, alpha)
    pixels[inside] += sprite[..., 3:] * (sprite[..., :3] - pixels[inside])
    return alpha >= 0.5


def _bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return (0, 0, 0, 0)
    x, y = int(columns[0]), int(rows[0])
    return (x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1)


def _choose_concepts(
    rng: np.random.Generator, pool: tuple[Concept, ...], count: int, first: str | None
) -> list[Concept]:
    """Return ``count`` distinct concepts, in random order, ``first`` among them."""
    chosen = [c for c in pool if c.name == first]
    if first is not None and not chosen:
        raise ValueError(f"no picture of {first!r} with these looks")
    rest = [c for c in pool if c.name != first]
    order = rng.permutation(len(rest))[: count - len(chosen)]
    return chosen + [rest[i] for i in order]


def _sizes(count: int, leads: bool, rng: np.random.Generator) -> np.ndarray:
    """Return the objects' sizes in pixels; where one must lead, it comes first and is largest."""
    low, high = OBJECT_SIZES[count]
    sizes = rng.integers(low, high + 1, size=count)
    return np.sort(sizes)[::-1] if leads else sizes


def _compose(
    pixels: np.ndarray, sprites: list[np.ndarray], rng: np.random.Generator
) -> list[np.ndarray]:
    """Paint sprites in place, later ones on top; return the visible mask of each."""
    boxes: list[np.ndarray] = []
    for sprite in sprites:
        boxes.append(_place(sprite, boxes, rng))
    masks = [_draw(pixels, sprite, box) for sprite, box in zip(sprites, boxes, strict=True)]
    covered = np.zeros((SIZE, SIZE), dtype=bool)
    for i in reversed(range(len(masks))):
        masks[i] = masks[i] & ~covered
        covered |= masks[i]
    return masks


def make_scene(
    seed: int,
    world: World,
    looks: str = "train",
    n_objects: int | None = None,
    first: str | None = None,
    font: str | Path | None = None,
    colours: str = SHOWN,
) -> Scene:
    """Make the scene of a seed.

    ``looks`` is "train" or "held_out", ``colours`` one of ``COLOURS``; ``first`` is a
    concept that has to be in the scene and is drawn at the largest size; without
    ``n_objects`` the number is drawn from ``OBJECT_COUNTS``.
    """
    if looks not in ("train", "held_out"):
        raise ValueError(f"looks must be 'train' or 'held_out', not {looks!r}")
    font = find_font(font)
    rng = np.random.default_rng([seed, looks == "held_out"])
    count = n_objects or int(rng.choice(3, p=OBJECT_COUNTS)) + 1
    ground = world.backgrounds[rng.integers(len(world.backgrounds))].name
    chosen = _choose_concepts(rng, world.with_look(looks == "held_out"), count, first)
    drawn = [c.held_out_look if looks == "held_out" else rng.choice(c.looks) for c in chosen]
    sizes = _sizes(count, first is not None, rng)
    strays = COLOURS[colours]
    sprites = [_sprite(k, int(s), strays, rng, font) for k, s in zip(drawn, sizes, strict=True)]
    pixels = paint_background(ground, rng)
    masks = _compose(pixels, sprites, rng)
    objects = [
        SceneObject(c.name, str(k), _bounds(m), m)
        for c, k, m in zip(chosen, drawn, masks, strict=True)
    ]
    objects.sort(key=lambda thing: -thing.area)
    return Scene(np.round(pixels).astype(np.uint8), ground, tuple(objects), looks, seed)


def make_scenes(
    first_seed: int, count: int, world: World, looks: str = "train", font: Path | None = None
) -> Iterator[Scene]:
    """Yield the scenes of consecutive seeds."""
    for seed in range(first_seed, first_seed + count):
        yield make_scene(seed, world, looks, font=font)


# --- captions ---------------------------------------------------------------


def captions(scene: Scene, world: World) -> tuple[str, ...]:
    """Return five captions of a scene; the largest visible object is named first."""
    return phrases.captions([world.by_name[name] for name in scene.names], scene.background)


# --- training scenes --------------------------------------------------------

MIXED_PATCH = -2
BACKGROUND_PATCH = -1


@dataclass(frozen=True)
class SceneSet:
    """Many rendered scenes and what is in them, as arrays.

    ``images`` (N, 112, 112, 3) uint8; ``concepts`` (N, 3) int8, category numbers
    with the largest object first, -1 where there is none; ``backgrounds`` (N,)
    int8; ``patch_concepts`` (N, 196) int8: the category that covers most of the
    patch, ``BACKGROUND_PATCH`` or ``MIXED_PATCH``.
    """

    images: np.ndarray
    concepts: np.ndarray
    backgrounds: np.ndarray
    patch_concepts: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def first(self, count: int | None) -> SceneSet:
        """Return the set of the first ``count`` scenes, or all of them."""
        return SceneSet(**{f.name: getattr(self, f.name)[:count] for f in fields(self)})

    def captions(self, index: int, world: World) -> tuple[str, ...]:
        """Return five captions of one scene."""
        concepts = [world.concepts[c] for c in self.concepts[index] if c >= 0]
        return phrases.captions(concepts, world.backgrounds[self.backgrounds[index]].name)


def coverage(mask: np.ndarray) -> np.ndarray:
    """Return the share of each patch that a mask (112, 112) covers, as (196,)."""
    return mask.reshape(GRID, PATCH, GRID, PATCH).mean((1, 3)).reshape(-1)


def patch_concepts(scene: Scene, world: World, most: float = 0.6) -> np.ndarray:
    """Return the category number of each patch (196,) int8; see ``SceneSet``."""
    labels = np.full(GRID * GRID, MIXED_PATCH, dtype=np.int8)
    shares = [coverage(thing.mask) for thing in scene.objects]
    labels[np.sum(shares, axis=0) == 0] = BACKGROUND_PATCH
    for thing, share in zip(scene.objects, shares, strict=True):
        labels[share >= most] = world.names.index(thing.concept)
    return labels


def _scene_rows(seed: int, world: World, font: Path, colours: str) -> tuple[np.ndarray, ...]:
    """Return one scene as the rows of a ``SceneSet``, in the order of its fields."""
    scene = make_scene(seed, world, font=font, colours=colours)
    concepts = np.full(max(OBJECT_SIZES), -1, dtype=np.int8)
    concepts[: len(scene.names)] = [world.names.index(name) for name in scene.names]
    grounds = [ground.name for ground in world.backgrounds]
    ground = np.int8(grounds.index(scene.background))
    return scene.image, concepts, ground, patch_concepts(scene, world)


_FIELDS = {
    "images": ((SIZE, SIZE, 3), np.uint8),
    "concepts": ((3,), np.int8),
    "backgrounds": ((), np.int8),
    "patch_concepts": ((GRID * GRID,), np.int8),
}


def _open_arrays(folder: Path, mode: str) -> dict[str, np.ndarray]:
    return {name: np.load(folder / f"{name}.npy", mmap_mode=mode) for name in _FIELDS}


def _render_shard(
    span: range, folder: Path, first_seed: int, world: World, font: Path, colours: str
) -> int:
    """Render the scenes of a span into the arrays of a folder; return how many."""
    arrays = _open_arrays(folder, "r+")
    for row in span:
        values = _scene_rows(first_seed + row, world, font, colours)
        for name, value in zip(_FIELDS, values, strict=True):
            arrays[name][row] = value
    return len(span)


def _fingerprint(world: World, colours: str) -> str:
    """Return a short digest of everything in the world that shows in pictures."""
    facts = [(c.name, c.looks) for c in world.concepts] + [b.name for b in world.backgrounds]
    return sha256(repr((facts, COLOURS[colours])).encode()).hexdigest()[:8]


def rendered_scenes(
    cache: Path,
    world: World,
    count: int,
    first_seed: int = TRAIN_SEED,
    font: str | Path | None = None,
    workers: int = 2,
    colours: str = SHOWN,
) -> SceneSet:
    """Return the scenes of consecutive seeds, rendered once and kept in a cache folder."""
    folder = cache / f"scenes_{first_seed}_{count}_{_fingerprint(world, colours)}"
    if not folder.is_dir():
        font = find_font(font)
        with locked(cache):  # of two trainings that need the same scenes, one renders them
            if not folder.is_dir():
                _render(folder, world, count, first_seed, font, workers, colours)
    return SceneSet(**_open_arrays(folder, "r"))


def _render(
    folder: Path,
    world: World,
    count: int,
    first_seed: int,
    font: Path,
    workers: int,
    colours: str,
) -> None:
    """Render scenes in several processes into a new folder, complete or not at all."""
    partial_folder = folder.with_suffix(".partial")
    partial_folder.mkdir(parents=True, exist_ok=True)
    for name, (shape, dtype) in _FIELDS.items():
        np.lib.format.open_memmap(partial_folder / f"{name}.npy", "w+", dtype, (count, *shape))
    shards = [range(start, min(start + 500, count)) for start in range(0, count, 500)]
    job = partial(
        _render_shard,
        folder=partial_folder,
        first_seed=first_seed,
        world=world,
        font=font,
        colours=colours,
    )
    done = 0
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for made in pool.map(job, shards):
            done += made
            print(f"rendered {done}/{count} scenes", flush=True)
    partial_folder.rename(folder)


# --- export -----------------------------------------------------------------


def _write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")


def _save_picture(image: np.ndarray, path: Path, quality: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=quality, optimize=True)


def _annotation(number: int, image_id: int, thing: SceneObject, category: int) -> dict:
    """Return a COCO instance with its exact mask, run-length encoded."""
    encoded = mask_tools.encode(np.asfortranarray(thing.mask.astype(np.uint8)))
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")},
        "area": thing.area,
        "bbox": list(thing.bbox),
        "iscrowd": 0,
        "look": thing.look,
    }


def _image_entry(image_id: int, name: str, scene: Scene) -> dict:
    return {
        "id": image_id,
        "file_name": name,
        "height": SIZE,
        "width": SIZE,
        "background": scene.background,
        "looks": scene.looks,
        "seed": scene.seed,
    }


def _header(world: World) -> dict:
    categories = [
        {"id": i, "name": c.name, "supercategory": c.supercategory}
        for i, c in enumerate(world.concepts, start=1)
    ]
    info = {"description": "Scenes of the miniature; objects from Noto Color Emoji (OFL 1.1)"}
    return {"info": info, "categories": categories}


def write_coco(
    folder: Path, scenes: Iterable[Scene], world: World, split: str = "val", quality: int = 92
) -> int:
    """Write scenes as a COCO data set with instances and captions; return their number.

    Pictures go to ``images/<split>``, JSON files to ``annotations``. Image ids
    are the scenes' seeds, which are distinct over all splits.
    """
    images, instances, texts = [], [], []
    numbers = {name: i for i, name in enumerate(world.names, start=1)}
    for scene in scenes:
        name = f"{scene.seed:08d}.jpg"
        _save_picture(scene.image, folder / "images" / split / name, quality)
        images.append(_image_entry(scene.seed, name, scene))
        for place, thing in enumerate(scene.objects):
            number = scene.seed * 10 + place
            instances.append(_annotation(number, scene.seed, thing, numbers[thing.concept]))
        for place, text in enumerate(captions(scene, world)):
            texts.append({"id": scene.seed * 10 + place, "image_id": scene.seed, "caption": text})
    known = {**_header(world), "images": images, "annotations": instances}
    _write_json(folder / "annotations" / f"instances_{split}.json", known)
    # As in COCO, the file of captions has no categories.
    told = {"info": known["info"], "images": images, "annotations": texts}
    _write_json(folder / "annotations" / f"captions_{split}.json", told)
    return len(images)


def write_classes(
    folder: Path,
    world: World,
    counts: tuple[int, int] = (200, 50),
    quality: int = 82,
    font: Path | None = None,
) -> int:
    """Write folders ``{train,val}/<class>`` of scenes with one object; return their number.

    Train and validation pictures of class c have the seeds ``base + 1000 c + i``.
    """
    bases = {"train": CLASS_TRAIN_SEED, "val": CLASS_VAL_SEED}
    for (split, base), count in zip(bases.items(), counts, strict=True):
        for c, name in enumerate(SELECTIVITY_CLASSES):
            for i in range(count):
                scene = make_scene(base + 1000 * c + i, world, n_objects=1, first=name, font=font)
                _save_picture(scene.image, folder / split / name / f"{i:04d}.jpg", quality)
    return sum(counts) * len(SELECTIVITY_CLASSES)


def contact_sheet(scenes: Iterable[Scene], columns: int = 8, zoom: int = 2) -> Image.Image:
    """Return the scenes in rows, enlarged, as one picture."""
    pictures = [Image.fromarray(s.image).resize((SIZE * zoom,) * 2, 0) for s in scenes]
    step = SIZE * zoom + 4
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * step, rows * step), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, ((i % columns) * step, (i // columns) * step))
    return sheet


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
    print("class pictures:", write_classes(options.out / "classes", world, font=font))


if __name__ == "__main__":
    main()
