"""Find, decode, test, ablate and edit multimodal neurons of vision-language models."""

from . import compat  # noqa: F401  (before torchvision, whoever imports it)
