"""Tables of edits, laid out as paper B's are: captions before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from mmn_utils.interventions.concept import word_tokens
from mmn_utils.interventions.edit import Edit, apply, combine, install, load_edit, save_edit
from mmn_utils.interventions.editing import Settings
from mmn_utils.interventions.joint import JointSettings
from mmn_utils.interventions.receipts import weights_hash
from mmn_utils.measures.estimates import Estimate, mean_of
from mmn_utils.neurons.captions import caption_images, generate
from mmn_utils.neurons.text import says
from mmn_utils.studies.edits.findings import Finding, closed_against_steps, edit_of
from mmn_utils.studies.edits.outcomes import EDITED, OTHER, SAME

NO_EDIT = "(no edit: g below beta)"
ARROW = " → "


def edited(
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
        if not edit.empty:
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


def largest_gap(table: pd.DataFrame) -> Estimate | None:
    """Return how far closed form and steps lie apart at most in a table of ``edited``.

    Over the edits that are not empty; None where all are.
    """
    gaps = table["steps"].dropna()
    largest = float(gaps.max())
    return Estimate(largest, largest, largest, len(gaps)) if len(gaps) else None


def others(table: pd.DataFrame, concepts: Sequence[tuple[str, str]]) -> pd.DataFrame:
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


def uses(
    model,
    findings: Sequence[Finding],
    settings: Settings,
    joint: JointSettings,
    long_word: str,
    max_new_tokens: int = 20,
) -> pd.DataFrame:
    """Try what else an edit can be: of several tokens, of two concepts, on disk, undone.

    One row per photograph: captions before, with the edit, and after it is gone; hashes of
    the layers' weights at the same three times. An edit of several tokens that comes out as
    zero says so. Of a single finding there are no two concepts. ``ValueError`` where
    ``long_word`` is one token only.
    """
    if len(word_tokens(model, long_word)) < 2:
        raise ValueError(f"{long_word!r} is one token of {model.name}; take a longer word")
    first, long = findings[0], findings[0].into(long_word)
    cases = [
        ("several tokens, Algorithm 1", edit_of(model, long, settings, allow_empty=True), long),
        ("several tokens, whole model", edit_of(model, long, joint), long),
    ]
    single = [edit_of(model, finding, settings, allow_empty=True) for finding in findings[:2]]
    if len(single) == 2:
        both = combine(single, shared="sum")
        for name, finding in zip(("first", "second"), findings[:2], strict=True):
            cases.append((f"two concepts at once, the {name}", both, finding))
    with TemporaryDirectory() as folder:
        path = save_edit(single[0], Path(folder, "edit.safetensors"))
        name = f"saved ({path.stat().st_size:,} bytes), loaded"
        cases.append((name, load_edit(path, model), first))
    return pd.DataFrame([_use(model, *case, max_new_tokens) for case in cases])


def taken_off(uses: pd.DataFrame, seed: int = 0) -> Estimate:
    """Return the share of the edits of ``uses`` that came off: same weights, same caption."""
    weights = uses["weights before"] == uses["weights undone"]
    return mean_of(weights & (uses["before"] == uses["undone"]), seed)


def kept(uses: pd.DataFrame, edited: pd.DataFrame) -> bool:
    """Say whether the edit that ``uses`` loaded says what ``edited`` has of it."""
    loaded = uses.iloc[-1]
    there = edited["source"] + ARROW + edited["target"] == loaded["concept"]
    return bool((edited.loc[there, "after"] == loaded["edited"]).all() and there.any())


def round_trip(model, edit: Edit) -> tuple[str, str, str]:
    """Install an edit and undo it: hashes of its layers' weights before, with, and after it."""
    layers = sorted({neuron.layer for neuron in edit.neurons})
    before, added = weights_hash(model, layers), install(model, edit)
    within = weights_hash(model, layers)
    added.undo()
    return before, within, weights_hash(model, layers)


def _use(model, what: str, edit: Edit, finding: Finding, max_new_tokens: int) -> dict[str, Any]:
    """Apply an edit, undo it, and tell what was said and what the weights were."""
    prompt = model.prompt([finding.photograph.open()])
    options = {"max_new_tokens": max_new_tokens, "allow_empty": edit.empty}
    with apply(model, edit, prompt=prompt, **options) as receipt:
        pass
    return {
        "edit": what,
        "concept": ARROW.join(finding.concept),
        "neurons": len(edit.neurons),
        "before": receipt.caption_before[0],
        "edited": NO_EDIT if edit.empty else receipt.caption_after[0],
        "target said": says(receipt.caption_after[0], finding.word),
        "undone": generate(model, prompt, max_new_tokens)[0].text,
        "weights before": receipt.weights_before,
        "weights edited": receipt.weights_within,
        "weights undone": receipt.weights_after,
    }
