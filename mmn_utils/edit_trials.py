"""Many edits, each found on one photograph and tried on the others.

Every photograph is judged once for each way of editing, for one concept: that of the source
word in its caption, or, where there is none, one that it is dealt. So a thousand photographs
serve ten concepts at the cost of one, and no photograph counts twice in an interval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from mmn_utils.captions import Caption, caption_images, generate
from mmn_utils.datasets import Photograph
from mmn_utils.drafts import Drafts, captions_now, drafts_of
from mmn_utils.edit_study import EDITED, MEASURES, OTHER, SAME, Before, judged
from mmn_utils.editing import (
    Edit,
    EmptyEdit,
    JointSettings,
    Settings,
    apply,
    closed_form,
    combine,
    descend,
    joint_edit,
    load_edit,
    make_edit,
    pull_of,
    save_edit,
    word_tokens,
)
from mmn_utils.estimates import Estimate, difference_of, mean_of
from mmn_utils.neurons import Neuron, unique_neurons
from mmn_utils.perturbation import says
from mmn_utils.scores import contribution
from mmn_utils.selectivity import same_word
from mmn_utils.study import Say
from mmn_utils.targets import Target, caption_targets

NO_EDIT = "(no edit: g below beta)"


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
    if same_word(source, target) or same_word(target, source):
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
    model, photographs: Sequence[Photograph], targets: Sequence[Target], n: int, **switches
) -> list[list[Neuron]]:
    """Find the ``n`` neurons that contribute most to each target (paper B, Eq. 2).

    ``photographs[i]`` belongs to ``targets[i]``; ``switches`` as ``scores.contribution``.
    """
    found = []
    for photograph, target in zip(photographs, targets, strict=True):
        table = contribution(model, [photograph.open()], [target], k=n, **switches)
        found.append(unique_neurons(table))
    return found


def find_on_first(
    model,
    photographs: Sequence[Photograph],
    said: Sequence[Sequence[Target]],
    concepts: Sequence[tuple[str, str]],
    n_neurons: int,
    **switches,
) -> list[Finding]:
    """Take the first photograph that names each source, and its word's top neurons."""
    found = []
    for source, word in concepts:
        photograph, target = next(
            (photograph, target)
            for photograph, some in zip(photographs, said, strict=True)
            for target in some
            if target.noun.lower() == source
        )
        (neurons,) = top_neurons(model, [photograph], [target], n_neurons, **switches)
        found.append(Finding(photograph, target, word, tuple(neurons)))
    return found


def edit_of(
    model, finding: Finding, settings: Settings | JointSettings, *, allow_empty: bool = False
) -> Edit:
    """Make one edit; ``EmptyEdit`` where it changes nothing, unless ``allow_empty``."""
    make = joint_edit if isinstance(settings, JointSettings) else make_edit
    places = ([finding.photograph.open()], [finding.target], finding.word, finding.neurons)
    return make(model, *places, settings, allow_empty=allow_empty)


def edits_of(
    model, findings: Sequence[Finding], settings: Settings | JointSettings
) -> dict[tuple[str, str], Edit]:
    """Make the edit of each finding, by its concept; ``EmptyEdit`` where all are empty.

    A single empty one counts as an edit that failed.
    """
    edits = {f.concept: edit_of(model, f, settings, allow_empty=True) for f in findings}
    if not any(bool((edit.norms > 0).any()) for edit in edits.values()):
        edit_of(model, findings[0], settings)  # says why
        raise EmptyEdit("none of the edits changes anything")
    return edits


@torch.no_grad()
def closed_against_steps(
    model, findings: Sequence[Finding], settings: Settings
) -> dict[tuple[str, str], float]:
    """Compare the closed form with Algorithm 1's own steps: largest difference over length.

    For neurons whose pull exceeds beta; NaN where none does. All are stepped at once, since
    neurons do not meet in the loss.
    """
    found = []
    for finding in findings:
        tokens = word_tokens(model, finding.word)
        place = (finding.photograph.open(), finding.target, tokens, finding.neurons)
        found.append(pull_of(model, *place, settings.activation))
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


