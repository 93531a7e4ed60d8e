"""Tiny systems of several shapes by name, and a fixture that is each of some in turn."""

from __future__ import annotations

import pytest

from tests.models.llava.tiny import tiny_llava
from tests.models.mplug_owl2.tiny import tiny as tiny_mplug_owl2
from tests.models.test_instructblip import tiny_instructblip
from tests.tiny import tiny_limber
from tests.tiny_gated import TinyGated

TINY = {
    "gated": TinyGated,
    "limber": tiny_limber,
    "llava": tiny_llava,
    "instructblip": tiny_instructblip,
    "mplug_owl2": tiny_mplug_owl2,
}


def each_of(*names: str):
    """Make the fixture ``system`` of a file, which builds each of them once."""

    @pytest.fixture(scope="module", params=[TINY[name] for name in names], ids=names)
    def system(request):
        return request.param()

    return system
