"""What an edit does to captions, over many images: efficacy, generality, locality, fluency.

Paper B shows three photographs (Table 7). Here every photograph that the unedited model
captions plays a part for each concept of an edit, according to its caption:

- ``edited``: the edit was found on it. Its word should be swapped (efficacy);
- ``same``: another one whose caption has the source word. Likewise (generality);
- ``other``: its caption has no source word. It should stay as it was (locality);
- ``near``: it has the word in the other number only, or another concept's. Not judged.

Where the word is swapped, everything else should stay (fluency). A value is one per image, so
that ``estimates.share_of`` gives its interval. Captions before are made once and used for
all edits; those after are kept by the cache under the edited model's own revision.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np
import pandas as pd
import torch

from mmn_utils.datasets import Photograph
from mmn_utils.interventions.concept import Concept
from mmn_utils.interventions.edit import Edit, apply
from mmn_utils.measures.estimates import share_of
from mmn_utils.memory import in_batches
from mmn_utils.neurons.captions import Caption
from mmn_utils.neurons.targets import teacher_forced
from mmn_utils.neurons.text import same_word, says
from mmn_utils.studies.subjects import captions_of

EDITED, SAME, OTHER, NEAR = "edited", "same", "other", "near"
MEASURES = {  # what is averaged, over which roles
    "efficacy": ("swapped", (EDITED,)),
    "generality": ("swapped", (SAME,)),
    "locality": ("unchanged", (OTHER,)),
    "fluency": ("kept", (EDITED, SAME)),
    "exact": ("exact", (EDITED, SAME)),
}


@dataclass(frozen=True, eq=False)
class Before:
    """What the unedited model says, made once for all edits of the same concepts.

    ``rows`` has one row per (photograph, concept): image, source, target, role, ``step``
    and ``token`` of the source word (-1 without it), and ``margin``, the logit of the
    target's first token less that of the source's at that step (NaN without it).
    """

    photographs: list[Photograph]
    captions: list[Caption]
    concepts: tuple[Concept, ...]
    rows: pd.DataFrame
    max_new_tokens: int
    revision: str


def before_edit(
    model,
    photographs: Sequence[Photograph],
    concepts: Sequence[Concept],
    *,
    max_new_tokens: int = 20,
    batch_size: int = 16,
    progress: bool = True,
) -> Before:
    """Caption photographs without any edit, computed or loaded, and give them their roles.

    ``concepts`` as an edit has them; of two with the same words, the images count together.
    """
    concepts, photographs = _merged(concepts), list(photographs)
    captions = captions_of(
        model, photographs, max_new_tokens=max_new_tokens, batch_size=batch_size, progress=progress
    )
    known = [_sources(caption.text, concepts) for caption in captions]
    rows = []
    for concept in concepts:
        for photograph, caption, sources in zip(photographs, captions, known, strict=True):
            step, token = find_word(model, caption, concept.source)
            words = (photograph.id, concept.source, concept.target)
            rows.append((*words, _role(photograph.id, concept, *sources), step, token))
    names = ["image", "source", "target", "role", "step", "token"]
    rows = pd.DataFrame(rows, columns=names)
    margin = _margins(model, photographs, captions, concepts, rows, batch_size)
    return Before(
        photographs, captions, concepts, rows.assign(margin=margin), max_new_tokens, model.revision
    )


def _merged(concepts: Sequence[Concept]) -> tuple[Concept, ...]:
    """Join the images of concepts that turn the same word into the same word."""
    if not concepts:
        raise ValueError("no concepts; give those of an edit")
    found: dict[tuple, Concept] = {}
    for one in concepts:
        key = (one.source, one.target, one.tokens)
        images = (*found[key].images, *one.images) if key in found else one.images
        found[key] = Concept(*key, tuple(dict.fromkeys(images)))
    sources = [concept.source.lower() for concept in found.values()]
    if len(set(sources)) < len(sources):
        raise ValueError(f"concepts of the sources {sources}; a word can turn into one other only")
    return tuple(found.values())


def _sources(text: str, concepts: Sequence[Concept]) -> tuple[set[str], bool]:
    """Return the source words that a caption has, and whether any is there in either number."""
    sources = {concept.source for concept in concepts}
    words = set(re.findall(r"[^\W\d_]+", text))
    near = any(same_word(w, s) for w in words for s in sources)
    spoken = {source for source in sources if says(text, source)}
    return spoken, near or bool(spoken)


def _role(image: str, concept: Concept, spoken: set[str], near: bool) -> str:
    """Say what part an image plays for one concept of an edit; see ``_sources``."""
    if concept.source in spoken:
        return EDITED if image in concept.images else SAME
    return NEAR if near else OTHER


def find_word(model, caption: Caption, word: str) -> tuple[int, int]:
    """Find the step and token that begin a word in a caption; (-1, -1) if it is not there."""
    decode = model.tokenizer.decode
    text = decode(list(caption.ids), clean_up_tokenization_spaces=False)
    match = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)
    if match is None:
        return -1, -1
    for step in range(len(caption.ids)):
        so_far = decode(list(caption.ids[: step + 1]), clean_up_tokenization_spaces=False)
        if len(so_far.rstrip("\ufffd")) > match.start():
            return step, int(caption.ids[step])
    return -1, -1


@torch.no_grad()
def _margins(model, photographs, captions, concepts, rows: pd.DataFrame, batch_size: int):
    """Read the target's logit less the source's at each source word: (rows,), NaN without."""
    place = {photograph.id: i for i, photograph in enumerate(photographs)}
    tokens = {concept.source: concept.tokens[0] for concept in concepts}
    margins = np.full(len(rows), np.nan)
    spoken = np.flatnonzero(rows["step"] >= 0)

    def compute(batch: np.ndarray) -> None:
        some = rows.iloc[batch]
        indices = [place[image] for image in some["image"]]
        prompt = model.prompt([photographs[i].open() for i in indices])
        prefixes = [captions[i].ids[:step] for i, step in zip(indices, some["step"], strict=True)]
        logits, _ = model.forward(teacher_forced(model, prompt, prefixes))
        pairs = torch.tensor([some["source"].map(tokens).tolist(), some["token"].tolist()])
        target, source = logits.float().cpu().gather(1, pairs.T).T
        margins[batch] = (target - source).numpy()

    in_batches(compute, spoken, batch_size)
    return margins


def evaluate(
    model, edit: Edit, before: Before, *, batch_size: int = 16, progress: bool = True
) -> pd.DataFrame:
    """Caption the photographs again with the edit in place, and compare.

    One row per (photograph, concept): image, source, target, role; captions ``before`` and
    ``after``; ``margin_before`` and ``margin_after``, above 0 where the target has passed
    the source at its step; and as numbers from 0 to 1: ``swapped``, the target is said and
    the source no more; ``exact``, the caption is the old one with the word replaced;
    ``kept``, how much of the rest stayed, as ``similarity``, with the two words taken for
    one; ``unchanged``. Values that do not apply to a role are NaN. The edit is taken off
    again, bit for bit. ``ValueError`` where the concepts are not those of ``before``.
    """
    if {(c.source, c.target, c.tokens) for c in edit.concepts} != {
        (c.source, c.target, c.tokens) for c in before.concepts
    }:
        raise ValueError(
            f"the edit turns {_words(edit.concepts)}, the captions before are sorted for "
            f"{_words(before.concepts)}; call before_edit with the edit's concepts"
        )
    if model.revision != before.revision:
        raise ValueError(
            f"the captions before are those of revision {before.revision}, the model is now "
            f"{model.revision}; undo its edits, or call before_edit again"
        )
    with apply(model, edit, allow_empty=True):
        captions = captions_of(
            model,
            before.photographs,
            max_new_tokens=before.max_new_tokens,
            batch_size=batch_size,
            progress=progress,
        )
        margins = _margins(
            model, before.photographs, before.captions, before.concepts, before.rows, batch_size
        )
    texts = (
        before.rows["image"].map(
            {p.id: c.text for p, c in zip(before.photographs, some, strict=True)}
        )
        for some in (before.captions, captions)
    )
    return judged(before.rows, *texts, margins)


def judged(
    rows: pd.DataFrame, said: Sequence[str], says_now: Sequence[str], margins: np.ndarray
) -> pd.DataFrame:
    """Set captions before and after beside rows of ``Before``, and compare: see ``evaluate``."""
    rows = rows.rename(columns={"margin": "margin_before"}).drop(columns=["step", "token"])
    rows = rows.reset_index(drop=True).assign(
        margin_after=margins, before=list(said), after=list(says_now)
    )
    return pd.concat([rows, pd.DataFrame([_judge(row) for row in rows.itertuples()])], axis=1)


def _words(concepts: Sequence[Concept]) -> str:
    return ", ".join(f"{one.source!r} into {one.target!r}" for one in concepts)


def _judge(row) -> dict[str, float]:
    """Compare one caption before and after."""
    spoken = row.role in (EDITED, SAME)
    gone, there = not says(row.after, row.source), says(row.after, row.target)
    exact = _letters(replace_word(row.before, row.source, row.target)) == _letters(row.after)
    rest = [replace_word(text, row.source, row.target) for text in (row.before, row.after)]
    return {
        "swapped": float(gone and there) if spoken else np.nan,
        "exact": float(exact) if spoken else np.nan,
        "kept": similarity(*rest),
        "unchanged": float(row.before == row.after),
    }


def replace_word(text: str, source: str, target: str) -> str:
    """Put a word in the place of another, wherever it stands as a whole, in any case."""
    pattern = rf"(?<!\w){re.escape(source)}(?!\w)"
    return re.sub(pattern, lambda _: target, text, flags=re.IGNORECASE)


def _letters(text: str) -> str:
    return " ".join(text.lower().split())


def similarity(first: str, second: str) -> float:
    """Return the share of words, in their order, that two texts have in common: 1 for the same.

    Twice the matching words over all words (Ratcliff and Obershelp); punctuation and case
    do not count. 1 for two texts without words.
    """
    words = [re.findall(r"\w+", text.lower()) for text in (first, second)]
    return SequenceMatcher(None, *words, autojunk=False).ratio()


# --- over edits -------------------------------------------------------------------------


def per_photograph(rows: pd.DataFrame, column: str) -> pd.Series:
    """Average a column over the trials of each image, so that it counts once: by image."""
    return rows.groupby("image", sort=False)[column].mean()


def summarise(
    table: pd.DataFrame, by: Sequence[str] = (), seed: int = 0, concepts: bool = True
) -> pd.DataFrame:
    """Average each measure over its images, with 95 % intervals.

    One row per group of ``by`` (such as neurons and strength), concept and measure:
    efficacy, generality, locality, fluency, exact; mean, low, high, n. Without ``concepts``
    the images of all of them count together, one that was tried twice once, with its mean. A
    measure without images has no row.
    """
    rows, keys = [], [*by, *(("source", "target") if concepts else ())]
    for names, group in table.groupby(keys, sort=True):
        for measure, (column, roles) in MEASURES.items():
            values = per_photograph(group[group["role"].isin(roles)], column)
            if len(values):
                mean = share_of(values, seed)
                rows.append((*names, measure, mean.value, mean.low, mean.high, mean.n))
    return pd.DataFrame(rows, columns=[*keys, "measure", "mean", "low", "high", "n"])
