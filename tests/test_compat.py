"""torchvision can be imported beside a CPU-only torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from mmn_utils import compat


def test_operators_are_there_and_declared_once():
    import torchvision  # noqa: F401

    assert all(hasattr(torch.ops.torchvision, name) for name in compat.SCHEMAS)
    assert compat.declare_missing_operators() == []
    assert not any(isinstance(finder, compat._BeforeTorchvision) for finder in sys.meta_path)


@pytest.mark.parametrize("first", ["torchvision", "torch, torchvision.transforms"])
def test_importing_the_package_is_enough(first):
    code = f"import mmn_utils, sys; assert 'torch' not in sys.modules; import {first}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)
