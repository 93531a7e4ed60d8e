"""Many edits, found on some photographs and tried on those and on others.

For the edits of a few concepts every photograph is dealt one of them: that of the source word
in its caption, or, where there is none, one by turns. So a thousand photographs serve ten
concepts at the cost of one. Whether an edit works where it was found takes an edit for each
photograph (``find_on_each``). No photograph counts twice in an interval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from mmn_utils.cache import bar
from mmn_utils.datasets import Photograph
from mmn_utils.interventions.drafts import Drafts, captions_now, drafts_of
from mmn_utils.interventions.editing import (
    Edit,
    EmptyEdit,
    JointSettings,
    Settings,
    closed_form,
    descend,
    joint_edit,
    make_edit,
    make_edits,
    pulls_of,
    word_tokens,
)
from mmn_utils.measures.estimates import Estimate, difference_of, mean_of
from mmn_utils.neurons.captions import Caption
from mmn_utils.neurons.contribution import contribution
from mmn_utils.neurons.table import Neuron, unique_neurons
from mmn_utils.neurons.targets import Target, caption_targets
from mmn_utils.neurons.text import same_word
from mmn_utils.studies.edits import EDITED, MEASURES, OTHER, SAME, Before, judged, per_photograph

# --- concepts ---------------------------------------------------------------------------


def nouns_said(
    model, photographs: Sequence[Photograph], captions: Sequence[Caption]
) -> list[list[Target]]:
    """List the nouns of each caption as targets, each noun once and at its own step."""
    return [
        caption_targets(model, photograph.id, caption)
        for photograph, caption in zip(photographs, captions, strict=True)
    ]


def choose_concepts(model, said: Sequence[Sequence[Target]], n: int) -> list[tuple[str, str]]:
    """Pair the ``n`` nouns that most captions begin with each with another of their kind.

    The first noun of a caption tends to be what it is about. Sources are the ``n`` most
    frequent ones, targets those that come next, and no pair begins with the same token.
    ``ValueError`` where captions have fewer than two different first nouns.
    """
    counts = Counter(nouns[0].noun.lower() for nouns in said if nouns)
    ranked = sorted(counts, key=lambda noun: (-counts[noun], noun))
    n = min(n, len(ranked))
    pairs = []
    for place in range(n):
        others = [ranked[(place + n + step) % len(ranked)] for step in range(len(ranked))]
        target = next((o for o in others if differ(model, ranked[place], o)), None)
        if target is not None:
            pairs.append((ranked[place], target))
    if not pairs:
        raise ValueError(
            f"the captions begin with the nouns {ranked}: no two to make a concept of; give "
            "concepts, or more photographs"
        )
    return pairs


def differ(model, source: str, target: str) -> bool:
    """Say whether an edit can tell two words apart: other words, that begin with other tokens."""
    if same_word(source, target):
        return False
    return word_tokens(model, source)[0] != word_tokens(model, target)[0]


def check_concepts(
    model, pairs: Sequence[Sequence[str]], said: Sequence[Sequence[Target]]
) -> list[tuple[str, str]]:
    """Return concepts as pairs of words, or refuse them before anything is computed.

    ``ValueError`` for what is no pair of words, a source that no caption names or that comes
    twice, and a target that the tokenizer does not know or that is the source again.
    """
    nouns = Counter(target.noun.lower() for some in said for target in some)
    for pair in pairs:
        if len(pair) != 2 or not all(isinstance(word, str) and word.strip() for word in pair):
            raise ValueError(f"concept {pair!r}: give pairs of words, [source, target]")
        source, target = pair
        if source.lower() not in nouns:
            known = ", ".join(noun for noun, _ in nouns.most_common(20))
            raise ValueError(
                f"no caption has the noun {source!r}, so there is nothing to edit; the most "
                f"frequent ones are {known}"
            )
        if not differ(model, source, target):
            raise ValueError(f"{source!r} and {target!r} cannot be told apart; take another target")
    sources = [source.lower() for source, _ in pairs]
    if len(set(sources)) < len(sources):
        raise ValueError(f"sources {sources}: a word can turn into one other only")
    return [(source.lower(), target) for source, target in pairs]


# --- edits ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Finding:
    """Where an edit is found: a photograph, the word in its caption, the neurons that write it."""

    photograph: Photograph
    target: Target
    word: str
    neurons: tuple[Neuron, ...]

    @property
    def concept(self) -> tuple[str, str]:
        """The source and the target word."""
        return self.target.noun, self.word

    def into(self, word: str) -> Finding:
        """Return the same place with another target word."""
        return replace(self, word=word)

    def first(self, count: int) -> Finding:
        """Return the same place with the first ``count`` neurons."""
        return replace(self, neurons=self.neurons[:count])


def top_neurons(
    model,
    photographs: Sequence[Photograph],
    targets: Sequence[Target],
    n: int,
    *,
    batch_size: int = 16,
    **switches,
) -> list[list[Neuron]]:
    """Find the ``n`` neurons that contribute most to each target (paper B, Eq. 2).

    ``photographs[i]`` belongs to ``targets[i]``; an image has each noun once. ``switches`` as
    ``contribution``.
    """
    found = []
    for start in range(0, len(targets), batch_size):
        batch = slice(start, start + batch_size)
        some = targets[batch]
        table = contribution(model, opened(photographs[batch]), some, k=n, **switches)
        parts = dict(list(table.groupby(["image", "target"])))
        found += [unique_neurons(parts[target.image, target.noun]) for target in some]
    return found


def opened(photographs: Sequence[Photograph]) -> list:
    """Open photographs, one that comes several times once."""
    pictures = {photograph.id: photograph for photograph in photographs}
    pictures = {name: photograph.open() for name, photograph in pictures.items()}
    return [pictures[photograph.id] for photograph in photographs]


def find_on_first(
    model,
    photographs: Sequence[Photograph],
    said: Sequence[Sequence[Target]],
    concepts: Sequence[tuple[str, str]],
    n_neurons: int,
    **switches,
) -> list[Finding]:
    """Take the first photograph that names each source, and its word's top neurons."""
    places = [
        next(
            (photograph, target, word)
            for photograph, some in zip(photographs, said, strict=True)
            for target in some
            if target.noun.lower() == source
        )
        for source, word in concepts
    ]
    return _found(model, places, n_neurons, **switches)


