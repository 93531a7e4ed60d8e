"""What somebody's own script needs: one picture, one system, and a function for each question.

A ``picture`` is a ``PIL.Image``, the path of one, or a ``Photograph`` of a data set. ``neurons``
are a neuron table, or neurons, or their addresses such as ``"L7.u15772"``, or ``"L7.e3.u120"``
in a mixture of experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from mmn_utils.datasets import Photograph, load_dataset
from mmn_utils.datasets.base import read_image
from mmn_utils.interventions import ablation, editing
from mmn_utils.interventions.concept import word_tokens
from mmn_utils.interventions.edit import Edit, apply
from mmn_utils.models import VisionLanguageModel, load_model
from mmn_utils.models import doctor as doctors
from mmn_utils.models.base import Prompt
from mmn_utils.neurons import captions, decoding, receptive_fields
from mmn_utils.neurons.captions import Caption
from mmn_utils.neurons.contribution import contribution
from mmn_utils.neurons.methods import METHODS
from mmn_utils.neurons.table import Neuron, address, neuron_at, unique_neurons
from mmn_utils.neurons.targets import Target, caption_targets

Picture = Image.Image | str | Path | Photograph
Neurons = pd.DataFrame | Sequence[Neuron | str] | Neuron | str

NAME = "picture"  # of the one picture, in the tables

load = load_model
photographs = load_dataset


def example(place: int = 0) -> Image.Image:
    """Return one of the miniature's held-out scenes: RGB, the first by default.

    ``ValueError`` for a place beyond the last.
    """
    scenes = load_dataset("miniature")
    if not 0 <= place < len(scenes):
        raise ValueError(f"example {place}: give a place from 0 to {len(scenes) - 1}")
    return scenes[place].open()


def caption(system: VisionLanguageModel, picture: Picture, max_new_tokens: int = 20) -> Caption:
    """Caption a picture greedily: ``text`` and token ``ids``."""
    return captions.caption_images(
        system, [_opened(picture)], max_new_tokens, names=[_named(picture)]
    )[0]


def targets(
    system: VisionLanguageModel, picture: Picture, max_new_tokens: int = 20
) -> list[Target]:
    """Caption a picture and return its nouns as targets, in their order (paper A, S.1).

    ``ValueError``, with the caption, where it has no noun.
    """
    said = caption(system, picture, max_new_tokens)
    found = caption_targets(system, NAME, said)
    if not found:
        raise ValueError(f"no noun in the caption {said.text!r}: take another picture")
    return found


def top_neurons(
    system: VisionLanguageModel,
    picture: Picture,
    word: str | None = None,
    *,
    method: str = "attribution",
    k: int = 100,
    **options,
) -> pd.DataFrame:
    """Score a picture's neurons for a noun of its caption, the first by default: the top ``k``.

    A neuron table, best first. ``method``: ``attribution``, Z times its gradient at the image
    tokens (paper A, Eq. 2), ``contribution``, what neurons write of the noun (paper B, Eq. 2), or
    ``activation``; ``options`` are those of the function of that name. ``ValueError`` where the
    caption lacks the word.
    """
    if method not in METHODS:
        raise ValueError(f"method = {method!r}: give one of {', '.join(METHODS)}")
    target = _target(system, picture, word)
    return METHODS[method](system, [_opened(picture)], [target], k=k, **options)


def decode(system: VisionLanguageModel, neurons: Neurons, k: int = 5) -> pd.DataFrame:
    """Read the write vectors of neurons as the ``k`` tokens that each writes (paper A, 2.2).

    Of a neuron table, what each neuron wrote where it scored: address, score, the sign of its
    activation there, and the tokens of sign times write vector. Of neurons by themselves both
    ends, as which one they write depends on the picture: address, the tokens that they write
    where their activation is positive, and those that they then suppress.
    """
    if isinstance(neurons, pd.DataFrame) and _has_signs(neurons):
        pairs = decoding.signed(neurons)
        words = decoding.decoded_words(system, pairs, k)
        columns = {
            "neuron": [address(system, neuron) for neuron, _ in pairs],
            "score": neurons["score"].to_numpy(),
            "sign": [decoding.SIGN[sign] for _, sign in pairs],
            "writes": [_in_one_line(words[pair]) for pair in pairs],
        }
        return pd.DataFrame(columns).drop_duplicates(["neuron", "sign"], ignore_index=True)
    some = _neurons(system, neurons)
    ends = decoding.both_ends(system, some, k)
    texts = {name: ends[name].map(_in_one_line) for name in ("writes", "suppresses")}
    return pd.DataFrame({"neuron": [address(system, neuron) for neuron in some], **texts})


def heat_map(
    system: VisionLanguageModel, picture: Picture, neurons: Neurons, mean: bool = True
) -> np.ndarray:
    """Scale the activations of neurons on the image tokens to the picture's size (paper A, 3.2).

    The mean of the neurons, (height, width) float32, or each of them, (neurons, height, width);
    NaN where the system sees nothing of the picture, since it cuts out the middle.
    ``ValueError`` for a system whose image tokens have no place in the picture.
    """
    opened, some = _opened(picture), _neurons(system, neurons)
    if not some:
        raise ValueError("a heat map of no neurons shows nothing; give at least one")
    maps = receptive_fields.activation_maps(system, [opened], some, [_named(picture)])[0]
    maps = receptive_fields.over_picture(system, maps, (opened.height, opened.width))
    return (maps.mean(0) if mean else maps).cpu().numpy()


def ablate(
    system: VisionLanguageModel, picture: Picture, neurons: Neurons, **options
) -> ablation.Receipt:
    """Caption a picture without some neurons (paper A, 3.3); nothing stays changed.

    The receipt has ``caption_before``, ``caption_after``, ``logit_change`` and what was touched.
    ``options`` as ``Ablation`` takes them: ``positions``, ``value``.
    """
    what = ablation.Ablation(tuple(_neurons(system, neurons)), **options)
    with ablation.ablate(system, what, prompt=_prompt(system, picture)) as receipt:
        return receipt


def edit(
    system: VisionLanguageModel,
    picture: Picture,
    source: str | None,
    target: str,
    *,
    k: int = 5,
    **settings,
) -> tuple[Edit, tuple[str, str]]:
    """Make a noun of the caption another word by its top ``k`` neurons (paper B, Algorithm 1).

    Returns the edit and the captions before and after; the system stays as it was, until
    ``interventions.edit.install``. ``source`` None: the first noun. A ``target`` of several tokens
    pulls at each. ``settings`` as in ``editing.Settings``. ``ValueError`` for a word that the
    system cannot say, and ``EmptyEdit`` where no neuron is worth a change.
    """
    how = editing.Settings(**settings)
    word_tokens(system, target)  # one that it cannot say is an error now
    opened, noun = _opened(picture), _target(system, picture, source)
    ranked = contribution(system, [opened], [noun], k=k)
    found = editing.make_edit(system, [opened], [noun], target, unique_neurons(ranked), how)
    with apply(system, found, prompt=_prompt(system, picture)) as receipt:
        said = receipt.caption_before[0], receipt.caption_after[0]
    return found, said


def doctor(system: VisionLanguageModel, pictures: Sequence[Picture] | None = None) -> pd.DataFrame:
    """Examine a system on some pictures, two of the miniature's by default: a row for each check.

    See ``models.doctor``: the system's own forward, completeness, finite differences and others.
    """
    some = [example(0), example(1)] if pictures is None else [_opened(one) for one in pictures]
    return doctors.doctor(system, some)


def _has_signs(table: pd.DataFrame) -> bool:
    """Say whether every neuron of a table has an activation."""
    return "activation" in table and bool(table["activation"].notna().all())


def _in_one_line(tokens: Sequence[str]) -> str:
    return " ".join(token.strip() for token in tokens)


def _opened(picture: Picture) -> Image.Image:
    """Open a picture, upright RGB; one that is open is read as its file would be."""
    if isinstance(picture, Photograph):
        return picture.open()
    if isinstance(picture, Image.Image):
        return picture
    if not isinstance(picture, str | Path):
        kind = type(picture).__name__
        raise TypeError(f"a picture is a PIL.Image, a path or a Photograph, not of type {kind}")
    return read_image(Path(picture).expanduser())


def _named(picture: Picture) -> str:
    """Name a picture in an error: by its id or file where it has one."""
    if isinstance(picture, Photograph):
        return picture.id
    return NAME if isinstance(picture, Image.Image) else str(picture)


def _prompt(system: VisionLanguageModel, picture: Picture) -> Prompt:
    return system.prompt([_opened(picture)]).named([_named(picture)])


def _neurons(system: VisionLanguageModel, neurons: Neurons) -> list[Neuron]:
    """Return neurons in their order, each once."""
    if isinstance(neurons, pd.DataFrame):
        return unique_neurons(neurons)
    some = [neurons] if isinstance(neurons, Neuron | str) else neurons
    read = (neuron_at(system, n) if isinstance(n, str) else n for n in some)
    return list(dict.fromkeys(read))


def _target(system: VisionLanguageModel, picture: Picture, word: str | None) -> Target:
    """Choose a target of the caption by its noun, the first by default."""
    found = targets(system, picture)
    if word is None:
        return found[0]
    named = [target for target in found if target.noun.casefold() == word.casefold()]
    if not named:
        nouns = ", ".join(target.noun for target in found)
        raise ValueError(f"the caption has no noun {word!r}; its nouns are {nouns}")
    return named[0]
