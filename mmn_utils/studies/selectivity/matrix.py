"""Classes against classes: are the units of one most active on its own pictures? Paper A, S.4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mmn_utils.neurons.decoding import SIGN, Signed
from mmn_utils.studies.selectivity.classes import ClassStudy, is_of_class


@dataclass(frozen=True)
class ClassMatrix:
    """Mean activation of each class's units on each class's images (paper A, Figure S.2).

    ``mean`` (classes of units, classes of images); ``relative`` is each row over its own
    largest mean, NaN where no mean of the row is positive.
    """

    classes: tuple[str, ...]
    mean: np.ndarray
    relative: np.ndarray

    @property
    def frame(self) -> pd.DataFrame:
        """The means with their names: a row for the ``units of`` each class."""
        frame = pd.DataFrame(self.mean, index=self.classes, columns=self.classes)
        return frame.rename_axis("units of").reset_index()

    @property
    def elsewhere(self) -> float:
        """The average of ``relative`` off the diagonal, with what is negative counted as 0."""
        off = self.relative[~np.eye(len(self.classes), dtype=bool)]
        return float(np.nanmean(off.clip(min=0)))

    @property
    def astray(self) -> dict[str, str]:
        """The classes whose units are most active on another one: {units of: pictures of}."""
        most = [self.classes[column] for column in self.mean.argmax(1)]
        pairs = zip(self.classes, most, strict=True)
        return {name: other for name, other in pairs if name != other}


def class_matrix(
    activations: np.ndarray, set_of: Sequence[str], class_of: Sequence[str]
) -> ClassMatrix:
    """Average activations (units, images) by the class of the unit and the class of the image.

    ``set_of`` names each unit's class, ``class_of`` each image's. ValueError where a class
    has units but no images, or the other way round.
    """
    classes = tuple(sorted(set(set_of)))
    if set(class_of) != set(classes):
        raise ValueError(f"units of {classes} but images of {tuple(sorted(set(class_of)))}")
    sets, means = np.array(set_of), class_means(activations, class_of, classes)
    mean = np.stack([means[sets == name].mean(0) for name in classes])
    largest = mean.max(1, keepdims=True)
    relative = np.divide(mean, largest, out=np.full_like(mean, np.nan), where=largest > 0)
    return ClassMatrix(classes, mean, relative)


def class_means(
    activations: np.ndarray, class_of: Sequence[str], classes: Sequence[str]
) -> np.ndarray:
    """Average activations (units, images) over each class's images: (units, classes)."""
    images = np.array(class_of)
    return np.stack([activations[:, images == name].mean(1) for name in classes], axis=1)


def claim_rows(
    study: ClassStudy, matrix: ClassMatrix, words: Mapping[Signed, Sequence[str]]
) -> pd.DataFrame:
    """Lay a study out for its claims: a row for each class's set of units, and for each unit.

    ``level`` class or unit; ``units_of`` a class; its mean activation on pictures of its ``own``
    class, the largest on those of an ``other``, and whether it ``prefers`` its own; the same for
    the random unit beside it (``random_own`` ...); then the mean on each class's pictures. Of
    units also ``unit``, its ``sign``, the ``words`` that it writes with it, and whether it
    ``names`` its class with one of them.
    """
    classes = matrix.classes
    whole = _own(matrix.mean, classes, classes)
    sets = pd.DataFrame({"level": "class", "units_of": classes, **whole})
    grids = (study.own, study.chance)
    own, random = (class_means(grid, study.image_class, classes) for grid in grids)
    beside = {f"random_{name}": some for name, some in _own(random, study.set_of, classes).items()}
    said = [[word.strip() for word in words[unit]] for unit in study.every_signed]
    names = [any(is_of_class(word, name) for word in some)
             for some, name in zip(said, study.set_of, strict=True)]  # fmt: skip
    units = pd.DataFrame({
        "level": "unit", "units_of": study.set_of, "unit": list(map(str, study.every_unit)),
        "sign": [SIGN[sign] for _, sign in study.every_signed],
        "words": [", ".join(some[:5]) for some in said], "names": names,
        **_own(own, study.set_of, classes), **beside,
    })  # fmt: skip
    means = [pd.DataFrame(some, columns=classes) for some in (matrix.mean, own)]
    blocks = [pd.concat(pair, axis=1) for pair in zip((sets, units), means, strict=True)]
    laid = pd.concat(blocks, ignore_index=True)
    return laid[[*units.columns, *classes]]


def naming_units(rows: pd.DataFrame) -> dict[str, int]:
    """Count each class's units that have its name among their words, in ``claim_rows``."""
    units = rows[rows["level"] == "unit"]
    return units["names"].astype(int).groupby(units["units_of"], sort=False).sum().to_dict()


def _own(mean: np.ndarray, set_of: Sequence[str], classes: Sequence[str]) -> dict[str, np.ndarray]:
    """Read off means (rows, classes) those of each row's own class and of the best other one."""
    is_own = np.array(set_of)[:, None] == np.array(classes)
    own = mean[is_own]
    other = np.where(is_own, -np.inf, mean).max(1)
    return {"own": own, "other": other, "prefers": own > other}
