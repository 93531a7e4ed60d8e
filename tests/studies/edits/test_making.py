"""Edits made in batches, those of nothing, and the closed form against the steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmn_utils.interventions.edit import EmptyEdit
from mmn_utils.interventions.editing import Settings
from mmn_utils.studies import edits as study


def test_edits_found_in_batches_are_those_found_one_by_one(system, findings):
    several = [*findings, findings[0].into("dog"), findings[1].first(1)]
    for settings in (Settings(), Settings("adam", epochs=20), Settings("squared", beta=2.0)):
        together = study.making.edits_of(system, several, settings, batch_size=3)
        for finding, edit in zip(several, together, strict=True):
            alone = study.making.edit_of(system, finding, settings)
            assert (edit.neurons, edit.concepts) == (alone.neurons, alone.concepts)
            torch.testing.assert_close(edit.deltas, alone.deltas, rtol=1e-4, atol=1e-5)
    assert study.making.edits_of(system, [], Settings()) == []


def test_edits_of_nothing_are_an_error_only_together(system, findings):
    with pytest.raises(EmptyEdit, match="Lower beta"):
        study.making.edits_of(system, findings, Settings(beta=1e6))
    pulls = [max(study.making.edit_of(system, f, Settings()).pulls) for f in findings]
    between = Settings(beta=sum(pulls) / 2)
    if min(pulls) < between.beta < max(pulls):
        edits = study.making.edits_of(system, findings, between)
        assert sorted(float(edit.norms.max()) > 0 for edit in edits) == [False, True]


def test_the_closed_form_is_where_the_steps_end(system, findings):
    several = [*findings, findings[0].into("dog")]
    gaps = study.making.closed_against_steps(system, several, Settings(), batch_size=2)
    assert len(gaps) == 3
    assert max(gaps) < 1e-5
    far = study.making.closed_against_steps(system, findings, Settings(epochs=3))
    assert max(far) < 1e-5
    gaps = study.making.closed_against_steps(system, findings, Settings(beta=1e6))
    assert len(gaps) == 2
    assert np.isnan(gaps).all()


def test_an_empty_edit_is_refused_in_words(system, findings):
    for settings in (Settings(), Settings("squared", beta=2.0)):
        said = study.making.refusal(system, findings[0], settings)
        assert "turning 'horse' into 'cat'" in said
        assert "Lower beta" in said
    assert "went through" in study.making.refusal(system, findings[0], Settings(), beta=0.0)
