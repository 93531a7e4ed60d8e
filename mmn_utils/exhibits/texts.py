"""The words of exhibits: captions, claims and what a reader should see, beside their numbers.

``notebooks/texts/<notebook>.yaml`` has an entry for each exhibit of the notebook, and others that
are read out under a name of their own:

    A-fig-6:
      caption: Probability of the noun, over {{ n }} photographs.
      claims:
        A-fig-6-top:
          test: mean loss with {{ largest }} top units off, over photographs; above 0
          rows: k == {{ largest }}
          value: mean(1 - top)
          gap: difference(random, top)
          holds: low > 0
      reading: The noun loses {{ loss | fmt(".0%") }}; that it does {{ says("A-fig-6-top") }}.
    opening:
      reading: ...

Texts are Jinja templates over the notebook's parameters and the facts that it hands over; ``fmt``
is Python's ``format``, and ``fmt(".0%", "unknown")`` has words for what could not be measured;
``table`` prints a data frame. A reading is Markdown, what is filled in is not: a token that
looks like markup is shown as it is.

A claim is tested on the exhibit's rows (``<id>.numbers.csv``), and what the paper says stands in
``data/golden/claims.csv`` under the same id. No verdict can be typed.

    test    the test and its bar, in words (a template)
    rows    which rows, as a pandas query (a template); all, where it is absent
    case    a column: rows are averaged within each of its values, and these are the cases
    wide    three columns (index, columns, values): the rows laid out, a case for each index
    value   the estimate: a measure (``judging.MEASURES``) of expressions over columns
    needs   what the run must have for it (``entries.OF_RUNS``), or it is not tested
    holds   true, false, or none for nothing to test: an expression over value, low, high, n, p of
            that estimate, further estimates under names of their own, and the facts
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta

from mmn_utils.exhibits.entries import LIST, OF_RUNS
from mmn_utils.exhibits.formats import as_markdown, to_markdown
from mmn_utils.plain_yaml import load_yaml

FOLDER = "texts"
_BEGIN, _END = "\ue000", "\ue001"  # of Unicode's private signs
SAYS = {
    "yes": "holds",
    "no": "does not hold",
    "open": "is open",
    "not tested": "was not tested",
}


@dataclass(frozen=True)
class Claim:
    """The test of one statement of a paper; see the module."""

    id: str
    test: str
    value: str
    holds: str
    rows: str = ""
    case: str = ""
    wide: tuple[str, ...] = ()
    needs: str = ""
    estimates: Mapping[str, str] = field(default_factory=dict)

    @property
    def estimated(self) -> tuple[str, ...]:
        """The expressions over columns."""
        return self.value, *self.estimates.values()

    @property
    def rules(self) -> tuple[str, ...]:
        """All expressions."""
        return *self.estimated, self.holds


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
        claims = {id: _claim(id, claim) for id, claim in (entry.get("claims") or {}).items()}
        return Text(**{**entry, "claims": claims})
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path}, {name}: {error}") from None


def _claim(id: str, entry: Mapping[str, Any]) -> Claim:
    own = {"test", "value", "holds", "rows", "case", "wide", "needs"}
    further = {name: rule for name, rule in entry.items() if name not in own}
    wide = tuple(entry.get("wide") or ())
    if len(wide) not in (0, 3) or (wide and entry.get("case")):
        raise ValueError(f"{id}: wide = {list(wide)}: give index, columns and values, and no case")
    given = {name: value for name, value in entry.items() if name in own and name != "wide"}
    if not all(isinstance(text, str) for text in (*given.values(), *further.values())):
        raise ValueError(f"{id}: every field but wide must be text")
    if given.get("needs", OF_RUNS[0]) not in OF_RUNS:
        raise ValueError(f"{id}: needs = {given['needs']!r}: choose from {', '.join(OF_RUNS)}")
    return Claim(id, **given, wide=wide, estimates=further)


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


def compiled(rule: str, where: str = "claim") -> Callable[..., Any]:
    """Return an expression as a function of the facts by name; ValueError names what it lacks."""
    try:
        call = _environment().compile_expression(rule, undefined_to_none=False)
    except jinja2.TemplateError as error:
        raise ValueError(f"{where}: {rule!r}: {error}") from error

    def evaluate(**facts: Any) -> Any:
        try:
            found = call(**facts)
        except (jinja2.TemplateError, TypeError) as error:
            raise ValueError(f"{where}: {rule!r}: {error}") from error
        if isinstance(found, jinja2.Undefined):
            raise ValueError(f"{where}: {rule!r} has no value; a fact is missing")
        return found

    return evaluate


def names_in_text(template: str) -> set[str]:
    """Return the names that a template asks for."""
    environment = _environment()
    return meta.find_undeclared_variables(environment.parse(template)) - set(environment.globals)


def names_in_expression(rule: str) -> set[str]:
    """Return the names that an expression asks for."""
    return names_in_text("{{ " + rule + " }}")


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
