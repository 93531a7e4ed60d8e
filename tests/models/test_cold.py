"""What loading a system leaves for those who ask: hashes of files, libraries of other systems."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mmn_utils.models import base, load_model
from mmn_utils.models.base import LateHash, files_hash

UNASKED = """
import sys
from mmn_utils.models import base, load_model
base.files_hash = None  # would fail if it were called
load_model("miniature/llava")
sys.exit("timm" in sys.modules)
"""


def test_a_system_waits_neither_for_hashes_nor_for_timm():
    subprocess.run([sys.executable, "-c", UNASKED], check=True)


def test_the_revision_is_the_hash_of_files(monkeypatch):
    asked = []
    monkeypatch.setattr(base, "files_hash", lambda files: asked.append(len(files)) or "hash")
    model = load_model("miniature/llava")
    assert not asked
    assert model.revision == model.revision == "hash"
    assert len(asked) == 1


def test_a_hash_made_late_is_that_of_the_files(tmp_path):
    files = [tmp_path / name for name in ("a", "b")]
    for file in files:
        file.write_text(file.name)
    late, early = LateHash(files, "-more"), LateHash(files)
    expected = files_hash(files)
    assert early() == expected
    files[1].write_text("other weights")
    assert early() == expected
    with pytest.raises(ValueError, match="changed after the model was loaded") as error:
        late()
    assert str(files[1]) in str(error.value)
    assert str(files[0]) not in str(error.value)
    assert LateHash(files, "-more")() == files_hash(files) + "-more"
