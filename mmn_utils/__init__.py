"""Find, decode, test, ablate and edit multimodal neurons of vision-language models."""

from mmn_utils import compat  # noqa: F401  (before torchvision, whoever imports it)
