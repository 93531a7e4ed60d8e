"""What must not be left behind on a system."""

from __future__ import annotations


def hooks(model) -> int:
    """Count the hooks on all modules of the language model."""
    modules = model.language_model.modules()
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)
