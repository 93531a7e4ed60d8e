"""An edit as an object: what is added to which write vectors; saved, applied, undone, combined."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mmn_utils.cache import atomic
from mmn_utils.interventions.concept import Concept
from mmn_utils.interventions.weights import Added, WeightReceipt, adding, fingerprint
from mmn_utils.models.base import Sizes
from mmn_utils.neurons.table import Neuron

SHARED = ("error", "sum")
FORMAT = "multimodal-neurons edit 1"


class EmptyEdit(ValueError):
    """An edit came out as zero: it would change nothing."""


@dataclass(frozen=True, eq=False)
class Edit:
    """What is added to which write vectors; small enough to be mailed.

    ``deltas`` (n, d) float32 on the CPU, a row for each neuron; ``pulls`` (n,) are the g of
    each neuron, NaN where the method has none. ``revision`` and ``sizes`` are those of the
    model it was made on, and it fits no other.
    """

    neurons: tuple[Neuron, ...]
    deltas: torch.Tensor
    pulls: tuple[float, ...]
    concepts: tuple[Concept, ...]
    settings: Mapping[str, Any] = field(repr=False)
    model: str
    revision: str
    sizes: Sizes

    def __post_init__(self) -> None:
        count = len(self.neurons)
        if self.deltas.shape != (count, self.sizes.width) or len(self.pulls) != count:
            raise ValueError(
                f"deltas of {tuple(self.deltas.shape)} and {len(self.pulls)} pulls for {count} "
                f"neurons of width {self.sizes.width}; give a row and a pull for each"
            )
        if len(set(self.neurons)) != count or not torch.isfinite(self.deltas).all():
            raise ValueError("neurons must be given once each, and deltas be finite")

    @property
    def identity(self) -> str:
        """Hash of neurons and deltas, as it joins an edited model's revision."""
        return f"edit-{fingerprint(self.neurons, self.deltas)}"

    @property
    def norms(self) -> torch.Tensor:
        """Length of each dw: (n,) float32."""
        return self.deltas.norm(dim=1)

    @property
    def empty(self) -> bool:
        """Say whether nothing would change."""
        return not bool((self.norms > 0).any())

    def table(self) -> pd.DataFrame:
        """List layer, unit, ``g`` and ``norm`` of each neuron."""
        return pd.DataFrame(
            {
                "layer": [neuron.layer for neuron in self.neurons],
                "unit": [neuron.unit for neuron in self.neurons],
                "g": self.pulls,
                "norm": self.norms.tolist(),
            }
        )

    def scaled(self, strength: float) -> Edit:
        """Return the edit with its deltas times ``strength``."""
        settings = {**self.settings, "strength": strength * self.settings.get("strength", 1.0)}
        return replace(self, deltas=self.deltas * strength, settings=settings)

    def first(self, count: int) -> Edit:
        """Keep the first ``count`` neurons.

        That is what the method finds for them alone. ``ValueError`` for more than there are,
        and for parts of a ``joint`` edit, which would have come out otherwise.
        """
        if self.settings.get("method") == "joint" and count != len(self.neurons):
            raise ValueError(
                f"a joint edit of {len(self.neurons)} neurons cannot be cut to {count}; make one "
                "for each count"
            )
        if not 1 <= count <= len(self.neurons):
            raise ValueError(f"count={count}: the edit has {len(self.neurons)} neurons")
        return replace(
            self,
            neurons=self.neurons[:count],
            deltas=self.deltas[:count],
            pulls=self.pulls[:count],
        )


def edit_on(
    model,
    neurons: Sequence[Neuron],
    deltas: torch.Tensor,
    pulls: Sequence[float],
    concept: Concept,
    settings: Mapping[str, Any],
) -> Edit:
    """Put what was found on a model into an edit of one concept."""
    deltas = deltas.detach().float().cpu()
    about = (model.name, model.revision, model.sizes)
    return Edit(tuple(neurons), deltas, tuple(pulls), (concept,), settings, *about)


def check_fits(model, edit: Edit) -> None:
    """Raise ``ValueError`` where an edit was made on another model than this one.

    A model that bears other edits already is still the one that they were made on.
    """
    ours, theirs = model.sizes, edit.sizes
    if (ours.layers, ours.units, ours.width) != (theirs.layers, theirs.units, theirs.width):
        raise ValueError(
            f"the edit was made on {edit.model}, of {theirs.layers} layers, {theirs.units} units "
            f"and width {theirs.width}; {model.name} has {ours.layers}, {ours.units} and "
            f"{ours.width}: make it again on this model"
        )
    if edit.revision not in (model.revision, model.revision.split("+")[0]):
        raise ValueError(
            f"the edit was made on {edit.model} of revision {edit.revision}, this {model.name} "
            f"is {model.revision}: load those weights, or make the edit again"
        )


