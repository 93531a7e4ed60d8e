"""Which switches there are, which notebooks each concerns, and with which parameters these run."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmn_utils.exhibits.entries import load_exhibits
from mmn_utils.exhibits.ledger import OUR_PAPER
from mmn_utils.plain_yaml import load_yaml
from mmn_utils.presets import NOTEBOOKS, Preset, notebook_path, read_parameters, resolve
from mmn_utils.values import refuse_unknown

LIST = NOTEBOOKS / "switches.yaml"
DEFAULT = "default"


@dataclass(frozen=True)
class Switch:
    """One choice put otherwise; the fields are those of ``switches.yaml``."""

    switch: str
    setting: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    system: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    lists: bool = False
    may_agree: bool = False
    refuses: Mapping[str, str] = field(default_factory=dict)

    @property
    def run(self) -> str:
        """The name of its run: letters, digits and strokes alone."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.switch} {self.setting}".lower()).strip("-")

    @property
    def everywhere(self) -> bool:
        """Whether it concerns all notebooks, whatever their parameters are."""
        return bool(self.system or self.environment)


DEFAULTS = Switch(DEFAULT, "", lists=True)


def read_switches(path: str | Path | None = None) -> list[Switch]:
    """Read the list of switches, in its order.

    ValueError for a key that no switch has, for one that puts nothing otherwise, and for two of
    one name.
    """
    path = Path(path or LIST)
    found: dict[str, Switch] = {}
    for entry in load_yaml(path)["switches"]:
        try:
            one = Switch(**{**entry, "needs": tuple(entry.get("needs", ()))})
        except TypeError as error:
            raise ValueError(f"{path}: {entry!r}: {error}") from None
        if not (one.parameters or one.everywhere):
            raise ValueError(f"{path}: {one.run} puts nothing otherwise; give parameters")
        refuse_unknown(one.needs, NEEDS, f"something that a system may lack (in {one.run})")
        if one.run in found:
            raise ValueError(f"{path}: {one.run} is listed twice")
        found[one.run] = one
    return list(found.values())


def read_sizes(preset: str, path: str | Path | None = None) -> dict[str, dict[str, Any]]:
    """Return the sizes of a preset's notebooks; none where none are given."""
    return load_yaml(Path(path or LIST)).get("sizes", {}).get(preset) or {}


def asked_notebooks(preset: Preset) -> list[str]:
    """List the notebooks of a preset whose exhibits are a paper's, in their order."""
    papers = {one.notebook for one in load_exhibits().values() if one.paper != OUR_PAPER}
    return preset.chosen(sorted(papers)) if not preset.only else [
        stem for stem in sorted(papers) if preset.runs(stem)
    ]  # fmt: skip


def concerned(switch: Switch, notebooks: Iterable[str]) -> list[str]:
    """Keep the notebooks that a switch concerns: those that have one of its parameters, or all."""
    if switch.everywhere or switch == DEFAULTS:
        return list(notebooks)
    return [stem for stem in notebooks if set(switch.parameters) & set(read_parameters(stem))]


def parameters_of(
    notebook: str, preset: Preset, switch: Switch, sizes: Mapping[str, Any], model: str = ""
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Resolve a notebook's parameters by default and under a switch, at the same sizes.

    ``model`` stands in the system's place, where the switch gives it facts. ValueError for a
    switch that leaves a notebook's parameters as they were, and for a parameter that none of the
    notebook's cells reads: it would be taken for a conclusion that nothing turns.
    """
    usual = resolve(notebook, preset)
    usual = resolve(notebook, preset, _merged(usual, {**sizes, "run": DEFAULT}))
    given = {name: value for name, value in switch.parameters.items() if name in usual}
    if model:
        given["model"] = model
    put = resolve(notebook, preset, _merged(usual, {**given, "run": switch.run}))
    changed = {name for name in usual if usual[name] != put[name]} - {"run"}
    if changed != set(given):
        same = ", ".join(sorted(set(given) - changed))
        raise ValueError(f"{switch.run} leaves {notebook} as it is: {same} has that value already")
    if unread := sorted(changed - names_read(notebook)):
        raise ValueError(
            f"{switch.run}: none of the cells of {notebook} reads {', '.join(unread)}; hand it on"
        )
    return usual, put


def _merged(usual: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Put values over usual ones, those of a parameter with parts part by part."""
    found = {name: value for name, value in usual.items() if name != "preset"}
    for name, value in given.items():
        parts = isinstance(value, Mapping) and isinstance(found.get(name), dict)
        found[name] = {**found[name], **value} if parts else value
    return found


def names_read(notebook: str | Path) -> set[str]:
    """Return the names that a notebook's cells behind its parameters read."""
    cells = json.loads(notebook_path(notebook).read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    rest = [c for c in code if "parameters" not in c["metadata"].get("tags", [])]
    trees = [ast.parse("".join(cell["source"])) for cell in rest]
    nodes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name))
    return {node.id for node in nodes if isinstance(node.ctx, ast.Load)}


# --- what a system must have ------------------------------------------------------------------


def _bias(system) -> str:
    return "" if system.unembedding[1] is not None else "its unembedding has no bias"


def _gate(system) -> str:
    return "" if system.architecture.gate is not None else "its MLPs have no gate"


def _spare_rows(system) -> str:
    rows, known = len(system.unembedding[0]), system.sizes.vocabulary
    return "" if rows > known else f"its unembedding has no rows beside those of its {known} tokens"


def _another_attention(system) -> str:
    language = system.language_model
    if language._supports_attention_backend:
        return ""
    return f"its class has one implementation of attention, {language.config._attn_implementation}"


NEEDS: dict[str, Callable[[Any], str]] = {
    "bias": _bias,
    "gate": _gate,
    "spare rows": _spare_rows,
    "another attention": _another_attention,
}


def lacking(switch: Switch, system) -> str:
    """Say what a system lacks that a switch needs; nothing where it has all."""
    return "; ".join(filter(None, (NEEDS[need](system) for need in switch.needs)))