def drafts_for(
    model,
    before: Before,
    edits: Sequence[Edit],
    rows: pd.DataFrame,
    *,
    batch_size: int = 16,
) -> Drafts:
    """Run what lies below all of these edits once, for the photographs of ``rows``."""
    wanted = set(rows["image"])
    kept = [i for i, photograph in enumerate(before.photographs) if photograph.id in wanted]
    return drafts_of(
        model,
        [before.photographs[i] for i in kept],
        [before.captions[i] for i in kept],
        min(neuron.layer for edit in edits for neuron in edit.neurons),
        max_new_tokens=before.max_new_tokens,
        batch_size=batch_size,
    )


def trials(
    model,
    edits: Mapping[tuple[str, str], Edit],
    before: Before,
    drafts: Drafts,
    rows: pd.DataFrame,
    *,
    batch_size: int = 16,
) -> pd.DataFrame:
    """Try each concept's edit on the photographs dealt to it: rows as ``edit_study.evaluate``.

    ``ValueError`` where an edit reaches below the drafts, or the model bears another one.
    """
    if model.revision != drafts.revision:
        raise ValueError(
            f"the drafts are those of revision {drafts.revision}, the model is now "
            f"{model.revision}; undo its edits"
        )
    tokens = {(c.source, c.target): c.tokens[0] for c in before.concepts}
    parts, now = [], {}
    for concept, some in rows.groupby(["source", "target"], sort=False):
        edit = edits[concept]
        if min(neuron.layer for neuron in edit.neurons) < drafts.layer:
            raise ValueError(f"the edit of {concept} lies below the drafts' layer {drafts.layer}")
        asked = [
            (step, tokens[concept], token) if step >= 0 else None
            for step, token in zip(some["step"], some["token"], strict=True)
        ]
        with apply(model, edit, hash_weights=False, allow_empty=True):
            found = captions_now(model, drafts, list(some["image"]), asked, batch_size)
        now.update(zip(some["image"], (caption.text for caption in found[0]), strict=True))
        parts.append(some.assign(margin_after=found[1]))
    dealt = pd.concat(parts)
    said = {i: caption.text for i, caption in zip(drafts.images, drafts.captions, strict=True)}
    return judged(dealt.drop(columns="margin_after"), said, now, dealt["margin_after"].to_numpy())


def compared(
    model,
    ways: Mapping[str, Mapping[tuple[str, str], Edit]],
    before: Before,
    drafts: Drafts,
    rows: pd.DataFrame,
    *,
    batch_size: int = 16,
    progress: Say = print,
) -> pd.DataFrame:
    """Try several ways of editing on the same photographs: ``trials`` with ``method``, ``norm``.

    ``norm`` is the mean length of dw.
    """
    parts = []
    for name, edits in ways.items():
        table = trials(model, edits, before, drafts, rows, batch_size=batch_size)
        lengths = {concept: float(edit.norms.mean()) for concept, edit in edits.items()}
        concepts = zip(table["source"], table["target"], strict=True)
        parts.append(table.assign(method=name, norm=[lengths[one] for one in concepts]))
        if progress is not None:
            progress(f"{name}: {len(table)} photographs")
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
    values = table.loc[table["role"].isin(roles), column]
    return mean_of(values, seed) if len(values) else None


def paired(
    table: pd.DataFrame, first: str, second: str, measure: str, seed: int = 0
) -> Estimate | None:
    """Compare two ways of editing image by image: the first's measure less the second's."""
    column, roles = MEASURES[measure]
    values = table[table["role"].isin(roles)].pivot(index="image", columns="method", values=column)
    return difference_of(values[first], values[second], seed) if len(values) else None


