"""Edits over many images: roles, values by hand, and captions made once."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mmn_utils.datasets import Photograph
from mmn_utils.interventions.concept import Concept
from mmn_utils.interventions.edit import combine
from mmn_utils.interventions.editing import make_edit
from mmn_utils.models.base import state_hash
from mmn_utils.neurons.captions import Caption
from mmn_utils.neurons.targets import teacher_forced
from mmn_utils.studies import edits as study
from tests.interventions.planted import neuron, picture, planted, target
from tests.tiny import tiny_tokenizer

QUIET = {"progress": False}
SHOWN = [("a", "horse", 0), ("b", "horse", 2), ("c", "boat", 0), ("d", "horses", 0),
         ("e", "boat", 1)]  # fmt: skip


@pytest.fixture(scope="module")
def system():
    return planted()


@pytest.fixture(scope="module")
def cat(system):
    return make_edit(system, [picture("horse")], [target("horse", "a")], "cat", [neuron("horse")])


@pytest.fixture
def photographs(tmp_path):
    found = []
    for name, word, shade in SHOWN:
        path = tmp_path / f"{name}.png"
        picture(word, shade).save(path)
        found.append(Photograph(name, path))
    return found


@pytest.fixture
def before(system, cat, photographs):
    return study.outcomes.before_edit(system, photographs, cat.concepts, max_new_tokens=4, **QUIET)


def test_photographs_get_their_roles(before):
    rows = before.rows.set_index("image")
    assert rows["role"].to_dict() == {
        "a": "edited", "b": "same", "c": "other", "d": "near", "e": "other",
    }  # fmt: skip
    assert rows["step"].tolist() == [0, 0, -1, -1, -1]
    assert rows.loc["a", "token"] == target("horse").token
    assert (rows["margin"].dropna() < 0).all()
    assert rows["margin"].isna().tolist() == [False, False, True, True, True]


def test_a_planted_edit_has_every_virtue(system, cat, before):
    weights = state_hash(system.language_model)
    table = study.outcomes.evaluate(system, cat, before, **QUIET).set_index("image")
    assert table["after"].tolist() == [
        "cat grass", "cat grass", "boat grass", "horses grass", "boat grass",
    ]  # fmt: skip
    for column in ("swapped", "exact"):
        assert table[column].tolist()[:2] == [1.0, 1.0]
        assert table[column].isna().tolist() == [False, False, True, True, True]
    assert table["kept"].tolist() == [1.0] * 5
    assert table["unchanged"].tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]
    assert (table["margin_after"].dropna() > 0).all()
    summary = study.outcomes.summarise(table.reset_index()).set_index("measure")
    assert summary["mean"].to_dict() == dict.fromkeys(study.outcomes.MEASURES, 1.0)
    assert summary["n"].to_dict() == {
        "efficacy": 1, "generality": 1, "locality": 2, "fluency": 2, "exact": 2,
    }  # fmt: skip
    assert state_hash(system.language_model) == weights


def test_margins_are_those_of_the_step(system, cat, before, photographs):
    prompt = system.prompt([photographs[1].open()])
    logits, _ = system.forward(teacher_forced(system, prompt, [()]))
    expected = logits[0, cat.concepts[0].tokens[0]] - logits[0, target("horse").token]
    assert before.rows["margin"][1] == pytest.approx(float(expected), rel=1e-4)


def test_several_concepts_are_judged_each(system, cat, photographs):
    dog = make_edit(system, [picture("boat")], [target("boat", "c")], "dog", [neuron("boat")])
    both = combine([cat, dog])
    before = study.outcomes.before_edit(
        system, photographs, both.concepts, max_new_tokens=4, **QUIET
    )
    roles = before.rows.pivot(index="image", columns="source", values="role")
    assert roles["horse"].tolist() == ["edited", "same", "near", "near", "near"]
    assert roles["boat"].tolist() == ["near", "near", "edited", "near", "same"]
    summary = study.outcomes.summarise(study.outcomes.evaluate(system, both, before, **QUIET))
    assert set(summary["source"]) == {"horse", "boat"}
    assert (summary["mean"] == 1).all()
    assert "locality" not in set(summary["measure"])  # no image without any of the words


def test_captions_before_are_made_once(system, cat, before, photographs, monkeypatch):
    asked = []
    real = study.outcomes.captions_of

    def counting(model, *arguments, **options):
        asked.append(model.revision)
        return real(model, *arguments, **options)

    monkeypatch.setattr(study.outcomes, "captions_of", counting)
    table = pd.concat(
        [
            study.outcomes.evaluate(system, cat.scaled(strength), before, **QUIET).assign(
                strength=strength
            )
            for strength in (0.0, 0.05, 1.0)
        ]
    )
    assert len(asked) == 3
    assert system.revision not in asked
    assert table.groupby("strength")["swapped"].mean().tolist() == [0.0, 0.0, 1.0]
    assert table.groupby("strength")["unchanged"].mean().tolist() == [1.0, 1.0, 0.6]
    margins = table.groupby("strength")["margin_after"].mean()
    assert margins.is_monotonic_increasing
    zero = table[table["strength"] == 0]
    np.testing.assert_allclose(zero["margin_after"], zero["margin_before"], rtol=1e-5)
    summary = study.outcomes.summarise(table, ["strength"])
    efficacy = summary[summary["measure"] == "efficacy"].set_index("strength")["mean"]
    assert efficacy.to_dict() == {0.0: 0.0, 0.05: 0.0, 1.0: 1.0}


def test_another_models_captions_are_refused(system, cat, before):
    dog = make_edit(system, [picture("boat")], [target("boat", "c")], "dog", [neuron("boat")])
    with pytest.raises(ValueError, match=r"'boat' into 'dog'.*'horse' into 'cat'"):
        study.outcomes.evaluate(system, dog, before, **QUIET)
    with study.outcomes.apply(system, dog), pytest.raises(ValueError, match="undo its edits"):
        study.outcomes.evaluate(system, cat, before, **QUIET)


def test_a_word_turns_into_one_other(cat):
    one = cat.concepts[0]
    more = Concept(one.source, one.target, one.tokens, ("b", "a"))
    assert study.outcomes._merged([one, more])[0].images == ("a", "b")
    with pytest.raises(ValueError, match="one other only"):
        study.outcomes._merged([one, Concept("Horse", "dog", (3,), ("a",))])
    with pytest.raises(ValueError, match="no concepts"):
        study.outcomes._merged([])


# --- single values, by hand -----------------------------------------------------------------


def judged(before: str, after: str, role: str = "same") -> dict[str, float]:
    row = SimpleNamespace(before=before, after=after, role=role, source="horse", target="cat")
    return study.outcomes._judge(row)


@pytest.mark.parametrize(
    ("after", "swapped", "exact", "kept"),
    [
        ("a cat near a red barn", 1, 1, 1),
        ("A cat near a red barn.", 1, 0, 1),
        ("a horse near a red barn", 0, 0, 1),
        ("a cat and a horse", 0, 0, None),
        ("a dog near a red barn", 0, 0, 10 / 12),
        ("a cat near a barn", 1, 0, 10 / 11),
        ("catcatcat", 0, 0, 0),
        ("", 0, 0, 0),
    ],
)
def test_captions_are_judged(after, swapped, exact, kept):
    found = judged("a horse near a red barn", after)
    assert found["swapped"] == swapped
    assert found["exact"] == exact
    if kept is not None:
        assert found["kept"] == pytest.approx(kept)
    assert found["unchanged"] == (after == "a horse near a red barn")


def test_other_images_are_not_asked_for_a_swap():
    found = judged("a red barn", "a red barn", "other")
    assert np.isnan(found["swapped"])
    assert np.isnan(found["exact"])
    assert found["unchanged"] == found["kept"] == 1


def test_words_are_replaced_as_a_whole():
    assert (
        study.outcomes.replace_word("Horse of horses, a horse", "horse", "cat")
        == "cat of horses, a cat"
    )
    assert study.outcomes.replace_word("a horse", "horse", r"\1") == r"a \1"


@pytest.mark.parametrize("text", [" a red horse near the house", " Horse and horse"])
def test_a_words_step_begins_it(text):
    tokenizer = tiny_tokenizer()
    ids = tuple(tokenizer.encode(text))
    step, token = study.outcomes.find_word(
        SimpleNamespace(tokenizer=tokenizer), Caption(text, ids), "horse"
    )
    assert ids[step] == token
    place = text.lower().index("horse")
    assert len(tokenizer.decode(ids[:step])) <= place < len(tokenizer.decode(ids[: step + 1]))
    nothing = study.outcomes.find_word(
        SimpleNamespace(tokenizer=tokenizer), Caption(text, ids), "boat"
    )
    assert nothing == (-1, -1)


def test_summaries_have_an_interval_of_their_images():
    swapped = [0.0, 1.0, 1.0, 1.0]
    table = pd.DataFrame({"source": "horse", "target": "cat", "role": "same", "swapped": swapped})
    table = table.assign(kept=1.0, exact=0.0, unchanged=0.0, image=list("abcd"))
    found = study.outcomes.summarise(table).set_index("measure").loc["generality"]
    assert found["mean"] == 0.75
    assert found["low"] < 0.75 < found["high"]
    assert found["n"] == 4
    twice = (
        study.outcomes.summarise(table.assign(image=list("aabb")))
        .set_index("measure")
        .loc["generality"]
    )
    assert (twice["mean"], twice["n"]) == (0.75, 2)
