"""What commands share: refusals are a line and 2, and everything else is left alone."""

from __future__ import annotations

import pytest

from mmn_utils.commands import parser_of, refusing


@pytest.mark.parametrize("error", [ValueError("no k = 0"), FileNotFoundError("no k = 0")])
def test_what_is_refused_is_a_line_and_two(capsys, error):
    @refusing
    def main(arguments=None):
        raise error

    assert main() == 2
    assert capsys.readouterr() == ("", "error: no k = 0\n")


def test_answers_and_faults_go_through():
    @refusing
    def main(arguments=None):
        """Count them."""
        return len(arguments)

    @refusing
    def faulty(arguments=None):
        raise KeyError(arguments)

    assert main(["a"]) == 1
    assert main.__doc__ == "Count them."
    with pytest.raises(KeyError):
        faulty()


def test_help_has_the_lines_of_the_text(capsys):
    with pytest.raises(SystemExit):
        parser_of("mmn_utils.some command", "First.\n\n    an example").parse_args(["--help"])
    out = capsys.readouterr().out
    assert "python -m mmn_utils.some command" in out
    assert "\n    an example\n" in out
