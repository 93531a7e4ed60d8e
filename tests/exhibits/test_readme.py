"""The README's table of exhibits."""

from __future__ import annotations

import pytest

from mmn_utils.exhibits.readme import README_BEGIN, README_END, update_readme
from mmn_utils.presets import ROOT


def test_update_readme_rewrites_between_the_marks_only():
    text = f"# Title\n\n{README_BEGIN}\nold\n{README_END}\n\nend\n"
    new = update_readme(text)
    assert new.startswith("# Title\n")
    assert new.endswith("\n\nend\n")
    assert "old" not in new
    assert "A-table-S3" in new
    assert update_readme(new) == new
    with pytest.raises(ValueError, match="two lines"):
        update_readme("# no marks")


def test_the_readmes_table_is_current():
    readme = ROOT / "README.md"
    if not readme.is_file():
        pytest.skip("there is no README.md yet")
    text = readme.read_text(encoding="utf-8")
    assert update_readme(text) == text, "run 'make readme'"