def find_on_each(
    model,
    photographs: Sequence[Photograph],
    said: Sequence[Sequence[Target]],
    rows: pd.DataFrame,
    n_neurons: int,
    **switches,
) -> tuple[list[Finding], pd.DataFrame]:
    """Find edits also on the dealt photographs with a source word that serve to try others'.

    Returns findings and their rows, in the order of ``rows`` (see ``deal``), now with the
    role of a photograph that the edit was found on: each is a trial of efficacy.
    """
    of_image = {p.id: (p, some) for p, some in zip(photographs, said, strict=True)}
    places, kept = [], []
    for row in rows[rows["role"] == SAME].itertuples():
        photograph, some = of_image[row.image]
        target = next((t for t in some if t.noun.lower() == row.source), None)
        if target is not None:  # the tagger may take the word for no noun
            places.append((photograph, target, row.target))
            kept.append(row.Index)
    return _found(model, places, n_neurons, **switches), rows.loc[kept].assign(role=EDITED)


def _found(model, places, n_neurons: int, **switches) -> list[Finding]:
    """Add the top neurons to places: photograph, target, new word."""
    photographs, targets = [place[0] for place in places], [place[1] for place in places]
    tops = top_neurons(model, photographs, targets, n_neurons, **switches)
    return [Finding(*place, tuple(top)) for place, top in zip(places, tops, strict=True)]


def edit_of(
    model, finding: Finding, settings: Settings | JointSettings, *, allow_empty: bool = False
) -> Edit:
    """Make one edit; ``EmptyEdit`` where it changes nothing, unless ``allow_empty``."""
    make = joint_edit if isinstance(settings, JointSettings) else make_edit
    places = ([finding.photograph.open()], [finding.target], finding.word, finding.neurons)
    return make(model, *places, settings, allow_empty=allow_empty)


