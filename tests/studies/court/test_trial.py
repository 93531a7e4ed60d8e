"""The trial on a planted system: who finds what was planted, and what the exact order bounds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from mmn_utils.measures.estimates import mean_of, share_of
from mmn_utils.neurons.together import QUESTIONS
from mmn_utils.studies.court import summary, together, trial
from mmn_utils.studies.court.scores import EXACT, EXACT_LOGIT, scores
from mmn_utils.studies.court.truth import save
from tests.interventions.planted import LAYER, UNITS
from tests.studies.court.conftest import SHOWN

KS = [1, 3, 10, 40]


def test_the_truth_has_the_planted_units_first(court):
    for name, word, _ in SHOWN:
        losses = court.losses(name)["step"]
        assert divmod(int(losses.argmax()), losses.shape[1]) == (LAYER, UNITS[word])


def test_each_score_is_judged_on_each_picture_and_question(court, fields):
    judged = trial.judged(court, fields)
    assert len(judged) == len(SHOWN) * len(QUESTIONS) * len(scores(court.model))
    step = judged[judged["question"] == "step"].groupby("score")["rank"].mean()
    assert step["gradient"] > 0.8
    assert abs(step["random"]) < 0.3
    assert step["gradient"] > step["activation_patches"]
    table = summary.as_table(
        summary.means(judged), trial.costs(court), dict(zip(step.index, step.index, strict=True)),
        {question: question for question in QUESTIONS},
    )  # fmt: skip
    first = table[table["units off"] == "step"].iloc[0]
    assert first["score"] == step.idxmax()


def test_the_exact_orders_curve_bounds_every_other_on_average(court, fields):
    curves = trial.curves(court, fields, KS)
    left = curves.groupby(["question", "score"])["left"].mean()
    for question in QUESTIONS:
        assert (left[question].drop(EXACT) >= left[question, EXACT] - 0.01).all()
    one = curves[curves["k"] == 1].pivot_table("left", ["image", "question"], "score")
    assert (one.drop(columns=EXACT).min(axis=1) >= one[EXACT] - 1e-5).all()  # of one, by logic
    alone = curves[(curves["score"] == EXACT_LOGIT) & (curves["k"] == 1)]
    np.testing.assert_allclose(alone["lost"], alone["alone"], atol=1e-4)
    first = summary.areas(curves)
    assert set(first["place"]) == {"", EXACT, summary.CLOSEST}
    mean = summary.curve_means(curves)
    assert (mean["low"] <= mean["mean"] + 1e-9).all()


def test_interactions_are_joint_less_sum_for_every_pair(court):
    pairs = trial.pairs(court, 6)
    assert len(pairs) == len(SHOWN) * 15
    np.testing.assert_allclose(pairs["interaction"], pairs["joint"] - pairs["sum"], atol=1e-6)
    assert (pairs["first_layer"] <= pairs["second_layer"]).all()
    row = pairs[pairs["image"] == "a"].iloc[0]
    losses = court.losses("a")["all"]
    alone = losses[row.first_layer, row.first_unit] + losses[row.second_layer, row.second_unit]
    assert row["sum"] == pytest.approx(alone, abs=1e-5)


def test_the_last_layer_gives_nothing_back(court):
    repair = trial.repair(court, 5)
    last = repair[repair["layer"] == court.model.sizes.layers - 1]
    assert len(last) == len(SHOWN)
    np.testing.assert_allclose(last["total"], last["direct"], rtol=1e-3)
    back = summary.given_back(repair)
    assert back["mean"].iloc[-1] == pytest.approx(0, abs=1e-3)


def test_pairs_are_told_apart_by_how_they_add_up():
    rows = pd.DataFrame(
        {"image": list("aaaab"), "sum": [1.0, 2, 4, -1, 1], "joint": [0.5, 2.05, 5, 0, 1]}
    )
    rows["interaction"] = rows["joint"] - rows["sum"]
    found = together.additivity(rows).set_index("image")
    assert found.loc["a", ["sub", "super", "additive"]].tolist() == pytest.approx([1 / 3] * 3)
    assert found.loc["a", "kept"] == pytest.approx(7.55 / 7)
    assert found.loc["b", ["additive", "kept"]].tolist() == [1, 1]


def test_costs_are_counted_in_forward_passes(court):
    costs = trial.costs(court, sample=4).set_index("score")["passes"]
    assert costs["activation_patches"] == pytest.approx(1, abs=0.01)
    assert 1 < costs["gradient"] < 3.2
    assert costs["integrated_50"] == pytest.approx(10 * costs["integrated_5"], rel=0.2)
    assert costs["random"] == 0
    units = court.model.sizes.layers * court.model.sizes.units
    assert 0.02 * units < costs[EXACT] < units


def test_the_cost_of_all_units_is_that_of_a_few_more_of_each_layer(court):
    ahead = trial.costs(court, sample=4).set_index("score")["passes"][EXACT]
    model = court.model
    case = trial.cases(model, court.prompts(), court.some.targets)[0]
    with torch.no_grad():
        once = trial.counted(lambda: model.forward(case.prompt))["operations"]
    whole = trial.counted(lambda: trial.exact_losses(model, case.prompt, case.target))
    assert ahead == pytest.approx(whole["operations"] / once, rel=0.05)


def test_a_sample_of_units_is_judged_by_itself(system, some):
    truth = trial.truth_of(system, some, per_layer=9)
    court = trial.Trial.of(system, some, truth, steps=[1, 2])
    paths = [name for name in court.scores if name.startswith("integrated")]
    assert paths == ["integrated_1", "integrated_2"]
    with pytest.raises(ValueError, match=r"steps = \[0\]: give numbers of steps, 1 or more"):
        scores(system, steps=[0])
    for losses in court.truth.values():
        assert (np.isfinite(losses).sum(1) == 9).all()
    curves = trial.curves(court, trial.fields(court), [1, 20])
    assert curves["left"].notna().all()


def test_a_picture_without_a_truth_is_refused(court, some, truth):
    lacking = truth[~((truth["image"] == "d") & (truth["positions"] == "step"))]
    with pytest.raises(ValueError, match="'horses' on 'd', positions 'step'"):
        trial.Trial.of(court.model, some, lacking)
    losses = court.losses("a")["all"]
    prompt = court.prompts().select([1])
    with pytest.raises(ValueError, match="top=1"):
        together.pair_rows(court.model, prompt, some.targets[1], losses, top=1)
    with pytest.raises(ValueError, match="top=0"):
        together.repair_rows(court.model, prompt, some.targets[1], losses, top=0)


def test_the_best_score_and_the_next_of_another_kind_have_their_places():
    values = {"gradient": 0.9, "gradient_b": 0.8, "patching_mean": 0.7, "random": 0.95}
    judged = pd.DataFrame(
        [(str(i), question, score, value) for question in QUESTIONS for i in range(3)
         for score, value in values.items()],
        columns=["image", "question", "score", "rank"],
    )  # fmt: skip
    placed = summary.placed(judged)
    expected = {"best": "gradient", "second": "patching_mean"}
    assert summary.winners(placed) == dict.fromkeys(QUESTIONS, expected)
    assert set(placed.loc[placed["role"] != "", "score"]) == {"gradient"}


def test_the_longest_path_stands_for_all():
    names = ["gradient", "integrated_5", "integrated_50", "integrated_20", "random"]
    judged = pd.DataFrame(
        [(question, name, 1.0) for question in QUESTIONS for name in names],
        columns=["question", "score", "rank"],
    )
    placed = summary.placed(judged)
    roles = dict(zip(placed["score"], placed["role"], strict=True))
    assert {name: role for name, role in roles.items() if role} == {
        "gradient": "gradient", "integrated_50": "integrated",
    }  # fmt: skip
    assert summary.path_of(["gradient", "random"]) == ""


def test_bargains_are_those_that_no_cheaper_score_equals():
    rank = pd.DataFrame(
        [("all", "a", 0.3, 1), ("all", "b", 0.2, 1.5), ("all", "c", 0.9, 2), ("all", "d", 0.905, 5),
         ("all", "random", 0.0, 0), ("step", "a", 0.04, 1), ("step", "random", 0.02, 0)],
        columns=["question", "score", "mean", "passes"],
    )  # fmt: skip
    rank = rank.assign(high=rank["mean"] + 0.02)
    assert summary.bargains(rank) == {"all": ["a", "c"], "step": []}


def test_a_stored_truth_is_read_and_no_sample_of_it(system, some, court, truth, tmp_path):
    for question in QUESTIONS:
        save(truth[truth["positions"] == question], tmp_path / f"truth-{question}.parquet")
    again = trial.Trial.of(system, some, trial.truth_of(system, some, stored=tmp_path))
    for key, losses in court.truth.items():
        np.testing.assert_allclose(again.truth[key], losses, rtol=2.0**-12)
    with pytest.raises(ValueError, match="per_layer = 3"):
        trial.truth_of(system, some, stored=tmp_path, per_layer=3)


def test_of_a_stored_truth_only_the_pictures_asked_for_are_read(system, some, truth, tmp_path):
    for question in QUESTIONS:
        save(truth[truth["positions"] == question], tmp_path / f"truth-{question}.parquet")
    few = trial.truth_of(system, some.select(["b", "d"]), stored=tmp_path)
    assert set(few["image"]) == {"b", "d"}
    assert len(few) == len(truth) / 2


def test_a_stored_truth_of_too_few_pictures_is_refused(system, some, truth, tmp_path):
    some_of = truth[truth["image"].isin(["a", "c"])]
    for question in QUESTIONS:
        part = some_of if question == "step" else truth
        save(part[part["positions"] == question], tmp_path / f"truth-{question}.parquet")
    expected = (
        r"truth-step.parquet has 2 pairs .* not 2 of the 4 that n_images asks for, such as that of "
        r"'d'; lower n_images, store more \(make court SHIP=4\)"
    )
    with pytest.raises(ValueError, match=expected):
        trial.truth_of(system, some, stored=tmp_path)
    assert len(trial.truth_of(system, some.select(["a"]), stored=tmp_path)) == len(truth) / 4
    with pytest.raises(ValueError, match=r"there is no truth in .*make court"):
        trial.truth_of(system, some, stored=tmp_path / "nowhere")


def test_the_table_has_the_numbers_and_intervals_of_claims():
    slope = [0.88, 0.97, 1.0, 1.02, 1.46]
    judged = pd.DataFrame({"question": "all", "score": "gradient", "slope": slope})
    judged = judged.assign(rank=0.9, top_20=1.0, top_100=0.5, signs=0.0)
    found = summary.by_name(summary.means(judged))["all"]["gradient"]
    assert found["slope"] == mean_of(slope)
    assert found["top_20"] == share_of([1.0] * 5)
    assert found["top_20"].low < 1, "five pictures do not say that it is always so"
    curves = pd.DataFrame({"lost": [3.0, 1.0, 2.0], "alone": [2.0, 4.0, 3.0], "k": 10})
    adding = summary.adding_up(curves.assign(score=EXACT_LOGIT, question="all"))
    assert adding["mean"].tolist() == [6 / 9], "pictures count by what they have to lose"


def test_what_is_given_back_has_no_bounds_where_there_is_nothing_to_give():
    repair = pd.DataFrame({"layer": [0, 0, 0, 1, 1, 1], "direct": [2.0, 2.1, 1.9, 1.0, -1.0, 0.1],
                           "total": [1.0, 1.1, 1.0, 1.0, -1.0, 0.1]})  # fmt: skip
    back = summary.given_back(repair).set_index("layer")
    assert back.loc[0, "mean"] == pytest.approx(1 - 3.1 / 6)
    assert back.loc[0, "low"] < back.loc[0, "mean"] < back.loc[0, "high"]
    assert back.loc[1, "mean"] == pytest.approx(0), "the two ways agree"
    assert np.isnan(back.loc[1, "low"])
