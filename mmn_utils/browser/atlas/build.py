"""Make the atlas of a run: pictures, captions, scores, and every neuron of the system."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask

from mmn_utils.browser.atlas.activity import EDGES, Activity, activity, shown
from mmn_utils.browser.atlas.files import (
    FACTS,
    Facts,
    Parts,
    atlas_root,
    missing_files,
    write_atlas,
)
from mmn_utils.browser.atlas.words import (
    ENDS,
    EXACT,
    NORMS,
    Decoded,
    both_ends,
    directions,
    interpretable_rows,
)
from mmn_utils.cache import code_version
from mmn_utils.datasets import CocoDataset, Photograph, Words, load_dataset
from mmn_utils.models import load_model
from mmn_utils.neurons.methods import METHODS
from mmn_utils.presets import ROOT, Preset, resolve
from mmn_utils.studies.concepts.scoring import top_neurons
from mmn_utils.studies.store import by_content, digest, model_identity
from mmn_utils.studies.subjects import Subjects, captions_of, subjects

TOP = 100  # neurons of each noun, by each method
MAKERS = ("activity", "build", "files", "words")  # modules of this room that an atlas hangs on
PLAIN = Words()  # of a data set that says nothing else
COMPARED = 4  # pictures of each category that maps are compared with
SETTINGS = "07_neuron_browser"  # the notebook whose parameters say model, data and sample


def folder_of(run: str) -> Path:
    """Return the folder of a run's atlas."""
    return atlas_root() / run


def of_preset(preset: str | Path | Preset, folder: str | Path | None = None) -> Path:
    """Have the atlas of a preset's system and pictures, those of its notebook 07."""
    asked = resolve(SETTINGS, preset)
    model = load_model(asked["model"], device=asked["device"], dtype=asked["dtype"])
    data = load_dataset(asked["dataset"], asked["data_root"] or None)
    photographs = data.sample(asked["n_images"], asked["seed"])
    options = {name: asked[name] for name in ("seed", "k", "max_new_tokens")}
    options["words"] = data.words
    return current(asked["run"], model, photographs, singles_of(data), **options, folder=folder)


def current(
    run: str,
    model,
    photographs: Sequence[Photograph],
    singles: dict[str, frozenset[str]] | None = None,
    *,
    seed: int = 0,
    k: int = TOP,
    max_new_tokens: int = 20,
    words: Words = PLAIN,
    folder: str | Path | None = None,
    progress: bool = True,
) -> Path:
    """Return the folder of a run's atlas, made now unless one of just this is there.

    See ``build`` for what is given, ``origin_of`` for what makes an atlas another.
    """
    place = Path(folder or folder_of(run))
    asked = {"seed": seed, "k": k, "max_new_tokens": max_new_tokens, "words": words}
    if not missing_files(place):
        kept = json.loads((place / FACTS).read_text(encoding="utf-8"))
        if kept.get("origin") == origin_of(model, photographs, singles or {}, **asked):
            return place
    return build(run, model, photographs, singles, **asked, folder=place, progress=progress)


def origin_of(
    model, photographs: Sequence[Photograph], singles: dict[str, frozenset[str]], **asked
) -> str:
    """Hash what an atlas is made from: system, pictures and their objects, options, code."""
    makers = [sys.modules[f"mmn_utils.browser.atlas.{name}"] for name in MAKERS]
    said = [
        (_file(one), one.captions, one.instances, [i.segmentation for i in one.instances])
        for one in photographs
    ]
    return digest(
        model_identity(model), list(by_content(photographs)), said,
        compared(model, photographs, singles), asked, code_version(), code_version(makers),
    )  # fmt: skip


def singles_of(data: CocoDataset) -> dict[str, frozenset[str]]:
    """List the photographs with a single object of each category: {category: ids}."""
    return {name: frozenset(data.single_object(name)) for name in data.categories()}


def build(
    run: str,
    model,
    photographs: Sequence[Photograph],
    singles: dict[str, frozenset[str]] | None = None,
    *,
    seed: int = 0,
    k: int = TOP,
    max_new_tokens: int = 20,
    words: Words = PLAIN,
    batch_size: int = 8,
    folder: str | Path | None = None,
    progress: bool = True,
) -> Path:
    """Make an atlas and return its folder; computed picture by picture, and resumed.

    ``singles`` as of ``singles_of``; without it, or without a grid, no map is compared with
    an object. ``words`` are the data set's nouns. ValueError where no caption has a noun.
    """
    options = {"max_new_tokens": max_new_tokens, "progress": progress}
    captions = captions_of(model, photographs, **options)
    some = subjects(model, photographs, **options)
    scores = top_neurons(model, some, k=k, batch_size=batch_size, progress=progress)
    objects = compared(model, photographs, singles or {})
    found = activity(model, photographs, objects, batch_size=batch_size, progress=progress)
    decoded, vectors = _every_layer(model)
    bins = found.counts.shape[-1]
    parts = Parts(
        decoded=decoded,
        shown=shown(found, seed, device=model.device),
        counts=found.counts.reshape(-1, bins),
        overlaps={name: values.ravel() for name, values in found.overlaps.items()},
        interpretable={
            end: interpretable_rows(decoded[end, "none"].tokens, model.token_strings)
            for end in ENDS
        },
        vectors=vectors,
        scores=pd.concat([table.assign(method=name) for name, table in scores.items()]),
        pictures=pictures_table(photographs, [caption.text for caption in captions]),
        nouns=nouns_table(some),
        masks=masks_table(photographs),
        vocabulary=vocabulary_table(model.token_strings),
    )
    asked = {"seed": seed, "k": k, "max_new_tokens": max_new_tokens, "words": words}
    origin = origin_of(model, photographs, singles or {}, **asked)
    facts = replace(facts_of(run, model, found, seed, k), words=words.facts(), origin=origin)
    return write_atlas(folder or folder_of(run), facts, parts)


