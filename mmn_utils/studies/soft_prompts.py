"""Do soft prompts say words that fit the picture?

Paper A, section 3.1 and S.3: every soft prompt is read as the tokens nearest to it, and these
are held against random vectors, captions and human nouns by two judges.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from mmn_utils.datasets import Photograph
from mmn_utils.datasets.published import published
from mmn_utils.measures import estimates
from mmn_utils.measures.estimates import Estimate
from mmn_utils.memory import in_batches
from mmn_utils.neurons.decoding import nearest_tokens
from mmn_utils.studies.agreement import listed, other_images
from mmn_utils.studies.annotations import human_nouns
from mmn_utils.studies.subjects import Subjects

KINDS = ("random", "prompts", "shuffled", "captions", "coco")  # coco: nouns of human captions

# --- from vectors to words -------------------------------------------------------------


@dataclass(frozen=True)
class Nearest:
    """The tokens nearest to the vectors of one kind.

    ``texts`` (..., ) lists them for each vector, ``cosines`` (...) float32 has the largest, and
    ``different`` counts the tokens that occur.
    """

    texts: np.ndarray
    cosines: np.ndarray
    different: int


def nearest(model, ids: np.ndarray, cosines: np.ndarray) -> Nearest:
    """Name nearest tokens (..., k), given as ids and cosines, highest first."""
    strings = model.token_strings
    texts = np.empty(ids.shape[:-1], dtype=object)
    for place in np.ndindex(texts.shape):
        texts[place] = listed(strings[token] for token in ids[place])
    return Nearest(texts, cosines[..., 0], len(np.unique(ids)))


def nearest_to_vectors(model, vectors: torch.Tensor, k: int = 5) -> Nearest:
    """Read vectors (N, d) as their ``k`` nearest tokens; texts and cosines are (N,)."""
    ids, cosines = nearest_tokens(model, vectors, k)
    return nearest(model, ids.numpy(), cosines.numpy())


def nearest_to_patches(
    model, photographs: Sequence[Photograph], k: int = 5, batch_size: int = 16
) -> Nearest:
    """Read every soft prompt as its ``k`` nearest tokens; texts and cosines are (N, patches).

    The soft prompts themselves are not kept: a thousand photographs of them would fill a
    machine. ValueError for no photographs.
    """
    if not photographs:
        raise ValueError("no photographs; give at least one")

    def compute(some: Sequence[Photograph]) -> list[np.ndarray]:
        with torch.no_grad():
            soft = model.soft_prompt([photograph.open() for photograph in some])
        found = nearest_tokens(model, soft.flatten(0, 1), k)
        return [part.unflatten(0, soft.shape[:2]).numpy() for part in found]

    ids, cosines = zip(*in_batches(compute, photographs, batch_size), strict=True)
    return nearest(model, np.concatenate(ids), np.concatenate(cosines))


# --- five kinds of text ----------------------------------------------------------------


@dataclass(frozen=True)
class Texts:
    """Five kinds of text for each photograph: ``of[kind][i]`` is a list of them.

    ``patches`` (photographs, patches) are those that the prompts' lists go through, in an order
    of each photograph's own.
    """

    of: dict[str, list[list[str]]]
    patches: np.ndarray

    def first(self, n: int, table: int) -> dict[str, list[list[str]]]:
        """Take ``n`` texts of each list, and of the first photograph ``table`` more of two kinds.

        Those are called ``table prompts`` and ``table random`` (paper A, Table S.2).
        """
        few = {kind: [some[:n] for some in lists] for kind, lists in self.of.items()}
        for kind in ("random", "prompts"):
            lists = self.of[kind]
            few[f"table {kind}"] = [lists[0][:table], *([] for _ in lists[1:])]
        return few


def five_kinds(
    subjects: Subjects,
    prompts: Nearest,
    random: Nearest,
    n_nouns: int,
    rng: np.random.Generator,
) -> Texts:
    """Put the words of soft prompts and four other kinds of text beside each photograph.

    ``random``: as many lists as the photograph has patches. ``shuffled``: the prompts' lists
    of another photograph. ``captions``: generated ones. ``coco``: up to ``n_nouns`` nouns of
    the human captions, as one text; none where a photograph has no caption.
    """
    count = prompts.texts.shape[1]
    order = rng.permuted(np.tile(np.arange(count), (len(subjects), 1)), axis=1)
    drawn = rng.integers(0, len(random.texts), (len(subjects), count))
    partner = other_images(len(subjects), rng)
    told = all(photograph.captions for photograph in subjects.photographs)
    mine = np.take_along_axis(prompts.texts, order, axis=1).tolist()
    lists = (
        random.texts[drawn].tolist(),
        mine,
        [mine[i] for i in partner],
        [[caption.text] for caption in subjects.captions],
        [[listed(human_nouns(p, n_nouns, rng))] if told else [] for p in subjects.photographs],
    )
    return Texts(dict(zip(KINDS, lists, strict=True)), order)


# --- one picture, patch by patch -------------------------------------------------------

PROMPT, RANDOM = "BERTScore, soft prompt", "BERTScore, random vector"
PROMPT_TEXT, RANDOM_TEXT = "nearest to the soft prompt", "nearest to the random vector"


def patch_table(scores: pd.DataFrame, patches: Sequence[int]) -> pd.DataFrame:
    """Lay patches of one photograph beside random vectors (paper A, Table S.2).

    ``scores`` as from ``agreement`` of ``Texts.first``; the texts follow ``patches``.
    """
    mine, other = (scores[scores["condition"] == f"table {k}"] for k in ("prompts", "random"))
    columns = {
        "patch": [str(patch) for patch in patches[: len(mine)]],
        PROMPT_TEXT: mine["text"].to_numpy(),
        PROMPT: mine["bertscore"].to_numpy(),
        RANDOM_TEXT: other["text"].to_numpy(),
        RANDOM: other["bertscore"].to_numpy(),
    }
    return pd.DataFrame(columns)


def with_average(table: pd.DataFrame) -> pd.DataFrame:
    """Add a last row with the averages to a ``patch_table``."""
    average = pd.DataFrame([{"patch": "average", **table[[PROMPT, RANDOM]].mean()}])
    return pd.concat([table, average]).fillna("").reset_index(drop=True)


@dataclass(frozen=True)
class SideBySide:
    """A ``patch_table`` in numbers: averages, their spread over patches, rows that prompts win.

    ``named`` counts the rows that have one of some nouns, for prompts and for random vectors.
    """

    prompts: float
    random: float
    spread: float
    wins: int
    named: tuple[int, int]


def side_by_side(table: pd.DataFrame, nouns: Collection[str]) -> SideBySide:
    """Compare the two halves of a ``patch_table``, row by row."""
    ours, chance = table[PROMPT], table[RANDOM]
    named = [
        sum(not set(nouns).isdisjoint(text.lower().split(", ")) for text in table[column])
        for column in (PROMPT_TEXT, RANDOM_TEXT)
    ]
    spread = table[[PROMPT, RANDOM]].std().mean()
    return SideBySide(ours.mean(), chance.mean(), spread, int((ours > chance).sum()), tuple(named))


# --- all pictures ----------------------------------------------------------------------


@dataclass(frozen=True)
class Apart:
    """How far two distributions lie apart: Kolmogorov and Smirnov's D, and p."""

    d: Estimate
    p: float


