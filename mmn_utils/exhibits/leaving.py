"""Exhibits that leave themselves out of a run, since it or its pictures lack what they need.

``exhibits.yaml`` says what an exhibit ``needs``, and ``Run.needs`` opens each of its cells. Where
something is lacking, the exhibit is entered with the reason and its claims as not tested, and the
cell ends there: quietly in a notebook, whose other cells go on, and with ``LeftOut`` elsewhere.
So ends, in a notebook, a cell that finds its photographs ``TooFew`` only when it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mmn_utils.datasets.base import TooFew
from mmn_utils.datasets.published import published_claim
from mmn_utils.exhibits.entries import OF_RUNS, Exhibit
from mmn_utils.exhibits.formats import as_markdown
from mmn_utils.exhibits.judging import UNTESTED
from mmn_utils.exhibits.ledger import row_of
from mmn_utils.exhibits.texts import Claim

OR = " or "  # between the things of which any will do


class LeftOut(Exception):
    """An exhibit is left out of its run, and why."""

    def __init__(self, id: str, reason: str):
        super().__init__(f"{id} is left out: {reason}")
        self.id, self.reason = id, reason


@dataclass
class _Cell:
    """The notebook's cell that runs: what leaves its exhibits out, and whether they were."""

    leave: Callable[[str], None] | None = None
    left: bool = False


_CELL = _Cell()  # of one process, as the shell is


@dataclass(frozen=True)
class Placard:
    """What a notebook shows in the place of an exhibit that is left out.

    No exception shows itself: IPython has its own look for them.
    """

    left: LeftOut

    def _repr_mimebundle_(self, **_kinds: Any) -> dict[str, str]:
        text = f"*`{self.left.id}` is left out: {as_markdown(self.left.reason)}.*"
        return {"text/markdown": text, "text/plain": self.left.id}


def why_left_out(
    exhibit: Exhibit, data: Any, without: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Say what is lacking of what an exhibit needs, "" where all of it is there.

    A data set that cannot tell has everything; ``without`` says what the run does without (of
    ``OF_RUNS``), and why.
    """
    told = getattr(data, "lacks", lambda what: "")

    def lacks(what: str) -> str:
        return without.get(what, "") if what in OF_RUNS else told(what)

    missing = [_lacking(lacks, need.split(OR)) for need in exhibit.needs]
    return "; ".join(filter(None, missing))


def _lacking(lacks: Any, anyone: list[str]) -> str:
    reasons = [lacks(what) for what in anyone]
    return ", ".join(reasons) if all(reasons) else ""


def untested_rows(
    exhibit: str, claims: Mapping[str, Claim], reason: str, system: str | None
) -> dict[str, dict[str, str]]:
    """Return the ledger's rows of a left-out exhibit: each claim not tested, and why."""
    return {
        id: row_of(id, exhibit, published_claim(id, system), f"left out: {reason}", UNTESTED)
        for id in claims
    }


def in_this_cell(leave: Callable[[str], None]) -> None:
    """Have ``leave`` called with the reason where the cell that runs raises ``TooFew``.

    It raises ``LeftOut``. In IPython alone; elsewhere ``TooFew`` is an error like others.
    """
    _CELL.leave = leave


def stop_quietly() -> None:
    """Have a cell that raises ``LeftOut`` end there, shown in one line, as if it were done.

    And one that raises ``TooFew``, if it said what it is for (``in_this_cell``). In IPython alone;
    nothing happens elsewhere, nor when called again.
    """
    try:
        from IPython import get_ipython
    except ImportError:
        return
    shell = get_ipython()
    if shell is not None and LeftOut not in shell.custom_exceptions:
        shell.set_custom_exc((LeftOut, TooFew), _show)
        shell.events.register("pre_run_cell", _begin)
        shell.events.register("post_run_cell", _forgive)


def _begin(_info: Any) -> None:
    _CELL.leave, _CELL.left = None, False


def _show(shell: Any, kind: type, error: BaseException, trace: Any, tb_offset: int | None = None):
    from IPython.display import display

    left = error if isinstance(error, LeftOut) else _left_by(str(error))
    if left is None:
        shell.showtraceback((kind, error, trace), tb_offset=tb_offset)
    else:
        _CELL.left = True
        display(Placard(left))


def _left_by(reason: str) -> LeftOut | None:
    """Leave the running cell's exhibits out; None where it has not said which they are."""
    if _CELL.leave is None:
        return None
    try:
        _CELL.leave(reason)
    except LeftOut as left:
        return left


def _forgive(result: Any) -> None:
    if _CELL.left:
        result.error_in_exec = None