def facts_of(run: str, model, found: Activity, seed: int, k: int) -> Facts:
    """Say what system and how the atlas was made."""
    sizes, image = model.sizes, model.image_tokens
    return Facts(
        run=run, model=model.name, revision=model.revision, layers=sizes.layers,
        units=sizes.units, width=sizes.width, vocabulary=sizes.vocabulary, grid=image.grid,
        pixels=image.pixels, edges=EDGES, methods=tuple(METHODS),
        categories=tuple(sorted(found.overlaps)), exact_vectors=sizes.width <= EXACT,
        seed=seed, k=k, caveat=model.caveat, experts=model.experts,
    )  # fmt: skip


def compared(
    model, photographs: Sequence[Photograph], singles: dict[str, frozenset[str]]
) -> dict[str, list[str]]:
    """Choose the objects that maps are compared with: {image: categories}.

    The first ``COMPARED`` photographs with a single object of each category.
    """
    chosen: dict[str, list[str]] = {}
    if model.image_tokens.grid is None:
        return chosen
    for name, ids in sorted(singles.items()):
        for image in [one.id for one in photographs if one.id in ids][:COMPARED]:
            chosen.setdefault(image, []).append(name)
    return chosen


def _every_layer(model) -> tuple[dict[tuple[str, str], Decoded], np.ndarray]:
    """Decode all write vectors, and reduce them to directions."""
    layers = [both_ends(model, layer) for layer in range(model.sizes.layers)]
    decoded = {
        (end, norm): Decoded(
            np.concatenate([one[end, norm].tokens for one in layers]),
            np.concatenate([one[end, norm].logits for one in layers]),
        )
        for end in ENDS
        for norm in NORMS
    }
    return decoded, np.concatenate([directions(model, i) for i in range(model.sizes.layers)])


# --- tables of the pictures --------------------------------------------------------------


def pictures_table(photographs: Sequence[Photograph], captions: Sequence[str]) -> pd.DataFrame:
    """List the pictures in the order of their places: id, file, size, captions."""
    rows = []
    for place, (photograph, caption) in enumerate(zip(photographs, captions, strict=True)):
        rows.append(
            {
                "place": np.int32(place),
                "image": photograph.id,
                "file": _file(photograph),
                "caption": caption,
                "human": list(photograph.captions),
            }
        )
    return pd.DataFrame(rows)


def _file(photograph: Photograph) -> str:
    """Name a photograph's file below the repository's root where it lies there."""
    path = photograph.path.resolve()
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else photograph.path)


def nouns_table(some: Subjects) -> pd.DataFrame:
    """List the captions' nouns: image, place in the caption, noun, token, step."""
    rows = [
        (image, place, target.noun, target.token, len(target.prefix))
        for image, targets in zip(some.ids, some.every, strict=True)
        for place, target in enumerate(targets)
    ]
    return pd.DataFrame(rows, columns=["image", "place", "noun", "token", "step"])


def masks_table(photographs: Sequence[Photograph]) -> pd.DataFrame:
    """List the annotated objects with their masks as COCO's compressed run lengths."""
    rows = []
    for photograph in photographs:
        for one in photograph.instances:
            runs = coco_mask.encode(np.asfortranarray(one.mask.astype(np.uint8)))
            size, text = one.size, runs["counts"].decode("ascii")
            names = (one.category, one.supercategory)
            rows.append((photograph.id, *names, one.iscrowd, size[0], size[1], text))
    columns = ["image", "category", "supercategory", "crowd", "height", "width", "runs"]
    kinds = {"image": "str", "category": "str", "supercategory": "str", "runs": "str"}
    kinds |= {"crowd": "bool", "height": "int64", "width": "int64"}
    return pd.DataFrame(rows, columns=columns).astype(kinds)


def vocabulary_table(token_strings: Sequence[str]) -> pd.DataFrame:
    """List the tokens with their texts as they are, and as words to look up."""
    words = [text.strip().casefold() for text in token_strings]
    tokens = np.arange(len(words), dtype=np.int32)
    return pd.DataFrame({"token": tokens, "text": list(token_strings), "word": words})
