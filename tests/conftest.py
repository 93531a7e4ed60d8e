"""What all tests share: thread limits, no network, deterministic hypothesis, markers, browser."""

from __future__ import annotations

import itertools
import os

from mmn_utils.running import environment

# Before anything imports torch: few threads, and threads that sleep while they wait, so
# that the suite keeps its time beside other work on two cores.
ENVIRONMENT = {
    **environment.ENVIRONMENT,
    "OMP_NUM_THREADS": str(min(2, os.cpu_count() or 1)),
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "Agg",
    "JUPYTER_PLATFORM_DIRS": "1",
}
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from mmn_utils.presets import data_path  # noqa: E402
from tests.browser.chromium import Windows, needed, started  # noqa: E402

MARKERS = {
    "slow": "takes more than ten seconds",
    "weights": "needs the trained miniature in data/miniature",
    "benchmark": "measures time; prints a ratio",
}
PLACES = itertools.count()
WEIGHTS = ("language_model/config.json", "vision.safetensors", "projection.safetensors")

settings.register_profile(
    "deterministic",
    derandomize=True,  # the same examples on every run and machine
    deadline=None,  # a busy machine is no failure
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("deterministic")


def missing_weights() -> list[str]:
    """Return the files of the trained miniature that are absent."""
    return [name for name in WEIGHTS if not data_path("miniature", name).is_file()]


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs the miniature's weights where they are absent, and say which."""
    missing = missing_weights()
    if missing:
        reason = f"data/miniature lacks {', '.join(missing)}; train it with 'make miniature'"
        for item in items:
            if "weights" in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def own_outputs(request, tmp_path_factory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests away from the repository's figures, cached results and atlases.

    What a test writes lies in its ``tmp_path``, where it has one. One for each of thousands of
    tests would take half a minute: pytest looks through all that there are to number the next.
    """
    if "tmp_path" in request.fixturenames:
        place = request.getfixturevalue("tmp_path")
    else:
        place = tmp_path_factory.getbasetemp() / "outputs" / str(next(PLACES))
    for name in ("ATLAS", "FIGURES", "BUILD", "CACHE"):
        monkeypatch.setenv(f"MMN_{name}", str(place / name.lower()))


@pytest.fixture(scope="module")
def chromium():
    """A browser for the tests of one file: its event loop would be in the way of other files'."""
    needed()
    with started() as browser:
        yield browser


@pytest.fixture(scope="module")
def spare(chromium) -> dict:
    """Empty pages of this browser."""
    return {}


@pytest.fixture
def windows(chromium, spare):
    """Open pages with ``windows(width, height, dark, offline)``; a fault in one fails the test.

    A test that expects faults reads ``windows.faults`` and clears it.
    """
    opened = Windows(chromium, spare)
    yield opened
    opened.close()
    assert not opened.faults, opened.faults


@pytest.fixture
def warm_kernels(monkeypatch) -> None:
    """Spare each kernel of a test the loading of torch."""
    from tests.warm_kernels import Fork

    monkeypatch.setattr("jupyter_client.provisioning.local_provisioner.launch_kernel", Fork)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and an empty cache of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
