"""Examine a model: what was found in it, what was checked, what can be asked of it.

    python -m mmn_utils doctor MODEL [--picture FILE] [--json]

MODEL is a system's name, a folder, or owner/repository on the hub. Without a picture the checks
run on noise. Exit status 0 where every check passed or cannot be made in the model's type, 1
where one failed or the model cannot be loaded.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from mmn_utils.commands import parser_of
from mmn_utils.datasets.base import read_image
from mmn_utils.models import VisionLanguageModel, load_model
from mmn_utils.models.doctor import doctor

_SIDE = 224  # of the noise, in pixels


@dataclass(frozen=True, eq=False)
class Examination:
    """``found`` facts by name, ``checks`` a row each, ``asked`` by question "yes" or why not."""

    found: dict[str, Any]
    checks: pd.DataFrame
    asked: dict[str, str]

    @property
    def healthy(self) -> bool:
        """Say that no check failed."""
        return bool(self.checks["passed"].fillna(True).all())

    def as_json(self) -> str:
        """Write all of it as one JSON object."""
        rows = json.loads(self.checks.to_json(orient="records"))
        whole = {"found": self.found, "checks": rows, "asked": self.asked, "healthy": self.healthy}
        return json.dumps(whole, indent=2)

    def as_text(self) -> str:
        """Lay all of it out to be read."""
        parts = {
            "found": _lines(self.found),
            "checked": "\n".join(map(_row, self.checks.itertuples(index=False))),
            "can be asked": _lines(self.asked),
        }
        return "\n\n".join(f"{title}\n{text}" for title, text in parts.items())


def _row(check) -> str:
    """Write one check: whether it passed, its worst deviation and tolerance, its note."""
    if check.passed is pd.NA:
        return f"  {check.check:20}not tested: {check.note}"
    said = "passed" if check.passed else "FAILED"
    return f"  {check.check:20}{said}, {check.worst:.1e} of {check.tolerance:.1e}: {check.note}"


def examine(model: VisionLanguageModel, images: Sequence[Image.Image]) -> Examination:
    """Examine a model on two pictures or more."""
    checks = doctor(model, images)
    return Examination(_found(model), checks, _asked(model, checks))


def _found(model: VisionLanguageModel) -> dict[str, Any]:
    """Tell what a model is made of."""
    parts, scales = asdict(model.architecture), model.architecture.scales
    whole = getattr(model.language_model, "whole", model.language_model)
    del parts["scales"]
    grid = model.image_tokens.grid
    return {
        "model": model.name,
        "class": type(whole).__name__,
        "type": str(model.dtype).removeprefix("torch."),
        **asdict(model.sizes),
        "modules": {role: path for role, path in parts.items() if path},
        "image tokens": {
            "from": model.image_tokens.start,
            "count": model.image_tokens.count,
            "grid": "none" if grid is None else f"{grid[0]} x {grid[1]}",
            "pixels": model.image_tokens.pixels,
        },
        "behind the MLPs": parts["mlp_norm"] or "nothing",
        "factors": _factors(scales),
        "soft cap of the logits": "none" if scales.cap is None else scales.cap,
    }


def _factors(scales) -> dict[str, Any]:
    """List the factors that are not 1."""
    rows = [asdict(adds) for adds in scales.layers]
    named: dict[str, Any] = {"embeddings": scales.embeddings, "logits": scales.logits}
    for name in ("whole", "attention", "mlp"):
        values = sorted({round(row[name], 6) for row in rows})
        named[f"layers, {name}"] = values[0] if len(values) == 1 else values or 1.0
    return {name: value for name, value in named.items() if value != 1}


def _asked(model: VisionLanguageModel, checks: pd.DataFrame) -> dict[str, str]:
    """Say of each question whether it can be asked of a model: "yes", or why not."""
    passed = checks.set_index("check")["passed"]
    notes = checks.set_index("check")["note"]

    def by(check: str) -> str:
        if passed[check] is pd.NA:
            return f"not tested ({notes[check]})"
        return "yes" if passed[check] else f"no ({check} failed)"

    return {
        "decoding": _reason(lambda: model.write_vectors(0)),
        "heat maps": _reason(model.require_grid),
        "attribution": by("finite differences"),
        "contributions that sum to the logit": by("completeness"),
        "reading the gate": _reason(lambda: model.gate_module(0)),
        "ablation": by("ablate nothing"),
        "editing": _reason(model.require_editable),
    }


def _reason(ask: Callable[[], Any]) -> str:
    """Return "yes" where a question does not raise, else why not."""
    try:
        ask()
    except ValueError as error:
        return f"no ({error})"
    return "yes"


def _lines(facts: dict[str, Any], indent: str = "  ") -> str:
    """Lay facts out one a line, those inside others further in."""
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict):
            inner = _lines(value, indent + "  ")
            lines.append(f"{indent}{name}:\n{inner}" if value else f"{indent}{name}: none")
        else:
            lines.append(f"{indent}{name}: {value}")
    return "\n".join(lines)


# --- the command ------------------------------------------------------------------------


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("mmn_utils doctor", __doc__)
    parser.add_argument("model", help="a system's name, a folder, or owner/repository")
    parser.add_argument("--picture", help="a photograph to run the checks on")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", help="float32, bfloat16 or float16; the files' own by default")
    parser.add_argument("--template", help="the prompt, where the processor has no chat template")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine a model from the command line: 0, or 1 where something is wrong."""
    chosen = _arguments(arguments)
    facts = {} if chosen.template is None else {"template": chosen.template}
    try:
        images = _pictures(chosen.picture)
        model = load_model(chosen.model, device=chosen.device, dtype=chosen.dtype, **facts)
        result = examine(model, images)
    except (ValueError, OSError, ImportError, RuntimeError, TypeError, AssertionError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(result.as_json() if chosen.json else result.as_text())
    return 0 if result.healthy else 1


def _pictures(path: str | None) -> list[Image.Image]:
    """Open a picture, and mirror it for a second one; noise without one."""
    if path is not None:
        picture = read_image(Path(path).expanduser())
        return [picture, ImageOps.mirror(picture)]
    noise = np.random.default_rng(0).integers(0, 256, (2, _SIDE, _SIDE, 3), dtype=np.uint8)
    return [Image.fromarray(values) for values in noise]
