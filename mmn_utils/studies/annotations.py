"""What people say that photographs show: captions, annotated objects, and who is an example."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from mmn_utils.datasets import CocoDataset, Instance, Photograph
from mmn_utils.datasets.base import TooFew
from mmn_utils.neurons.text import noun_places, same_word
from mmn_utils.studies.subjects import Subjects


def mentions(photograph: Photograph, noun: str) -> bool:
    """Say whether a human caption or an annotated category names the noun, in either number."""
    names = {one.category for one in photograph.instances} | {photograph.label or ""}
    words = {word for text in photograph.captions for word in re.findall(r"[^\W\d_]+", text)}
    return any(same_word(noun, name) for name in names | words if name)


def named_by(photograph: Photograph, noun: str) -> list[Instance]:
    """List the photograph's annotated objects that a noun names, singular or plural."""
    return [one for one in photograph.instances if same_word(noun, one.category)]


def captioned_right(subjects: Subjects) -> dict[str, bool]:
    """Say of each subject, by id, whether its generated caption is right about what is shown.

    Each of its nouns ``mentions`` something that the photograph shows, and none is said twice.
    """
    found = {}
    for photograph, caption in zip(subjects.photographs, subjects.captions, strict=True):
        said = [word.lower() for word, _ in noun_places(caption.text)]
        once = len(set(said)) == len(said)
        found[photograph.id] = once and all(mentions(photograph, word) for word in said)
    return found


def human_nouns(photograph: Photograph, n: int, rng: np.random.Generator) -> list[str]:
    """Draw ``n`` different nouns from the human captions, all of them where there are fewer.

    In lower case (paper A, section 3.1: "five COCO nouns per image"). ValueError where
    the captions have none.
    """
    found = (word.lower() for text in photograph.captions for word, _ in noun_places(text))
    words = list(dict.fromkeys(found))
    if not words:
        raise ValueError(
            f"no noun in the human captions of photograph {photograph.id}: {photograph.captions}"
        )
    return rng.permutation(words)[:n].tolist()


def single_objects(
    dataset: CocoDataset, ids: Sequence[str], categories: int = 12, least: int = 1
) -> dict[str, list[str]]:
    """Choose the categories of Figure 5: {category: photographs with one annotation of it}.

    Of the photographs ``ids``, in their order; the ``categories`` that have most of them,
    most first. TooFew where fewer categories have ``least`` photographs.
    """
    wanted = list(ids)
    found = {}
    for category in dataset.categories():
        single = set(dataset.single_object(category))
        images = [image for image in wanted if image in single]
        if len(images) >= max(least, 1):
            found[category] = images
    if len(found) < categories:
        raise TooFew(
            f"{len(found)} categories have {least} photographs with a single object, "
            f"{categories} are asked for; take more photographs or fewer categories"
        )
    ordered = sorted(found, key=lambda category: -len(found[category]))[:categories]
    return {category: found[category] for category in ordered}


def categories_of(members: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Turn {category: images} into {image: its categories}, as the images first come."""
    found: dict[str, list[str]] = {}
    for category, images in members.items():
        for image in images:
            found.setdefault(image, []).append(category)
    return found


def first_named(
    members: Mapping[str, Sequence[str]], noun_of: Mapping[str, str]
) -> tuple[str, str]:
    """Return the first category and image of {category: images} where its caption's noun is it.

    The very first pair where no caption names a category of its image.
    """
    pairs = [(category, image) for category, images in members.items() for image in images]
    return max(pairs, key=lambda pair: same_word(noun_of[pair[1]], pair[0]))


def example_of_each(subjects: Subjects, n: int) -> dict[str, str]:
    """Choose an image for each of up to ``n`` supercategories: {supercategory: image}.

    The first subject whose noun names an object of it; where there is none, the first
    that shows one. No image is chosen twice. The supercategories with most photographs
    come first, so the choice follows from the sample and from no eye. Where no photograph
    has an annotated object: {noun: image}, the first subject of each noun, the commonest first.
    """
    shown: dict[str, dict[str, bool]] = {}  # supercategory: image: does its noun name it?
    for photograph, target in zip(subjects.photographs, subjects.targets, strict=True):
        for one in photograph.instances:
            images = shown.setdefault(one.supercategory, {})
            named = same_word(target.noun, one.category)
            images[photograph.id] = images.get(photograph.id, False) or named
    if not shown:
        nouns = [target.noun.lower() for target in subjects.targets]
        first = dict(reversed(list(zip(nouns, subjects.ids, strict=True))))
        common = sorted(first, key=lambda noun: (-nouns.count(noun), nouns.index(noun)))
        return {noun: first[noun] for noun in common[:n]}
    chosen: dict[str, str] = {}
    for name in sorted(shown, key=lambda name: (-len(shown[name]), name))[:n]:
        used = set(chosen.values())
        free = {image: named for image, named in shown[name].items() if image not in used}
        if free:
            chosen[name] = max(free, key=free.__getitem__)  # the first of the best
    return chosen


def examples(some: Subjects, n: int) -> Subjects:
    """Choose ``n`` photographs to show: the first whose nouns name an object, then the first.

    The choice follows from the sample and from no eye.
    """
    named = [
        photograph.id
        for photograph, targets in zip(some.photographs, some.every, strict=True)
        if any(named_by(photograph, target.noun) for target in targets)
    ]
    return some.select(list(dict.fromkeys([*named, *some.ids]))[:n])


def patches_on(shape_mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Say which patches lie on an object by half or more: bool (patches,), in reading order.

    ``shape_mask`` bool (H, W) of the photograph, squashed to the grid as the picture is.
    """
    share = Image.fromarray(shape_mask.astype(np.float32)).resize(
        (grid[1], grid[0]), Image.Resampling.BOX
    )
    return np.asarray(share).ravel() >= 0.5