def by_image(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Average a column of a perturbation table over each image's nouns: images by condition."""
    values = table.assign(value=table[column].astype(float))
    return values.pivot_table(index="image", columns="condition", values="value", sort=False)


# --- tables -----------------------------------------------------------------------------


def perturbation_exhibit(table: pd.DataFrame, images: Sequence[str]) -> pd.DataFrame:
    """Lay a perturbation table of some images out as paper B's Table 5 does."""
    some = table[table["image"].isin(list(images))]
    return pd.DataFrame(
        {
            "image": some["image"],
            "original output": some["before"],
            "concept": some["target"],
            "neurons": some["condition"].map({"multimodal": "top", "random": "random"}),
            "noise / write vector": some["relative"].round(1),
            "perturbed output": some["after"],
            "changed": some["changed"],
            "word kept": some["kept"],
        }
    )


def edit_exhibit(
    model,
    findings: Sequence[Finding],
    settings: Settings,
    max_new_tokens: int = 20,
) -> pd.DataFrame:
    """Edit each finding's own photograph: paper B's Table 6, with g, dw and the captions.

    ``g`` is the largest pull, ``dw`` the mean length of what was added over that of the write
    vectors; an edit that comes out as zero says so in ``after``. ``steps`` is how far the
    closed form lies from Algorithm 1's steps.
    """
    gaps, rows = closed_against_steps(model, findings, settings), []
    for finding in findings:
        picture = [finding.photograph.open()]
        edit = edit_of(model, finding, settings, allow_empty=True)
        before = caption_images(model, picture, max_new_tokens)[0].text
        after, relative = NO_EDIT, 0.0
        if bool((edit.norms > 0).any()):
            with apply(model, edit, hash_weights=False) as receipt:
                after = caption_images(model, picture, max_new_tokens)[0].text
            relative = float(np.mean(receipt.relative))
        source, target = finding.concept
        row = (finding.photograph.id, source, target, max(edit.pulls), relative)
        swapped = says(after, target) and not says(after, source)
        rows.append((*row, gaps[finding.concept], before, after, swapped))
    names = ["image", "source", "target", "g", "dw / write vector", "steps", "before", "after"]
    names.append("swapped")
    return pd.DataFrame(rows, columns=names)


def others_exhibit(table: pd.DataFrame, concepts: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Show what edits do to three images each, as paper B's Table 7 does.

    The image that the edit was found on, another with the source word, and one without it,
    the first of each in a table of ``trials``.
    """
    roles = {EDITED: "edited on it", SAME: "another with the source", OTHER: "without the source"}
    rows = []
    for source, target in concepts:
        some = table[(table["source"] == source) & (table["target"] == target)]
        for role, name in roles.items():
            for one in some[some["role"] == role].head(1).itertuples():
                rows.append((source, target, one.image, name, one.before, one.after))
    names = ["source", "target", "image", "role", "unedited output", "edited output"]
    return pd.DataFrame(rows, columns=names)


def uses_exhibit(
    model,
    findings: Sequence[Finding],
    settings: Settings,
    joint: JointSettings,
    long_word: str,
    path,
    max_new_tokens: int = 20,
) -> pd.DataFrame:
    """Try what else an edit can be: of several tokens, of two concepts, on disk, undone.

    One row per photograph: captions before, with the edit, and after it is gone; hashes of
    the layers' weights at the same three times. ``path`` is where the edit is saved.
    An edit of several tokens that comes out as zero says so. ``ValueError`` where
    ``long_word`` is one token only.
    """
    first, second = findings[:2]
    if len(word_tokens(model, long_word)) < 2:
        raise ValueError(f"{long_word!r} is one token of {model.name}; take a longer word")
    long = first.into(long_word)
    pair = [edit_of(model, finding, settings, allow_empty=True) for finding in (first, second)]
    both = combine(pair, shared="sum")
    save_edit(pair[0], path)
    cases = [
        ("several tokens, Algorithm 1", edit_of(model, long, settings, allow_empty=True), long),
        ("several tokens, whole model", edit_of(model, long, joint), long),
        ("two concepts at once, the first", both, first),
        ("two concepts at once, the second", both, second),
        (f"saved ({path.stat().st_size:,} bytes), loaded", load_edit(path, model), first),
    ]
    return pd.DataFrame([_use(model, *case, max_new_tokens) for case in cases])


def _use(model, what: str, edit: Edit, finding: Finding, max_new_tokens: int) -> dict[str, Any]:
    """Apply an edit, undo it, and tell what was said and what the weights were."""
    prompt = model.prompt([finding.photograph.open()])
    empty = not bool((edit.norms > 0).any())
    options = {"max_new_tokens": max_new_tokens, "allow_empty": empty}
    with apply(model, edit, prompt=prompt, **options) as receipt:
        pass
    return {
        "edit": what,
        "concept": " → ".join(finding.concept),
        "neurons": len(edit.neurons),
        "before": receipt.caption_before[0],
        "edited": NO_EDIT if empty else receipt.caption_after[0],
        "target said": says(receipt.caption_after[0], finding.word),
        "undone": generate(model, prompt, max_new_tokens)[0].text,
        "weights before": receipt.weights_before,
        "weights edited": receipt.weights_within,
        "weights undone": receipt.weights_after,
    }
