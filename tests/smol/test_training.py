"""Training of smol's projection: loss and gradient, what a step shows, resuming, what is kept."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from mmn_utils.smol import training as module
from mmn_utils.smol.photographs import Shown
from mmn_utils.smol.training import (
    CAPTION_LENGTH,
    Draws,
    Later,
    Options,
    caption_ids,
    caption_loss,
    chances_of,
    fast_type,
    marked,
    new_projection,
    record_of,
    save_projection,
    train_projection,
)
from mmn_utils.smol.views import VIEWS
from mmn_utils.training.features import FeatureStore, statistics
from mmn_utils.training.loop import Schedule
from tests.smol.sets import WIDTH, tiny_language
from tests.tiny import tiny_tokenizer

SAID = ("a horse", "a dog and a cat on the grass", "two horses near a red barn", "a boat")
SHOWN = [
    Shown(f"{i}.jpg", "caltech101" if i < 6 else "flickr", (SAID[i % 4], SAID[(i + 1) % 4]))
    for i in range(8)
]
SHORT = Options(steps=6, batch=4, part=2, marks=(2, 4), shown=None, dropout=0)


@pytest.fixture(scope="module")
def language():
    return tiny_language()


@pytest.fixture(scope="module")
def store() -> FeatureStore:
    rng = np.random.default_rng(0)
    return statistics((3 + 2 * rng.standard_normal((8 * VIEWS, 9, WIDTH))).astype(np.float16))


@pytest.fixture
def examples():
    """Image tokens of three captions of different lengths, and their labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 300, (3, 5), generator=generator)
    labels[0, 4:] = labels[2, 2:] = -100
    return torch.randn(3, 9, 32, generator=generator), labels


# --- the loss -----------------------------------------------------------------------------


@torch.no_grad()
def test_the_loss_is_transformers_own_of_each_caption_weighed_by_its_tokens(language, examples):
    soft, labels = examples
    prefix = tiny_tokenizer().encode("A picture of")
    total = 0.0
    for one, ids in zip(soft, labels, strict=True):
        said = ids[ids >= 0]
        words = language.model.embed_tokens(torch.cat([torch.tensor(prefix), said]))
        wanted = torch.cat([torch.full((9 + len(prefix),), -100), said])
        own = language(inputs_embeds=torch.cat([one, words])[None], labels=wanted[None])
        total += own.loss * len(said)
    found = caption_loss(language, prefix, soft, labels)
    torch.testing.assert_close(found, total / (4 + 5 + 2), atol=1e-5, rtol=1e-5)


def test_the_gradient_of_a_weight_is_the_slope_of_the_loss(language, examples):
    precise, labels = tiny_language().double(), examples[1]
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(3, 9, WIDTH, dtype=torch.float64, generator=generator)
    weight = torch.randn(32, WIDTH, dtype=torch.float64, generator=generator, requires_grad=True)

    def loss(weight):
        return caption_loss(precise, [5, 6], features @ weight.T, labels)

    (gradient,) = torch.autograd.grad(loss(weight), weight)
    step = torch.zeros_like(weight)
    step[7, 3] = 1e-3  # the loss itself is taken in float32
    slope = (loss(weight + step) - loss(weight - step)) / 2e-3
    assert abs(gradient[7, 3]) > 1e-3
    assert slope.item() == pytest.approx(gradient[7, 3].item(), rel=1e-2)
    assert not any(parameter.requires_grad for parameter in language.parameters())


@torch.no_grad()
def test_what_stands_behind_a_caption_changes_nothing(language, examples):
    soft, labels = examples
    longer = torch.cat([labels, torch.full((3, 4), -100)], 1)
    torch.testing.assert_close(
        caption_loss(language, [5], soft, longer), caption_loss(language, [5], soft, labels)
    )


def test_captions_begin_with_a_blank_and_end_with_full_stop_and_end_of_text():
    tokenizer = tiny_tokenizer()
    long = Shown("a.jpg", "b", (" and".join([" a horse"] * 12).strip(),))
    found = caption_ids([SHOWN[0], long], tokenizer)
    assert found[0][0] == [*tokenizer.encode(" a horse."), tokenizer.eos_token_id]
    assert tokenizer.decode(found[0][1][:-1]) == " a dog and a cat on the grass."
    assert len(found[1][0]) == CAPTION_LENGTH
    assert tokenizer.eos_token_id not in found[1][0]


# --- what a step shows ----------------------------------------------------------------------


def drawn(options: Options = SHORT, shown=SHOWN) -> Draws:
    return Draws(shown, caption_ids(shown, tiny_tokenizer()), 9, options)


