"""The tests, a package so that they can share their builders of tiny models."""

import mmn_utils  # noqa: F401  (before torchvision, which test modules import by transformers)
