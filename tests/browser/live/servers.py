"""Servers for the tests: JupyterLab, Notebook 7 and Voila, each with folders of its own."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmn_utils.presets import ROOT
from mmn_utils.running.environment import with_defaults
from mmn_utils.running.serve import LOOPBACK, free_port, served

# Each by the module that starts it, and where it shows a notebook.
JUPYTER = {"lab": ("jupyterlab", "lab/tree"), "notebook": ("notebook", "notebooks")}
# What would ask other servers, or put a question before the notebook.
SILENT = {"@jupyterlab/apputils-extension:announcements": True}


@dataclass(frozen=True)
class Server:
    """A server that listens: its port and token, and the path of the page to open."""

    port: int
    token: str
    path: str
    log: Path

    @property
    def url(self) -> str:
        return f"{self.address(self.path)}?token={self.token}"

    def address(self, path: str) -> str:
        return f"http://{LOOPBACK}:{self.port}/{path}"

    def ask(self, path: str, token: str = "") -> tuple[int, str]:
        """Ask for a page without following where it leads; return the status and the text."""
        request = urllib.request.Request(self.address(path))
        if token:
            request.add_header("Authorization", f"token {token}")
        try:
            with urllib.request.build_opener(_Stay).open(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""

    def status(self, path: str, token: str = "") -> int:
        """Ask for a page; return the status alone."""
        return self.ask(path, token)[0]

    def has_idle_kernel(self) -> bool:
        """Whether a page is connected to a kernel, and that is idle."""
        status, text = self.ask("api/sessions", self.token)
        kernels = [one["kernel"] for one in json.loads(text)] if status == 200 else []
        return any(one["connections"] and one["execution_state"] == "idle" for one in kernels)


class _Stay(urllib.request.HTTPRedirectHandler):
    """Does not go where a page leads."""

    def redirect_request(self, *_):
        return None


@contextmanager
def apart(folder: Path, own_results: bool = True) -> Iterator[None]:
    """Have what is started from here on keep to a folder: settings; atlas, cache, figures, too.

    Without ``own_results`` the last three are the repository's.
    """
    places = {
        "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime", "IPYTHONDIR": "ipython",
        "MMN_ATLAS": "atlas", "MMN_CACHE": "cache", "MMN_FIGURES": "figures",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, place in places.items():
            if not own_results and name.startswith("MMN_"):
                continue
            (folder / place).mkdir(parents=True, exist_ok=True)
            patch.setenv(name, str(folder / place))
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("PYTHONPATH", path)  # kernels import this very package
        patch.setenv("JUPYTERLAB_SETTINGS_DIR", str(folder / "settings"))
        patch.setenv("JUPYTERLAB_WORKSPACES_DIR", str(folder / "workspaces"))
        page = folder / "config" / "labconfig" / "page_config.json"
        page.parent.mkdir(exist_ok=True)
        page.write_text(json.dumps({"disabledExtensions": SILENT}))
        yield


@contextmanager
def jupyter(kind: str, notebook: Path, folder: Path) -> Iterator[Server]:
    """Start JupyterLab or Notebook 7 on a notebook's folder."""
    module, path = JUPYTER[kind]
    port, token, log = free_port(), secrets.token_urlsafe(24), folder / f"{kind}.log"
    command = [
        sys.executable, "-m", module, "--no-browser", f"--ServerApp.ip={LOOPBACK}",
        f"--port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={notebook.parent}",
    ]  # fmt: skip
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    with apart(folder), log.open("w") as out:
        environment = {**with_defaults(), "JUPYTER_TOKEN": token}
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=out, stderr=subprocess.STDOUT
        )
        server = Server(port, token, f"{path}/{notebook.name}", log)
        try:
            _await(process, server)
            yield server
        finally:
            process.terminate()
            process.wait(20)


def _await(process: subprocess.Popen, server: Server) -> None:
    """Return once a server answers; fail with what it printed where it does not."""
    begun = time.monotonic()
    while time.monotonic() - begun < 60:
        if process.poll() is not None:
            break
        try:
            if server.status("api") == 200:
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"the server does not answer:\n{server.log.read_text()}")


@contextmanager
def voila(notebook: Path, folder: Path, own_results: bool = True) -> Iterator[Server]:
    """Start Voila on a notebook, as ``make browser`` does; ``own_results`` as of ``apart``."""
    port, token, log = free_port(), secrets.token_urlsafe(24), folder / "voila.log"
    with (
        apart(folder, own_results),
        log.open("w") as out,
        served(notebook, port, token, stdout=out, stderr=subprocess.STDOUT),
    ):
        yield Server(port, token, "", log)
