"""Tables over photographs, computed once and kept by content.

Notebooks share them: what one has computed, the next one loads. An image is known to the
cache by its own content and by its target's, so no stale result outlives a picture that
was drawn again, and a larger sample reuses a smaller one's work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from mmn_utils.cache import canonical, per_image
from mmn_utils.memory import give_back
from mmn_utils.neurons.targets import Target

if TYPE_CHECKING:
    from mmn_utils.datasets import Photograph


def per_photograph(
    kind: str,
    model,
    photographs: Sequence[Photograph],
    compute: Callable[[list[int]], pd.DataFrame],
    key: dict[str, Any],
    *,
    targets: Sequence | None = None,
    batch_size: int = 8,
    progress: bool = True,
    empty_ok: bool = False,
) -> pd.DataFrame:
    """Compute a table over batches of photographs, or load what is kept of it.

    ``compute`` takes the places of some photographs in the sequence to a table with their
    ids in ``image``. The cache knows a photograph by its content and its target, the table
    by ``kind``, model and ``key``. ``empty_ok`` as in ``cache.per_image``.
    """
    named = by_content(photographs, targets)
    place = {name: row for row, name in enumerate(named)}
    ids = {name: photograph.id for name, photograph in named.items()}
    names = {image: name for name, image in ids.items()}

    def batch(some: list[str]) -> pd.DataFrame:
        table = compute([place[name] for name in some])
        give_back()
        return table.assign(image=table["image"].map(names))

    key = {**model_identity(model), **key}
    table = per_image(
        kind, key, list(named), batch, batch_size, progress=progress, empty_ok=empty_ok
    )
    return table.assign(image=table["image"].map(ids))


def by_content(
    photographs: Sequence[Photograph], targets: Sequence[Target] | None = None
) -> dict[str, Photograph]:
    """Give each photograph the name that the cache knows it by: id and hash of its content.

    The content is the file's bytes and, where there are targets, the target. ValueError
    for two photographs of one id.
    """
    if not photographs:
        raise ValueError("no photographs; give at least one")
    named: dict[str, Photograph] = {}
    seen: set[str] = set()
    for row, photograph in enumerate(photographs):
        if photograph.id in seen:
            raise ValueError(f"photograph {photograph.id!r} is given twice; give each once")
        seen.add(photograph.id)
        digest = hashlib.sha256(photograph.path.read_bytes())
        if targets is not None:
            digest.update(canonical(targets[row]).encode())
        named[f"{photograph.id}@{digest.hexdigest()[:16]}"] = photograph
    return named


def model_identity(model) -> dict[str, Any]:
    """Return what tells one model's results from another's, as part of a cache key."""
    return {
        "model": model.name,
        "revision": model.revision,
        "dtype": str(model.dtype),
        "prefix": model.prefix,
        "vocabulary": model.sizes.vocabulary,
        "ends": sorted(model.end_tokens),
        # text before the picture, pixels: what an adapter knows beside the weights
        "facts": _facts(model),
    }


def _facts(model) -> dict[str, Any] | None:
    """Return an adapter's facts, with the hash of the weights where it may be made only now."""
    facts = getattr(model, "facts", None)
    if not is_dataclass(facts):
        return None
    known = asdict(facts)
    return {**known, "revision": model.revision} if "revision" in known else known


def digest(*parts: Any) -> str:
    """Hash what a table was asked for; every part prints the same in every run."""
    return hashlib.sha256("\n".join(map(repr, parts)).encode()).hexdigest()[:16]
