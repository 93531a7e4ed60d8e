"""The log of the training."""

from __future__ import annotations

from mmn_utils.miniature.vision.progress import ProgressLog


def test_a_run_that_trains_nothing_adds_nothing_to_the_curve(tmp_path):
    log = ProgressLog(tmp_path / "log.csv", total=10)
    log.write({"patch": 0.5})
    assert not log.path.exists()
    log.note("pixels", 8, 2.5)
    log.write({"patch": 0.5})
    header, row = log.path.read_text().splitlines()
    assert header.split(",") == list(log.FIELDS)
    assert row.startswith("pixels,8,2.5,")