def edits_of(
    model,
    findings: Sequence[Finding],
    settings: Settings | JointSettings,
    *,
    batch_size: int = 16,
) -> list[Edit]:
    """Make the edit of each finding; ``EmptyEdit`` where there are some and all are empty.

    A single empty one counts as an edit that failed.
    """
    if isinstance(settings, JointSettings):
        edits = [edit_of(model, finding, settings, allow_empty=True) for finding in findings]
    else:
        edits = []
        for start in range(0, len(findings), batch_size):
            some = findings[start : start + batch_size]
            edits += make_edits(
                model,
                opened([finding.photograph for finding in some]),
                [finding.target for finding in some],
                [finding.word for finding in some],
                [finding.neurons for finding in some],
                settings,
                allow_empty=True,
            )
    if findings and not any(bool((edit.norms > 0).any()) for edit in edits):
        edit_of(model, findings[0], settings)  # says why
        raise EmptyEdit("none of the edits changes anything")
    return edits


def by_concept(edits: Sequence[Edit]) -> dict[tuple[str, str], Edit]:
    """Name edits of one concept each by their source and target word."""
    return {(edit.concepts[0].source, edit.concepts[0].target): edit for edit in edits}


@torch.no_grad()
def closed_against_steps(
    model, findings: Sequence[Finding], settings: Settings
) -> dict[tuple[str, str], float]:
    """Compare the closed form with Algorithm 1's own steps: largest difference over length.

    For neurons whose pull exceeds beta; NaN where none does. All are stepped at once, since
    neurons do not meet in the loss.
    """
    found = pulls_of(
        model,
        opened([finding.photograph for finding in findings]),
        [finding.target for finding in findings],
        [word_tokens(model, finding.word) for finding in findings],
        [finding.neurons for finding in findings],
        settings.activation,
    )
    pulls = torch.cat(found)
    numbers = (settings.beta, settings.lr, settings.epochs)
    closed, steps = closed_form(pulls, *numbers), descend(pulls, *numbers)
    gap = (closed - steps).norm(dim=1) / closed.norm(dim=1)
    gap[pulls.norm(dim=1) <= settings.beta] = float("nan")
    parts = gap.split([len(pull) for pull in found])
    largest = [
        float(part[~part.isnan()].max()) if (~part.isnan()).any() else np.nan for part in parts
    ]
    return dict(zip((finding.concept for finding in findings), largest, strict=True))


# --- trials -----------------------------------------------------------------------------


def deal(before: Before) -> pd.DataFrame:
    """Give each photograph the one concept that it is judged for: some rows of ``before``.

    That of its caption's source word, of several the first; without one, concepts by turns.
    Photographs with a source word in another number only are left out.
    """
    order = {(c.source, c.target): place for place, c in enumerate(before.concepts)}
    kept, turn = [], 0
    for _, rows in before.rows.groupby("image", sort=False):
        rows = rows.sort_values(
            "source", key=lambda s: s.map({a: i for (a, _), i in order.items()})
        )
        spoken = rows[rows["role"].isin([EDITED, SAME])]
        if (spoken["role"] == EDITED).any():
            spoken = spoken[spoken["role"] == EDITED]
        if len(spoken):
            kept.append(spoken.index[0])
        elif (rows["role"] == OTHER).all():
            kept.append(rows.index[turn % len(rows)])
            turn += 1
    return before.rows.loc[kept]


