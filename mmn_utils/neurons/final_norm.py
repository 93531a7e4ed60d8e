"""The final norm with its scale frozen, so that shares of the stream are shares of the logit."""

from __future__ import annotations

from mmn_utils.models.frozen_norm import FrozenNorm, freeze


def frozen_norm(model, contribution_norm: str) -> FrozenNorm | None:
    """Return the frozen final norm for ``final``, None for ``none``; ``ValueError`` else."""
    if contribution_norm not in ("none", "final"):
        raise ValueError(f"contribution_norm={contribution_norm!r}: give 'none' or 'final'")
    if contribution_norm == "none":
        return None
    return freeze(model.final_norm, model.sizes.width, model.device)
