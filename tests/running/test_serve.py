"""The browser without a notebook: what is served, to whom, and what is refused before."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import nbformat
import pytest

from mmn_utils.presets import NOTEBOOKS, ROOT, resolve
from mmn_utils.running import serve
from mmn_utils.running.environment import with_defaults
from tests.browser.live.servers import jupyter, voila

NOBODY = "00000000-0000-0000-0000-000000000000"


def cells(path) -> list[nbformat.NotebookNode]:
    return nbformat.read(path, as_version=4).cells


def injected(path) -> dict:
    """The parameters that papermill has put in."""
    found = [cell for cell in cells(path) if "injected-parameters" in cell.metadata["tags"]]
    values: dict = {}
    exec(found[0].source, values)
    values.pop("__builtins__")
    return values


def test_the_copy_has_the_presets_parameters_and_only_what_the_browser_needs(tmp_path):
    path = serve.browser_copy("ci", "L1.u2", folder=tmp_path)
    assert path == tmp_path / "ci.ipynb"
    assert injected(path) == resolve(serve.NOTEBOOK, "ci", {"address": "L1.u2"})
    source = cells(NOTEBOOKS / f"{serve.NOTEBOOK}.ipynb")
    needed = [cell.source for cell in source if serve.TAG in cell.metadata.get("tags", [])]
    kept = [cell.source for cell in cells(path) if serve.TAG in cell.metadata["tags"]]
    assert kept == needed
    assert len(cells(path)) == len(kept) + 2
    assert "exhibits" not in "\n".join(kept)
    whole = serve.browser_copy("ci", folder=tmp_path, whole=True)
    assert [cell.source for cell in cells(whole)][:1] == [source[0].source]
    assert len(cells(whole)) == len(source) + 1
    assert not any(cell.get("outputs") for cell in cells(whole))


def test_what_is_refused_starts_nothing(monkeypatch, capsys):
    def start(*args, **kwargs):
        raise AssertionError("a server was started")

    monkeypatch.setattr(subprocess, "Popen", start)
    assert serve.main(["nowhere"]) == 2
    assert "no preset 'nowhere'" in capsys.readouterr().err
    with socket.socket() as some:
        some.bind((serve.LOOPBACK, 0))
        some.listen()
        port = some.getsockname()[1]
        assert serve.main(["ci", "--port", str(port)]) == 2
    assert f"port {port} cannot be had" in capsys.readouterr().err
    assert serve.main(["ci", "--port", "99999"]) == 2
    assert "port 99999 cannot be had" in capsys.readouterr().err


@pytest.fixture
def notebook(tmp_path):
    path = tmp_path / "notebooks" / "page.ipynb"
    path.parent.mkdir()
    some = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("A page.")])
    some.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "P"}
    nbformat.write(some, path)
    return path


def only_on_the_loopback(server) -> bool:
    """Whether nobody listens on this machine's other addresses."""
    for address in {found[4][0] for found in socket.getaddrinfo(socket.gethostname(), None)}:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as some:
            some.settimeout(2)
            if not address.startswith("127.") and some.connect_ex((address, server.port)) == 0:
                return False
    return True


def test_voila_answers_on_the_loopback_and_only_with_the_token(notebook, tmp_path):
    with voila(notebook, tmp_path) as server:
        assert only_on_the_loopback(server)
        assert server.status("") == 302
        assert server.status("", "wrong") in (302, 403)
        assert server.status("?token=wrong") == 302
        assert server.status(f"api/kernels/{NOBODY}/channels") == 403
        status, html = server.ask("", server.token)
        assert status == 200
        assert "https://" not in html
        assert "A page." in html
    assert server.token not in server.log.read_text()


def test_jupyterlab_answers_on_the_loopback_and_only_with_the_token(notebook, tmp_path):
    with jupyter("lab", notebook, tmp_path) as server:
        assert only_on_the_loopback(server)
        assert server.status(server.path) == 302
        assert server.status("api/contents", "wrong") == 403
        assert server.status(f"api/kernels/{NOBODY}/channels") == 403
        assert server.status(server.path, server.token) == 200


def test_a_server_that_ends_is_an_error(notebook):
    with socket.socket() as some:
        some.bind((serve.LOOPBACK, 0))  # taken, and nobody listens
        port = some.getsockname()[1]
        with (
            pytest.raises(RuntimeError, match="ended with status"),
            serve.served(notebook, port, "token", stderr=subprocess.DEVNULL),
        ):
            pass


@pytest.mark.slow
def test_the_command_prints_where_it_is_and_ends_with_what_it_started():
    command = [sys.executable, "-m", "mmn_utils.running.serve", "ci", "--no-browser"]
    with subprocess.Popen(
        command, cwd=ROOT, env=with_defaults(dict(os.environ)), stdout=subprocess.PIPE, text=True
    ) as process:
        said = process.stdout.readline()
        assert said.startswith(f"The browser of ci: http://{serve.LOOPBACK}:")
        port = int(said.split(":")[3].split("/")[0])
        process.terminate()
        assert process.wait(30) == 0
    with socket.socket() as some:
        assert some.connect_ex((serve.LOOPBACK, port)) != 0
