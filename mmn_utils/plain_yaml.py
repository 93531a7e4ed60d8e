"""YAML as people write it: the core schema of YAML 1.2, and merges.

PyYAML reads YAML 1.1, where ``010`` is eight, ``1:30`` is ninety, ``1_000`` a thousand,
``no`` false, and ``1e-3`` a text. Here ``1e-3`` is a number, and what only YAML 1.1 takes for
a number or a truth value is a text, which no number's place accepts. An int with leading zeros
is refused: YAML 1.2 would drop them, and a class called ``0123`` with them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

_INT = r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
_FLOAT = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)"
_SCHEMA = {  # tag: what a plain scalar looks like, and how it may begin
    "merge": (r"<<", "<"),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (_INT, "-+0123456789"),
    "float": (rf"{_FLOAT}|\.(?:nan|NaN|NAN)", "-+.0123456789"),
}
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the core schema of YAML 1.2; a key given twice is an error."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012  (PyYAML's own attribute)

    def construct_mapping(self, node, deep=False):
        keys = [self._key(key, deep) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"key given twice: {', '.join(sorted(twice))}", node.start_mark
            )
        return super().construct_mapping(node, deep=deep)

    def _key(self, node, deep: bool) -> Any:
        return (
            node.value if node.tag.endswith(":merge") else repr(self.construct_object(node, deep))
        )

    def construct_yaml_int(self, node) -> int:
        if _LEADING_ZERO.fullmatch(node.value):
            number = int(node.value)
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"{node.value} begins with a zero; write {number} for the number, "
                f"'{node.value}' in quotes for a text",
                node.start_mark,
            )
        return int(node.value, {"0o": 8, "0x": 16}.get(node.value[:2], 10))


for _tag, (_form, _begins) in _SCHEMA.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_form})$"), list(_begins)
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def read_yaml(text: str) -> Any:
    """Read one YAML document; ``yaml.YAMLError`` for another text."""
    return yaml.load(text, Loader=_Loader)


def load_yaml(path: str | Path) -> Any:
    """Read a YAML file; ValueError names the file where it is no YAML or repeats a key."""
    try:
        return read_yaml(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as YAML: {error}") from error
