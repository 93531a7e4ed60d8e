"""The words of exhibits: captions, claims and what a reader should see, beside their numbers.

``notebooks/texts/<notebook>.yaml`` has an entry for each exhibit of the notebook, and others that
are read out under a name of their own:

    A-fig-6:
      caption: Probability of the noun, over {{ n }} photographs.
      claims:
        A-fig-6-top:
          claim: Ablating top units takes 80 % of the noun's probability (mean loss)
          paper_value: 0.8
          holds: value >= 0.8
      reading: The noun loses {{ loss | fmt(".0%") }}; that it is 80 % {{ says("A-fig-6-top") }}.
    opening:
      reading: ...

Texts are Jinja templates over the notebook's parameters and the facts that it hands over; ``fmt``
is Python's ``format``, and ``fmt(".0%", "unknown")`` has words for what could not be measured;
``table`` prints a data frame. A reading is Markdown, what is filled in is not: a token that
looks like markup is shown as it is. ``holds`` is an expression over ``value``, ``low``, ``high``,
``n`` and the facts: true, false, or none where there is nothing to test. No verdict can be typed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2

from mmn_utils.exhibits.entries import LIST
from mmn_utils.exhibits.formats import as_markdown, to_markdown
from mmn_utils.presets import load_yaml

FOLDER = "texts"
_BEGIN, _END = "\ue000", "\ue001"  # of Unicode's private signs
SAYS = {"yes": "holds", "no": "does not hold", "not tested": "was not tested"}


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper with the rule by which it is judged; see the module."""

    claim: str
    paper_value: str | float
    holds: str


@dataclass(frozen=True)
class Text:
    """What is written of one exhibit, or read out under one name."""

    caption: str = ""
    reading: str = ""
    claims: Mapping[str, Claim] = field(default_factory=dict)


def load_texts(notebook: str, exhibits: str | Path | None = None) -> dict[str, Text]:
    """Read a notebook's texts, by exhibit or by name; none where it has no file.

    They lie in the folder ``texts`` beside the list of exhibits. ValueError for a key that is
    unknown and for a claim that lacks one.
    """
    return _load_texts(Path(exhibits or LIST).parent / FOLDER / f"{notebook}.yaml")


@lru_cache(maxsize=16)
def _load_texts(path: Path) -> dict[str, Text]:
    if not path.is_file():
        return {}
    return {name: _text(name, entry, path) for name, entry in load_yaml(path).items()}


def _text(name: str, entry: Mapping[str, Any], path: Path) -> Text:
    try:
        claims = {id: Claim(**claim) for id, claim in (entry.get("claims") or {}).items()}
        return Text(**{**entry, "claims": claims})
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{path}, {name}: {error}") from None


def render(
    template: str, facts: Mapping[str, Any], where: str = "text", markdown: bool = False
) -> str:
    """Fill a template; ValueError names a fact that is missing. Paragraphs stay apart.

    With ``markdown`` the template is, and what is filled in is shown as it is.
    """
    try:
        text = _environment(markdown).from_string(str(template)).render(facts)
    except (jinja2.TemplateError, TypeError) as error:
        raise ValueError(f"{where}: {error}; hand it over by name, or mend the text") from error
    paragraphs = re.split(r"\n\s*\n", (_unmarked(text) if markdown else text).strip())
    return "\n\n".join(re.sub(r"[ \t]+", " ", paragraph.strip()) for paragraph in paragraphs)


def judge(rule: str, facts: Mapping[str, Any], where: str = "claim") -> bool | None:
    """Return what a claim's rule says of the facts: true, false, or None for nothing to test."""
    try:
        found = _environment().compile_expression(rule, undefined_to_none=False)(**facts)
    except jinja2.TemplateError as error:
        raise ValueError(f"{where}: holds = {rule!r}: {error}") from error
    if isinstance(found, jinja2.Undefined):
        raise ValueError(f"{where}: holds = {rule!r} has no value; a fact is missing")
    return None if found is None else bool(found)


def _fmt(value: Any, spec: str = "", missing: str | None = None) -> str:
    """Format a value, or return ``missing``, if given, where it is None or NaN."""
    if missing is not None and (value is None or value != value):
        return missing
    if isinstance(value, jinja2.Undefined):
        str(value)  # says which one it is
    return format(value, spec)


class _Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def _marked(value: Any) -> Any:
    """Mark what is filled into Markdown; a table is Markdown already, and a number needs none."""
    if isinstance(value, _Markdown | int | float):
        return value
    return f"{_BEGIN}{value}{_END}"


def _unmarked(text: str) -> str:
    """Write what was marked as Markdown, or as it is inside of code."""
    parts, code = [], False
    for place, part in enumerate(re.split(f"{_BEGIN}(.*?){_END}", text, flags=re.DOTALL)):
        filled = place % 2 == 1
        parts.append(as_markdown(part) if filled and not code else part)
        code = code if filled else code ^ (part.count("`") % 2 == 1)
    return "".join(parts)


@lru_cache(maxsize=2)
def _environment(markdown: bool = False) -> jinja2.Environment:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        finalize=_marked if markdown else None,
    )
    environment.filters.update(fmt=_fmt, table=lambda frame: _Markdown(to_markdown(frame)))
    environment.globals.update(len=len, min=min, max=max, sum=sum, zip=zip, sorted=sorted)
    return environment
