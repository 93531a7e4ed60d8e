"""torchvision can be imported beside a CPU-only torch."""

from __future__ import annotations

import subprocess
import sys

import torch

from mmn_utils import compat


def test_operators_are_there_and_declared_once():
    import torchvision  # noqa: F401  # here, where torch was loaded long before

    assert all(hasattr(torch.ops.torchvision, name) for name in compat.SCHEMAS)
    assert compat.declare_missing_operators() == []
    assert not any(isinstance(finder, compat._BeforeTorchvision) for finder in sys.meta_path)


def test_importing_the_package_is_enough():
    code = "import mmn_utils, sys; assert 'torch' not in sys.modules; import torchvision"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)


def test_a_package_can_be_unavailable_for_a_while():
    code = (
        "import sys; from mmn_utils.compat import unavailable\n"
        "with unavailable('rfc3987_syntax'):\n"
        "    import jsonschema\n"
        "assert 'rfc3987_syntax' not in sys.modules\n"
        "import rfc3987_syntax as first\n"
        "with unavailable('rfc3987_syntax'):\n"
        "    import rfc3987_syntax as second\n"
        "assert first is second\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)


def test_a_run_compiles_no_grammar_of_addresses():
    code = (
        "import sys; from mmn_utils.running.run import check\n"
        "check('01_projection_decoding', 'ci')\n"
        "assert 'papermill' in sys.modules\n"
        "assert not {'rfc3987_syntax', 'matplotlib', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=240)
