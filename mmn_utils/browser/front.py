"""The browser's front end: its modules joined into one script, and its style.

The modules lie in ``front/`` as plain JavaScript and need no tool to be built: a script is
the modules in the order in which they need each other, without their imports and exports.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "front"
SCRIPTS = ("static", "widget")

_IMPORT = re.compile(r'^import \{ ([\w, ]+) \} from "\./(\w+)\.js";\n', re.MULTILINE)
_NAME = re.compile(r"^(?:export )?(?:async )?(?:function\*?|const|let|class) (\w+)", re.MULTILINE)
_EXPORT = re.compile(r"^export (?!default)", re.MULTILINE)
_EXPORTED = re.compile(r"^export (?:async )?(?:function\*?|const|let|class) (\w+)", re.MULTILINE)


@cache
def bundle(name: str) -> str:
    """Join what a script needs: ``static`` starts by itself, ``widget`` exports ``render``.

    One ES module without imports. ValueError for another name, for modules that need each
    other, and for what cannot be joined: a name that two modules have, an import of what is
    not exported or in another form than ``import { a, b } from "./module.js";``.
    """
    if name not in SCRIPTS:
        raise ValueError(f"no script {name!r}; there are {', '.join(SCRIPTS)}")
    return join(FOLDER, name)


@cache
def style() -> str:
    """Return the style sheet, all of it below ``.mmn`` but the page's own body."""
    return (FOLDER / "browser.css").read_text(encoding="utf-8")


def join(folder: Path, name: str) -> str:
    """Join a module of a folder with those that it needs; errors as ``bundle``."""
    order = _order(folder, name)
    texts = {one: _read(folder, one) for one in order}
    _check(texts)
    script = "\n".join(_EXPORT.sub("", _IMPORT.sub("", texts[one])) for one in order)
    if "</script" in script.casefold() or "<!--" in script:
        raise ValueError("a script in a page may hold neither </script nor <!--; write them apart")
    return script


def _read(folder: Path, name: str) -> str:
    return (folder / f"{name}.js").read_text(encoding="utf-8")


def _needs(text: str) -> list[str]:
    return [module for _, module in _IMPORT.findall(text)]


def _order(folder: Path, name: str, above: tuple[str, ...] = ()) -> list[str]:
    """List a module after those that it needs, each once."""
    if name in above:
        raise ValueError(f"modules need each other: {' -> '.join([*above, name])}")
    found: dict[str, None] = {}
    for module in _needs(_read(folder, name)):
        found.update(dict.fromkeys(_order(folder, module, (*above, name))))
    return [*found, name]


def _check(texts: dict[str, str]) -> None:
    """Raise ValueError for what would mean something else in one script."""
    owner: dict[str, str] = {}
    for module, text in texts.items():
        left = re.search(r"^\s*import\b.*|^export (?:\{|\*).*", _IMPORT.sub("", text), re.MULTILINE)
        if left or re.search(r"\bimport\(", text):
            raise ValueError(f"{module}.js: only plain imports of names can be joined, not {left}")
        for name in _NAME.findall(text):
            if owner.setdefault(name, module) != module:
                raise ValueError(f"{name} is in {owner[name]}.js and in {module}.js; rename one")
    for module, text in texts.items():
        for names, source in _IMPORT.findall(text):
            lacking = set(names.split(", ")) - set(_EXPORTED.findall(texts[source]))
            if lacking:
                raise ValueError(f"{module}.js imports {sorted(lacking)}, not in {source}.js")