@contextmanager
def apply(
    model,
    edit: Edit,
    *,
    prompt=None,
    max_new_tokens: int = 20,
    hash_weights: bool = True,
    allow_empty: bool = False,
) -> Iterator[WeightReceipt]:
    """Edit the model while the context lasts; hands a ``WeightReceipt`` out.

    Arguments and errors as ``weights.adding``; ``ValueError`` for another model's edit.
    """
    check_fits(model, edit)
    options = {"prompt": prompt, "max_new_tokens": max_new_tokens}
    options |= {"hash_weights": hash_weights, "allow_empty": allow_empty}
    with adding(model, edit.neurons, edit.deltas, edit.identity, **options) as receipt:
        yield receipt


def install(model, edit: Edit) -> Added:
    """Edit the model for good; ``undo()`` of what is returned puts the very same bits back.

    Edits that share a neuron come off in the reverse of the order in which they went in.
    """
    check_fits(model, edit)
    return Added(model, edit.neurons, edit.deltas, edit.identity)


def combine(edits: Sequence[Edit], shared: str = "error") -> Edit:
    """Put edits of several concepts into one, for the same model.

    A neuron that two of them change is an error, as what it writes for one concept it then
    writes for the other; ``shared="sum"`` adds its deltas all the same.
    """
    if not edits or shared not in SHARED:
        raise ValueError(f"{len(edits)} edits, shared={shared!r}: give one, 'error' or 'sum'")
    first = edits[0]
    for edit in edits[1:]:
        if (edit.revision, edit.sizes) != (first.revision, first.sizes):
            raise ValueError(
                f"edits of {first.model} {first.revision} and of {edit.model} {edit.revision} "
                "cannot be combined; make them on one model"
            )
    deltas: dict[Neuron, torch.Tensor] = {}
    for edit in edits:
        for neuron, delta in zip(edit.neurons, edit.deltas, strict=True):
            if neuron in deltas and shared == "error":
                raise ValueError(
                    f"{neuron} belongs to two of the edits; leave it out of one, or add up "
                    "with shared='sum'"
                )
            deltas[neuron] = deltas.get(neuron, 0) + delta
    pulls = {n: g for edit in edits for n, g in zip(edit.neurons, edit.pulls, strict=True)}
    shares = [n for edit in edits for n in edit.neurons]
    lone = tuple(pulls[n] if shares.count(n) == 1 else float("nan") for n in deltas)
    return replace(
        first,
        neurons=tuple(deltas),
        deltas=torch.stack(list(deltas.values())),
        pulls=lone,
        concepts=tuple(concept for edit in edits for concept in edit.concepts),
        settings={"method": "combined", "edits": [dict(edit.settings) for edit in edits]},
    )


def save_edit(edit: Edit, path: str | Path) -> Path:
    """Write an edit to one safetensors file, whole or not at all; return the path.

    Tensors ``deltas`` (n, d) and ``pulls`` (n,) float32 and ``neurons`` (n, 2) int32 of
    layer and unit; all else as JSON in the file's metadata. The same edit, the same bytes.
    """
    path = Path(path)
    about = {
        "concepts": [asdict(concept) for concept in edit.concepts],
        "settings": dict(edit.settings),
        "model": edit.model,
        "revision": edit.revision,
        "sizes": asdict(edit.sizes),
    }
    tensors = {
        "deltas": edit.deltas.contiguous(),
        "neurons": torch.tensor([(n.layer, n.unit) for n in edit.neurons], dtype=torch.int32),
        "pulls": torch.tensor(edit.pulls, dtype=torch.float32),
    }
    with atomic(path) as part:
        # One entry only: the order of several would differ from run to run.
        save_file(tensors, part, {FORMAT: json.dumps(about, sort_keys=True)})
    return path


def load_edit(path: str | Path, model=None) -> Edit:
    """Read an edit; with a ``model`` it must be the one that the edit was made on.

    ``FileNotFoundError`` for no file, ``ValueError`` for one that is no edit, and for another
    model's.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no edit at {path}; save_edit writes one")
    try:
        with safe_open(path, "pt") as stored:
            about = json.loads((stored.metadata() or {})[FORMAT])
            tensors = {name: stored.get_tensor(name) for name in ("deltas", "neurons", "pulls")}
        edit = _read(about, tensors)
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no edit of this kind ({error!r}); save it again") from error
    if model is not None:
        check_fits(model, edit)
    return edit


def _read(about: dict, tensors: dict[str, torch.Tensor]) -> Edit:
    concepts = tuple(
        Concept(c["source"], c["target"], tuple(c["tokens"]), tuple(c["images"]))
        for c in about["concepts"]
    )
    return Edit(
        tuple(Neuron(layer, unit) for layer, unit in tensors["neurons"].tolist()),
        tensors["deltas"],
        tuple(tensors["pulls"].tolist()),
        concepts,
        about["settings"],
        about["model"],
        about["revision"],
        Sizes(**about["sizes"]),
    )