def thinned(rows: pd.DataFrame, n: int) -> pd.DataFrame:
    """Keep up to ``n`` dealt rows: half with a source word, half without; concepts by turns.

    Photographs that an edit was found on are left out.
    """
    halves = []
    for role, count in ((SAME, n - n // 2), (OTHER, n // 2)):
        some = rows[rows["role"] == role]
        turn = some.groupby("source", sort=False).cumcount()
        halves.append(some.loc[turn.sort_values(kind="stable").index].head(count))
    return pd.concat(halves)


def drafts_for(model, before: Before, rows: pd.DataFrame, *, batch_size: int = 16) -> Drafts:
    """Take the captions before for drafts of those after, for the photographs of ``rows``."""
    wanted = set(rows["image"])
    kept = [i for i, photograph in enumerate(before.photographs) if photograph.id in wanted]
    return drafts_of(
        model,
        [before.photographs[i] for i in kept],
        [before.captions[i] for i in kept],
        max_new_tokens=before.max_new_tokens,
        batch_size=batch_size,
    )


def trials(
    model,
    edits: Sequence[Edit],
    before: Before,
    drafts: Drafts,
    rows: pd.DataFrame,
    *,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Try an edit on the photograph of each of ``rows``: rows as ``edit_study.evaluate``.

    ``edits[i]`` is put in for row i alone; ``norm`` is the length of its dw in the mean of the
    neurons. ``ValueError`` where the model bears another edit.
    """
    if model.revision != drafts.revision:
        raise ValueError(
            f"the drafts are those of revision {drafts.revision}, the model is now "
            f"{model.revision}; undo its edits"
        )
    tokens = {(c.source, c.target): c.tokens[0] for c in before.concepts}
    columns = (rows[name] for name in ("source", "target", "step", "token"))
    asked = [
        (step, tokens[source, target], token) if step >= 0 else None
        for source, target, step, token in zip(*columns, strict=True)
    ]
    captions, margins = captions_now(
        model, drafts, list(rows["image"]), asked, batch_size, list(edits)
    )
    said = {i: caption.text for i, caption in zip(drafts.images, drafts.captions, strict=True)}
    texts = (rows["image"].map(said), [caption.text for caption in captions])
    lengths = [float(edit.norms.mean()) for edit in edits]
    return judged(rows, *texts, margins).assign(norm=lengths)


def compared(
    model,
    ways: Mapping[str, Mapping[tuple[str, str], Edit]],
    before: Before,
    drafts: Drafts,
    rows: pd.DataFrame,
    *,
    batch_size: int = 16,
    progress: bool = True,
) -> pd.DataFrame:
    """Try several ways of editing on the same photographs: ``trials`` with ``method``.

    Each way has an edit for each concept, by its words.
    """
    parts = []
    with bar("ways of editing", len(ways), progress, unit="tried") as shown:
        for name, edits in ways.items():
            own = [edits[concept] for concept in zip(rows["source"], rows["target"], strict=True)]
            table = trials(model, own, before, drafts, rows, batch_size=batch_size)
            parts.append(table.assign(method=name))
            shown.update()
    return pd.concat(parts, ignore_index=True)


def grid(
    edits: Mapping[tuple[str, str], Edit], counts: Sequence[int], strengths: Sequence[float]
) -> dict[str, dict[tuple[str, str], Edit]]:
    """Cut edits to their first so many neurons, times so much: for ``compared``, by name."""
    return {
        f"{count} x {strength:g}": {c: e.first(count).scaled(strength) for c, e in edits.items()}
        for count in counts
        for strength in strengths
    }


def swept(table: pd.DataFrame) -> pd.DataFrame:
    """Add the columns ``neurons`` and ``strength`` to a table of ``compared`` over a ``grid``."""
    parts = table["method"].str.split(" x ", expand=True)
    return table.assign(neurons=parts[0].astype(int), strength=parts[1].astype(float))


def measured(table: pd.DataFrame, measure: str, seed: int = 0) -> Estimate | None:
    """Average one of ``edit_study.MEASURES`` over the images it applies to; None without any."""
    column, roles = MEASURES[measure]
    values = per_photograph(table[table["role"].isin(roles)], column)
    return mean_of(values, seed) if len(values) else None


def paired(
    table: pd.DataFrame, first: str, second: str, measure: str, seed: int = 0
) -> Estimate | None:
    """Compare two ways of editing on the images of both: the first's measure less the second's."""
    column, roles = MEASURES[measure]
    some = table[table["role"].isin(roles)]
    values = pd.concat(
        [per_photograph(some[some["method"] == name], column) for name in (first, second)],
        axis=1, keys=["first", "second"], join="inner",
    )  # fmt: skip
    return difference_of(values["first"], values["second"], seed) if len(values) else None


def by_image(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Average a column of a perturbation table over each image's nouns: images by condition."""
    values = table.assign(value=table[column].astype(float))
    return values.pivot_table(index="image", columns="condition", values="value", sort=False)