def test_draws_depend_on_seed_and_step_alone():
    draws = drawn()
    rows, labels, patches = draws.at(3)
    draws.at(4)
    again = drawn().at(3)
    assert np.array_equal(rows, again[0])
    assert torch.equal(labels, again[1])
    assert patches is None
    others = (draws.at(4), drawn(replace(SHORT, seed=1)).at(3))
    assert all(not np.array_equal(rows, other[0]) for other in others)


def test_a_row_has_a_view_and_a_caption_of_one_photograph():
    draws, views = drawn(), set()
    for step in range(200):
        rows, labels, _ = draws.at(step)
        for row, ids in zip(rows, labels, strict=True):
            assert ids[ids >= 0].tolist() in draws.captions[row // VIEWS]
            assert (ids[(ids >= 0).sum() :] == -100).all()
            views.add(int(row))
    assert views == set(range(8 * VIEWS))


def test_some_image_tokens_are_drawn_anew_each_step_in_their_order():
    draws = drawn(replace(SHORT, shown=4))
    found = np.stack([draws.at(step)[2] for step in range(400)])
    assert (np.diff(found) > 0).all()
    counts = np.bincount(found.flatten(), minlength=9)
    assert counts.min() > 130  # of 178 expected; a binomial's deviation is 10
    assert counts.max() < 226


def test_features_are_dropped_by_photograph_and_keep_their_mean():
    assert drawn().kept(0, 50) is None
    draws = drawn(replace(SHORT, dropout=0.2, batch=16))
    kept = torch.cat([draws.kept(step, 50) for step in range(50)])
    assert kept.shape == (800, 1, 50)
    assert set(kept.unique().tolist()) == {0.0, 1.25}
    assert kept.mean() == pytest.approx(1, abs=0.01)  # of 40,000 draws: a deviation is .0025
    assert torch.equal(kept[16:32], draws.kept(1, 50))
    assert not torch.equal(kept[:16], kept[16:32])


def test_a_step_learns_nothing_from_features_that_it_drops(language, store, tmp_path, monkeypatch):
    options = replace(SHORT, steps=1, dropout=0.5, weight_decay=0)
    only_first = torch.zeros(4, 1, WIDTH)
    only_first[..., 0] = 2
    monkeypatch.setattr(Draws, "kept", lambda *_: only_first)
    weights = train(language, store, tmp_path, options)
    change = weights["weight"] - module.fold(new_projection(store, language, 0), store)["weight"]
    assert change[:, 0].abs().max() > 1e-4
    torch.testing.assert_close(change[:, 1:], torch.zeros_like(change[:, 1:]), atol=1e-7, rtol=0)


def test_sets_have_their_shares_and_photographs_of_a_set_are_alike():
    draws = drawn(replace(SHORT, shares=(("caltech101", 0.3), ("flickr", 0.7)), batch=16))
    photographs = np.concatenate([draws.at(step)[0] // VIEWS for step in range(250)])
    counts = np.bincount(photographs, minlength=8) / len(photographs)
    expected = [0.05] * 6 + [0.35] * 2  # 4,000 draws: deviations are .0034 and .0075
    np.testing.assert_allclose(counts, expected, atol=0.03)
    np.testing.assert_allclose(draws.chances, expected)


def test_sets_that_are_not_named_share_the_rest_and_those_not_there_leave_theirs():
    three = [*SHOWN, Shown("8.jpg", "mine", ("a boat",))]
    options = replace(SHORT, shares=(("caltech101", 0.6), ("imagenette", 0.2)))
    np.testing.assert_allclose(chances_of(three, options), [0.1] * 6 + [0.1] * 2 + [0.2])
    only = [one for one in SHOWN if one.source == "flickr"]
    np.testing.assert_allclose(chances_of(only, Options()), [0.5, 0.5])


def test_a_set_without_any_share_is_refused():
    three = [*SHOWN, Shown("8.jpg", "mine", ("a boat",))]
    full = replace(SHORT, shares=(("caltech101", 0.6), ("flickr", 0.4)))
    with pytest.raises(ValueError, match=r"no share is left for mine: .*--shares"):
        chances_of(three, full)


# --- training ---------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    schedule = partial(Schedule, save_every=2)
    monkeypatch.setattr(module, "Schedule", schedule)


def train(language, store, work, options=SHORT, shown=SHOWN):
    return train_projection("toy", language, tiny_tokenizer(), store, shown, options, work)


def test_a_resumed_training_ends_with_the_projection_of_an_uninterrupted_one(
    language, store, tmp_path, monkeypatch
):
    before = {name: value.clone() for name, value in language.state_dict().items()}
    whole = train(language, store, tmp_path / "whole")
    at = Draws.at

    def killed(self, step):
        if step == 5:
            raise KeyboardInterrupt
        return at(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Draws, "at", killed)
        with pytest.raises(KeyboardInterrupt):
            train(language, store, tmp_path / "halves")
    assert torch.load(tmp_path / "halves" / "toy.pt", weights_only=True)["step"] == 4
    halves = train(language, store, tmp_path / "halves")
    fresh = module.fold(new_projection(store, language, 0), store)
    for key in ("weight", "bias"):
        assert torch.equal(whole[key], halves[key])
        assert not torch.equal(whole[key], fresh[key])
    assert all(torch.equal(before[name], value) for name, value in language.state_dict().items())


def test_training_lowers_the_loss(language, store, tmp_path):
    options = replace(SHORT, steps=80, batch=8, part=8, rate=1e-2)
    draws, prefix = drawn(options), tiny_tokenizer().encode("A picture of")

    @torch.no_grad()
    def loss(weights):
        total = 0.0
        for step in range(500, 510):
            rows, labels, _ = draws.at(step)
            raw = torch.from_numpy(store.values[rows]).float()
            soft = raw @ weights["weight"].T + weights["bias"]
            total += caption_loss(language, prefix, soft, labels).item() / 10
        return total

    fresh = module.fold(new_projection(store, language, 0), store)
    assert loss(train(language, store, tmp_path, options)) < 0.8 * loss(fresh)


def test_the_size_of_the_parts_does_not_change_what_is_learnt(language, store, tmp_path):
    found = [
        train(language, store, tmp_path / str(part), replace(SHORT, part=part)) for part in (1, 4)
    ]
    for key in ("weight", "bias"):
        torch.testing.assert_close(found[0][key], found[1][key], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("part", [1, 3, 4])
def test_a_step_minimises_the_loss_of_its_whole_batch(language, store, tmp_path, part):
    options = replace(SHORT, steps=1, part=part)
    train(language, store, tmp_path, options)
    (row,) = csv.DictReader((tmp_path / "toy.csv").read_text().splitlines())
    rows, labels, _ = drawn(options).at(0)
    with torch.no_grad():
        soft = new_projection(store, language, 0)(store.batch(rows))
        prefix = tiny_tokenizer().encode("A picture of")
        expected = caption_loss(language, prefix, soft, labels).item()
    assert len(set((labels >= 0).sum(1).tolist())) > 1  # captions of different lengths
    assert float(row["loss"]) == pytest.approx(expected, abs=2e-5)


def test_states_on_the_way_are_kept(language, store, tmp_path):
    weights = train(language, store, tmp_path)
    assert [steps for steps, _ in marked(tmp_path, "toy")] == [2, 4]
    (tmp_path / "toy_other-3.safetensors").touch()  # of another training
    files = [file for _, file in marked(tmp_path, "toy")]
    assert [file.name for file in files] == ["toy-2.safetensors", "toy-4.safetensors"]
    # the state after two steps is where a checkpoint of two steps stands
    two = train(language, store, tmp_path / "b", replace(SHORT, marks=(2, 5)))
    states = [load_file(file) for file in files]
    again = load_file(tmp_path / "b" / "toy-2.safetensors")
    assert torch.equal(states[0]["weight"], again["weight"])
    assert torch.equal(two["weight"], weights["weight"])
    assert not torch.equal(states[0]["weight"], states[1]["weight"])
    assert not torch.equal(states[1]["weight"], weights["weight"].half())


# --- two stages -------------------------------------------------------------------------------

LATER = Later(4, 5e-3, (("caltech101", 0.9), ("flickr", 0.1)))
TWO = replace(SHORT, later=LATER)


def test_a_later_stage_goes_on_from_where_the_first_one_ends(language, store, tmp_path):
    alone = train(language, store, tmp_path / "alone")
    both = train(language, store, tmp_path / "both", TWO)
    assert [steps for steps, _ in marked(tmp_path / "both", "toy")] == [2, 4, 6]
    between = load_file(tmp_path / "both" / "toy-6.safetensors")
    assert torch.equal(between["weight"], alone["weight"].half())
    assert not torch.equal(both["weight"], alone["weight"])
    still = replace(TWO, later=replace(LATER, rate=0.0))
    unmoved = train(language, store, tmp_path / "still", still)
    assert torch.equal(unmoved["weight"], alone["weight"])


def test_a_later_stage_shows_other_photographs_by_its_own_shares():
    first, later = TWO.stages()
    assert (first.shares, later.shares) == (SHORT.shares, LATER.shares)
    assert (later.steps, later.rate, later.marks) == (4, 5e-3, ())
    assert not np.array_equal(drawn(first).at(0)[0], drawn(later).at(0)[0])
    even = (("caltech101", 0.5), ("flickr", 0.5))
    assert [stage.shares for stage in TWO.with_shares(even).stages()] == [even, even]
    assert (TWO.total, SHORT.total) == (10, 6)
    assert SHORT.stages() == [SHORT]


def test_a_later_stage_is_resumed_and_belongs_to_its_first(language, store, tmp_path, monkeypatch):
    whole = train(language, store, tmp_path / "whole", TWO)
    at = Draws.at

    def killed(self, step):
        if step == 3 and self.options.seed == TWO.seed + 1:
            raise KeyboardInterrupt
        return at(self, step)

    work = tmp_path / "halves"
    with monkeypatch.context() as patch:
        patch.setattr(Draws, "at", killed)
        with pytest.raises(KeyboardInterrupt):
            train(language, store, work, TWO)
    assert torch.load(work / "toy_later.pt", weights_only=True)["step"] == 2
    assert torch.equal(train(language, store, work, TWO)["weight"], whole["weight"])
    (work / "toy.pt").unlink()  # another first stage, whose end the later one has not begun with
    with pytest.raises(ValueError, match=r"toy_later\.pt was made with other .*move it away"):
        train(language, store, work, replace(TWO, rate=1e-2))


def test_a_checkpoint_of_something_else_is_refused(language, store, tmp_path):
    train(language, store, tmp_path)
    other = tiny_language()
    with torch.no_grad():
        other.lm_head.weight[0, 0] += 1
    shifted = replace(store, mean=store.mean + 1)
    said = [replace(SHOWN[0], captions=("a bird",)), *SHOWN[1:]]
    for wrong in (
        {"options": replace(SHORT, seed=1)},
        {"options": replace(SHORT, steps=8)},
        {"shown": said},
        {"store": shifted},
        {"language": other},
    ):
        with pytest.raises(ValueError, match=r"toy\.pt was made with other .*move it away"):
            train(**{"language": language, "store": store, "work": tmp_path, **wrong})
    (tmp_path / "toy.pt").unlink()
    train(language, store, tmp_path, replace(SHORT, marks=(3,)))
    assert [steps for steps, _ in marked(tmp_path, "toy")] == [3]  # the earlier ones are gone


def test_an_untrained_projection_gives_tokens_as_large_as_words(language, store):
    first, again, other = (new_projection(store, language, seed) for seed in (4, 4, 5))
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)
    soft = first(store.batch(np.arange(32))).detach()
    words = language.model.embed_tokens.weight
    assert soft.pow(2).mean().sqrt() / words.pow(2).mean().sqrt() == pytest.approx(1, abs=0.3)


# --- what is saved ------------------------------------------------------------------------------


def test_what_is_saved_is_half_precision_and_says_how_it_was_trained(language, store, tmp_path):
    weights = module.fold(new_projection(store, language, 0), store)
    file = tmp_path / "projection.safetensors"
    save_projection(file, weights, record_of(SHORT, language, SHOWN))
    stored = load_file(file)
    assert {key: tuple(value.shape) for key, value in stored.items()} == {
        "weight": (32, WIDTH),
        "bias": (32,),
    }
    assert torch.equal(stored["weight"], weights["weight"].half())
    with safe_open(file, "pt") as opened:
        record = json.loads(opened.metadata()["training"])
    assert record["photographs"] == {"caltech101": 6, "flickr": 2}
    assert (record["dtype"], record["steps"], record["marks"]) == ("float32", 6, [2, 4])


def test_what_half_precision_cannot_hold_is_kept_in_single(tmp_path):
    weights = {"weight": torch.full((2, 3), 1e6), "bias": torch.zeros(2)}
    save_projection(tmp_path / "a.safetensors", weights, {})
    kept = load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(kept[key], value) for key, value in weights.items())
    save_projection(tmp_path / "b.safetensors", {**weights, "weight": torch.ones(2, 3)}, {})
    assert load_file(tmp_path / "b.safetensors")["weight"].dtype == torch.float16
    infinite = {**weights, "weight": torch.full((2, 3), torch.inf)}
    with pytest.raises(ValueError, match=r"c\.safetensors: weight is not finite"):
        save_projection(tmp_path / "c.safetensors", infinite, {})
    assert not (tmp_path / "c.safetensors").exists()


@pytest.mark.parametrize(("avx", "amx"), [(False, False), (True, False), (False, True)])
def test_the_fast_type_is_what_the_processor_multiplies_fast(monkeypatch, avx, amx):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert fast_type() == (torch.bfloat16 if avx or amx else torch.float32)
