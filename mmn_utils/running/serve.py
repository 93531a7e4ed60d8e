"""The neuron browser of a preset without a notebook: notebook 07's browser, shown by Voila.

    python -m mmn_utils.running.serve PRESET [--port N] [--address L2.u775@10000386] [--no-browser]

It listens on this machine's loopback alone, and answers only who has the token in the address
that is printed. Ctrl-C ends it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmn_utils.commands import parser_of
from mmn_utils.presets import ROOT, Preset, check_run_name, from_root, notebook_path
from mmn_utils.running.environment import KERNEL, with_defaults
from mmn_utils.running.run import check, load_papermill

NOTEBOOK = "07_neuron_browser"
TAG = "browser"  # of the cells that the browser needs; the others are left out
LOOPBACK = "127.0.0.1"
TEMPLATES = Path(__file__).parent / "templates"
PATIENCE = 60  # seconds until the server has to listen


def browser_copy(
    preset: str | Path | Preset,
    address: str = "",
    folder: str | Path = "build/browser",
    whole: bool = False,
) -> Path:
    """Write notebook 07 with a preset's parameters, and return its path.

    Only the cells that the browser needs, unless the ``whole`` is asked for. It is not executed;
    whoever opens it starts a kernel of their own. ValueError for what ``check`` refuses.
    """
    load_papermill()
    from papermill.iorw import load_notebook_node, write_ipynb
    from papermill.parameterize import parameterize_notebook

    overrides = {"address": address} if address else {}
    parameters = check(NOTEBOOK, preset, overrides)
    notebook = load_notebook_node(str(notebook_path(NOTEBOOK)))
    if not whole:
        needed = {"parameters", TAG}
        notebook.cells = [cell for cell in notebook.cells if needed & set(cell.metadata["tags"])]
    made = parameterize_notebook(notebook, parameters, kernel_name=KERNEL, language="python")
    path = from_root(folder) / f"{check_run_name(parameters['run'])}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_ipynb(made, str(path))
    return path


def free_port(port: int = 0) -> int:
    """Return a port of the loopback that nobody listens on now, or this one if it is such.

    ValueError where it is not.
    """
    with socket.socket() as some:
        if os.name == "posix":  # elsewhere it would mean that two may listen
            some.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            some.bind((LOOPBACK, port))
        except (OSError, OverflowError) as error:
            message = f"port {port} cannot be had ({error}); leave it out for a free one"
            raise ValueError(message) from None
        return some.getsockname()[1]


def command(notebook: Path, port: int) -> list[str]:
    """Return Voila's command line: the loopback alone, this port or none."""
    return [
        sys.executable, "-m", "voila", str(notebook), "--no-browser",
        f"--Voila.ip={LOOPBACK}", f"--port={port}", "--Voila.port_retries=0",
        "--Voila.auto_token=True",  # takes JUPYTER_TOKEN
        "--Voila.log_level=WARN",  # or it prints the address without the token
        "--template=neurons",
        # they belong to the servers of notebooks, and stumble over what Voila lacks
        "--VoilaConfiguration.extension_denylist=@jupyter-notebook/lab-extension",
    ]  # fmt: skip


@contextlib.contextmanager
def served(notebook: Path, port: int, token: str, **options) -> Iterator[subprocess.Popen]:
    """Have Voila serve a notebook until the block is left.

    The token goes by the environment, where no list of processes shows it. ``options`` are
    ``Popen``'s. RuntimeError where the server ends before it listens.
    """
    paths = [str(TEMPLATES), os.environ.get("JUPYTER_PATH", "")]
    environment = {
        **with_defaults(),
        "JUPYTER_TOKEN": token,
        "JUPYTER_PATH": os.pathsep.join(filter(None, paths)),
    }
    server = subprocess.Popen(command(notebook, port), env=environment, cwd=ROOT, **options)
    try:
        _await(server, port)
        yield server
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _await(server: subprocess.Popen, port: int) -> None:
    """Return once somebody listens on the port."""
    begun = time.monotonic()
    while time.monotonic() - begun < PATIENCE:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with status {server.returncode}; see above")
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), 1):
            return
        time.sleep(0.1)
    raise RuntimeError(f"the server does not listen on port {port} after {PATIENCE} seconds")


def serve(preset: str, port: int, address: str, browser: bool) -> None:
    """Serve a preset's browser until it is interrupted; print where it is."""
    notebook = browser_copy(preset, address)
    token, port = secrets.token_urlsafe(24), free_port(port)
    url = f"http://{LOOPBACK}:{port}/?token={token}"
    with served(notebook, port, token) as server:
        print(f"The browser of {preset}: {url}\nCtrl-C ends it.", flush=True)
        if browser:
            webbrowser.open(url)
        server.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a preset's browser; 2 for bad parameters, 1 where the server fails."""
    parser = parser_of("mmn_utils.running.serve", __doc__)
    parser.add_argument("preset", help="a name or a YAML file")
    parser.add_argument("--port", type=int, default=0, help="a free one by default")
    parser.add_argument("--address", default="", help="neuron@picture to open at")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    chosen = parser.parse_args(arguments)
    # so that a server that is told to stop by another process stops Voila, too
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        serve(chosen.preset, chosen.port, chosen.address, not chosen.no_browser)
    except KeyboardInterrupt:
        return 0
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 1  # it ended by itself


if __name__ == "__main__":
    sys.exit(main())
