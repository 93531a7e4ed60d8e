"""Tables of edits, laid out as paper B's are: captions before and after."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch

from mmn_utils.interventions.concept import word_tokens
from mmn_utils.interventions.edit import Edit, apply, combine, install, load_edit, save_edit
from mmn_utils.interventions.editing import Settings
from mmn_utils.interventions.joint import JointSettings
from mmn_utils.interventions.receipts import weights_hash
from mmn_utils.neurons.captions import generate
from mmn_utils.neurons.decoding import SIGN, Signed, write_vectors
from mmn_utils.neurons.table import address
from mmn_utils.neurons.text import says
from mmn_utils.studies.edits.findings import Finding, tokens_of
from mmn_utils.studies.edits.making import closed_against_steps, edit_of, edits_of
from mmn_utils.studies.edits.outcomes import EDITED, OTHER, SAME
from mmn_utils.studies.edits.trials import Ground

NO_EDIT = "(no edit: g below beta)"
ARROW = " → "
APART = ("method", "neurons", "strength")
ROWS = ("image", "source", "target", "role", "after")
ROWS += ("swapped", "exact", "kept", "unchanged", "norm")


def edited(model, ground: Ground, findings: Sequence[Finding], settings: Settings) -> pd.DataFrame:
    """Try the edit of each finding on its own photograph: the rows of paper B's Table 6.

    ``g`` is the largest pull; ``dw`` the mean length of what is added over that of the write
    vectors; ``steps`` how far the closed form lies from Algorithm 1's steps, NaN for an edit
    that comes out as zero. ``neurons``, with the signs of their activations, and how many of
    them are ``negative``. Captions ``before`` and ``after``; ``swapped``: the target is said
    and the source no more.
    """
    edits = edits_of(model, findings, settings, batch_size=ground.batch_size)
    images = [finding.photograph.id for finding in findings]
    said = dict(zip(ground.drafts.images, ground.drafts.captions, strict=True))
    after = [caption.text for caption in ground.captions(model, edits, images)]
    words = [finding.concept for finding in findings]
    return pd.DataFrame(
        {
            "image": images,
            "source": [source for source, _ in words],
            "target": [target for _, target in words],
            "g": [max(edit.pulls) for edit in edits],
            "dw": [_relative(model, edit) for edit in edits],
            "steps": closed_against_steps(model, findings, settings),
            "neurons": [_with_signs(model, one.signed) for one in findings],
            "negative": [sum(sign < 0 for _, sign in one.signed) for one in findings],
            "before": [said[image].text for image in images],
            "after": after,
            "swapped": [
                says(text, target) and not says(text, source)
                for text, (source, target) in zip(after, words, strict=True)
            ],
        }
    )


def _relative(model, edit: Edit) -> float:
    """Return the length of dw over that of its write vector, in the mean of an edit's neurons."""
    return float((edit.norms / write_vectors(model, edit.neurons).float().norm(dim=1).cpu()).mean())


def _with_signs(model, pairs: Iterable[Signed]) -> str:
    return " ".join(f"{address(model, neuron)}{SIGN[sign]}" for neuron, sign in pairs)


def _reached(model, neurons, vectors: torch.Tensor) -> torch.Tensor:
    """Turn vectors (n, d) that neurons write into what of them reaches the residual stream."""
    vectors = vectors.to(model.device)
    rows = zip(neurons, vectors, strict=True)
    return torch.stack([model.reached(n.layer, row[None])[0] for n, row in rows]).cpu()


def written(model, finding: Finding, edit: Edit, k: int = 5) -> pd.DataFrame:
    """Name the tokens that each neuron of an edit raises most where it was found, and with it.

    The sign is that of the activation there, and what is decoded the vector times it.
    """
    vectors = write_vectors(model, finding.neurons).float().cpu()
    signs = torch.tensor([[float(sign)] for _, sign in finding.signed])
    ends = (_reached(model, finding.neurons, some) for some in (vectors, vectors + edit.deltas))
    before, after = (tokens_of(model, signs * some, k) for some in ends)
    return pd.DataFrame(
        {
            "neuron": [address(model, neuron) for neuron in finding.neurons],
            "sign": [SIGN[sign] for _, sign in finding.signed],
            "writes there": list(map(_listed, before)),
            "with dw": list(map(_listed, after)),
        }
    )


def _listed(tokens: Sequence[str]) -> str:
    return ", ".join(token.strip() or "(blank)" for token in tokens)


def captions(table: pd.DataFrame) -> pd.DataFrame:
    """Lay rows of ``edited`` out for readers; an edit of nothing says so in ``after``."""
    shown = table.drop(columns=["steps", "neurons", "negative"]).assign(
        after=table["after"].where(table["dw"] > 0, NO_EDIT),
    )
    return shown.rename(columns={"dw": "dw / write vector"})


def rows_of(trials: pd.DataFrame) -> pd.DataFrame:
    """Keep of trials what their means are of, and what sets them apart (``APART``).

    ``way`` names a method in one word.
    """
    rows = trials[[name for name in (*APART, *ROWS) if name in trials]]
    if "method" in rows:
        rows = rows.assign(method=rows["method"].str.lower().str.replace(" ", "_"))
    return rows.rename(columns={"method": "way"})


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
    the layers' weights at the same three times; ``off``: both were afterwards what they had
    been. An edit of several tokens that comes out as zero says so. Of a single finding there
    are no two concepts. ``ValueError`` where ``long_word`` is one token only.
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
    prompt = model.prompt([finding.photograph.open()]).named([finding.photograph.id])
    options = {"max_new_tokens": max_new_tokens, "allow_empty": edit.empty}
    with apply(model, edit, prompt=prompt, **options) as receipt:
        pass
    again = generate(model, prompt, max_new_tokens)[0]
    before, undone = receipt.caption_before[0], again.text
    return {
        "edit": what,
        "concept": ARROW.join(finding.concept),
        "neurons": len(edit.neurons),
        "before": before,
        "edited": NO_EDIT if edit.empty else receipt.caption_after[0],
        "target said": says(receipt.caption_after[0], finding.word),
        "undone": undone,
        "weights before": receipt.weights_before,
        "weights edited": receipt.weights_within,
        "weights undone": receipt.weights_after,
        "off": before == undone and receipt.weights_before == receipt.weights_after,
    }