def distances(means: pd.DataFrame, largest: pd.DataFrame, seed: int = 0) -> dict[str, Apart]:
    """Test the prompts' distribution against others (paper A, Figure 3), by the test's name.

    ``means`` over a picture's patches and ``largest`` of them, by kind of text; a kind that
    they lack has no test.
    """
    tests = {
        "mean over patches: prompts, random": (means, "random"),
        "best patch: prompts, random": (largest, "random"),
        "mean over patches: prompts, prompts of another picture": (means, "shuffled"),
        "best patch: prompts, prompts of another picture": (largest, "shuffled"),
        "prompts, reference nouns": (means, "coco"),
    }
    return {
        name: Apart(*estimates.ks_of(wide["prompts"], wide[other], seed))
        for name, (wide, other) in tests.items()
        if other in wide
    }


def score_columns(means: pd.DataFrame, largest: pd.DataFrame) -> pd.DataFrame:
    """Lay the scores of Figure 3 out, one row per photograph: the means, and the ``best_`` ones.

    NaN for a kind of text that there is not.
    """
    means = means.reindex(columns=list(KINDS))
    best = largest[["random", "prompts", "shuffled"]].add_prefix("best_")
    return means.join(best).reset_index()


def by_judge(means: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Lay the scores of Table 2 out: judge, image, and a column for each of ``KINDS``."""
    parts = [wide[list(KINDS)].reset_index().assign(judge=judge) for judge, wide in means.items()]
    return pd.concat(parts)[["judge", "image", *KINDS]].reset_index(drop=True)


@dataclass(frozen=True)
class Comparison:
    """Kinds of text compared picture by picture, by one judge (paper A, Table 2).

    ``means`` by kind; prompts minus random (``same``), captions minus prompts (``above``),
    prompts minus those of another picture (``own``); ``way`` says how far prompts and captions
    come on the way from random vectors to human nouns.
    """

    means: dict[str, Estimate]
    same: Estimate
    above: Estimate
    own: Estimate
    way: dict[str, Estimate]


def compared(wide: pd.DataFrame, seed: int = 0) -> Comparison:
    """Compare one score per photograph, a column for each of ``KINDS``."""
    way = {
        kind: estimates.share_of_gap(wide["random"], wide[kind], wide["coco"], seed)
        for kind in ("prompts", "captions")
    }
    return Comparison(
        {kind: estimates.mean_of(wide[kind], seed) for kind in KINDS},
        estimates.difference_of(wide["prompts"], wide["random"], seed),
        estimates.difference_of(wide["captions"], wide["prompts"], seed),
        estimates.difference_of(wide["prompts"], wide["shuffled"], seed),
        way,
    )


def printed_means() -> Mapping[str, Mapping[str, float]]:
    """Return the paper's Table 2: {judge: {kind: mean}}; it has no prompts of another picture."""
    table = published("A-table-2").set_index("measure")
    table = table.rename(columns={"GPT captions": "captions", "COCO nouns": "coco"})
    return table.rename(index=str.lower).astype(float).to_dict("index")
