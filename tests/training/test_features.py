"""Features that are kept: written once or not at all, standardised, and folded away again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmn_utils.training.features import fold, kept, statistics

SHAPE = (5, 4, 3)


def parts() -> list[torch.Tensor]:
    torch.manual_seed(0)
    values = 3 + 2 * torch.randn(SHAPE)
    return [values[:2], values[2:]]


def test_what_is_encoded_part_by_part_is_read_as_a_whole(tmp_path):
    store = kept(tmp_path / "a.npy", SHAPE, parts)
    whole = torch.cat(parts()).half()
    np.testing.assert_array_equal(store.values, whole.numpy())
    assert store.values.dtype == np.float16
    assert store.patches == 4
    torch.testing.assert_close(store.mean, whole.float().flatten(0, 1).mean(0))
    torch.testing.assert_close(store.std, whole.float().flatten(0, 1).std(0), atol=2e-6, rtol=0)


def test_what_is_there_is_not_encoded_again(tmp_path):
    first = kept(tmp_path / "a.npy", SHAPE, parts)
    again = kept(tmp_path / "a.npy", SHAPE, lambda: pytest.fail("encoded again"))
    np.testing.assert_array_equal(again.values, first.values)


def test_a_file_of_another_shape_is_refused(tmp_path):
    kept(tmp_path / "a.npy", SHAPE, parts)
    with pytest.raises(ValueError, match=r"a\.npy holds \(5, 4, 3\), not \(6, 4, 3\): move it"):
        kept(tmp_path / "a.npy", (6, 4, 3), parts)


@pytest.mark.parametrize("count", [4, 6])
def test_too_few_or_too_many_features_leave_no_file(tmp_path, count):
    with pytest.raises(ValueError, match=r"pictures were encoded, not|broadcast"):
        kept(tmp_path / "a.npy", (count, 4, 3), parts)
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_breaks_off_leaves_no_file(tmp_path):
    def broken():
        yield parts()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path / "a.npy", SHAPE, broken)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_is_standardised_and_some_patches_are_a_part_of_all():
    store = statistics(torch.cat(parts()).half().numpy())
    whole = store.batch(np.arange(5))
    torch.testing.assert_close(whole.flatten(0, 1).mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(whole.flatten(0, 1).std(0), torch.ones(3), atol=1e-5, rtol=0)
    rows, patches = np.array([3, 0, 3]), np.array([2, 1])
    assert torch.equal(store.batch(rows, patches), whole[rows][:, patches])


def test_statistics_of_many_pictures_are_those_of_evenly_spread_ones():
    values = np.arange(4500, dtype=np.float16)[:, None, None].repeat(2, 2)
    store = statistics(values)
    expected = torch.from_numpy(values[::2]).float().flatten(0, 1)
    torch.testing.assert_close(store.mean, expected.mean(0))


def test_folding_takes_raw_features_where_they_were_standardised():
    store = statistics(torch.cat(parts()).half().numpy())
    linear = torch.nn.Linear(3, 7)
    folded = fold(linear, store)
    raw = torch.from_numpy(store.values).float()
    found = raw @ folded["weight"].T + folded["bias"]
    torch.testing.assert_close(found, linear(store.batch(np.arange(5))).detach())


def test_a_feature_that_never_changes_is_no_division_by_zero():
    values = torch.cat(parts()).half().numpy()
    values[..., 1] = 2
    batch = statistics(values).batch(np.arange(5))
    assert torch.equal(batch[..., 1], torch.zeros(5, 4))
