"""Edits of what was found, many at once, and where their closed form lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import torch

from mmn_utils.interventions.concept import word_tokens
from mmn_utils.interventions.edit import Edit, EmptyEdit
from mmn_utils.interventions.editing import (
    Settings,
    closed_form,
    descend,
    make_edit,
    make_edits,
    pulls_of,
)
from mmn_utils.interventions.joint import JointSettings, joint_edit
from mmn_utils.memory import in_batches
from mmn_utils.studies.edits.findings import Finding, opened


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

        def compute(some: Sequence[Finding]) -> list[Edit]:
            places = _places(some, [finding.word for finding in some])
            return make_edits(model, *places, settings, allow_empty=True)

        edits = list(chain.from_iterable(in_batches(compute, findings, batch_size, "findings")))
    if findings and all(edit.empty for edit in edits):
        edit_of(model, findings[0], settings)  # says why
        raise EmptyEdit("none of the edits changes anything")
    return edits


def _places(findings: Sequence[Finding], words: list) -> tuple[list, list, list, list]:
    """Lay findings out as ``interventions.editing`` takes many: pictures opened, words as given."""
    pictures = opened([finding.photograph for finding in findings])
    targets = [finding.target for finding in findings]
    return pictures, targets, words, [finding.neurons for finding in findings]


def refusal(model, finding: Finding, settings: Settings, beta: float = 1e6) -> str:
    """Ask for an edit with so much beta that it is empty, and return what the error says."""
    method = "closed" if settings.method == "squared" else settings.method  # has no threshold
    try:
        edit_of(model, finding, replace(settings, method=method, beta=beta))
    except EmptyEdit as error:
        return str(error)
    return f"nothing: at beta = {beta:g} the edit went through"


def by_concept(edits: Sequence[Edit]) -> dict[tuple[str, str], Edit]:
    """Name edits of one concept each by their source and target word."""
    return {(edit.concepts[0].source, edit.concepts[0].target): edit for edit in edits}


@torch.no_grad()
def closed_against_steps(
    model, findings: Sequence[Finding], settings: Settings, *, batch_size: int = 16
) -> list[float]:
    """Compare the closed form with Algorithm 1's own steps: largest difference over length.

    For each finding, over its neurons whose pull exceeds beta; NaN where none does. All are
    stepped at once, since neurons do not meet in the loss.
    """

    def compute(some: Sequence[Finding]) -> list[torch.Tensor]:
        words = [word_tokens(model, finding.word) for finding in some]
        return pulls_of(model, *_places(some, words), settings.activation)

    found = list(chain.from_iterable(in_batches(compute, findings, batch_size, "findings")))
    pulls = torch.cat(found)
    numbers = (settings.beta, settings.lr, settings.epochs)
    closed, steps = closed_form(pulls, *numbers), descend(pulls, *numbers)
    gap = (closed - steps).norm(dim=1) / closed.norm(dim=1)
    gap[pulls.norm(dim=1) <= settings.beta] = float("nan")
    parts = gap.split([len(pull) for pull in found])
    return [float(part[~part.isnan()].max()) if (~part.isnan()).any() else np.nan for part in parts]
