"""A forked process is as one started by itself: arguments, folder, streams, status, end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import pytest

from mmn_utils.presets import ROOT
from mmn_utils.running import warm
from tests.notebook_tools import write_notebook

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")

PROBE = """
import json, os, random, sys
try:
    import torch
    threads = torch.get_num_threads()
except ImportError:
    threads = None
print(json.dumps(dict(argv=sys.argv[1:], folder=os.getcwd(), mark=os.environ.get("MARK"),
    stdin=sys.stdin.read(), name=__name__, warm="statistics" in sys.modules, threads=threads,
    random=random.random(), hash=hash("a"))))
print("to the other stream", file=sys.stderr)
sys.exit(3)
"""
SLEEPER = """
import os, pathlib, sys, time
try:
    pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted")
    sys.exit(7)
"""
FINISHER = """
import atexit, sys, threading, time
atexit.register(print, "goodbye")
threading.Thread(target=lambda: (time.sleep(0.3), print("late"))).start()
sys.stdout.write("no end of line, ")
"""
SLOW = """
import pathlib, time
time.sleep(30)
pathlib.Path(__file__).with_suffix(".done").touch()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "probe.py").write_text(PROBE)
    (folder / "sleeper.py").write_text(SLEEPER)
    (folder / "finisher.py").write_text(FINISHER)
    (folder / "slow.py").write_text(SLOW)
    return folder


@pytest.fixture(scope="module")
def environment(folder: Path):
    """Of a command beside a server that has imported ``statistics`` and torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ROOT}")
        with warm.served(["statistics", "torch"]) as asking:
            yield {**os.environ, **asking}


def ask(environment, *arguments, **options):
    command = [sys.executable, "-m", "mmn_utils.running.warm", "-m", *arguments]
    return subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)
    return found


def is_alive(process: int) -> bool:
    state = Path(f"/proc/{process}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_fork_is_as_a_process_of_its_own(environment, tmp_path):
    asked = {**environment, "MARK": "here", "OMP_NUM_THREADS": "1"}
    process = ask(asked, "probe", "-x", "a b", cwd=tmp_path)
    out, error = process.communicate("said to it")
    seen = json.loads(out)
    assert process.returncode == 3
    assert error == "to the other stream\n"
    alone = {"argv": ["-x", "a b"], "folder": str(tmp_path), "mark": "here", "threads": 1}
    alone |= {"stdin": "said to it", "name": "__main__"}
    assert {name: seen[name] for name in alone} == alone
    assert seen["warm"]


def test_without_a_server_it_is_a_process_of_its_own(environment, tmp_path):
    cold = {name: value for name, value in environment.items() if name != warm.SERVER}
    process = ask(cold, "probe", "-x", cwd=tmp_path)
    seen = json.loads(process.communicate("")[0])
    assert process.returncode == 3
    assert (seen["argv"], seen["warm"]) == (["-x"], False)


def test_forks_draw_for_themselves_and_hash_alike(environment, tmp_path):
    two = [{**environment, "OMP_NUM_THREADS": n} for n in ("1", "2")]
    seen = [json.loads(ask(one, "probe", cwd=tmp_path).communicate("")[0]) for one in two]
    assert seen[0]["random"] != seen[1]["random"]
    assert seen[0]["hash"] == seen[1]["hash"]
    assert [one["threads"] for one in seen] == [1, 2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_signals_reach_the_fork_and_nothing_outlives_its_asker(environment, tmp_path, number):
    note = tmp_path / "pid"
    process = ask(environment, "sleeper", str(note))
    fork = int(until(lambda: note.exists() and note.read_text()))
    assert fork != process.pid
    assert is_alive(fork)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    until(lambda: not is_alive(fork))
    if number == signal.SIGINT:
        assert (out, process.returncode) == ("interrupted\n", 7)


@pytest.mark.parametrize("goes_on", [True, False])
def test_nothing_begins_before_its_asker_passes_signals_on(environment, tmp_path, goes_on):
    note, size = tmp_path / "pid", warm._NUMBER.size
    argv = ["sleeper", str(note)]
    asked = {"argv": argv, "folder": str(tmp_path), "environment": dict(environment)}
    text = json.dumps(asked).encode()
    with socket.socket(socket.AF_UNIX) as asker, open(os.devnull, "r+") as nothing:
        asker.connect(environment[warm.SERVER])
        socket.send_fds(asker, [warm._NUMBER.pack(len(text))], [nothing.fileno()] * 3)
        asker.sendall(text)
        (fork,) = warm._NUMBER.unpack(asker.recv(size, socket.MSG_WAITALL))
        time.sleep(0.3)  # an asker that is slow to get ready
        assert is_alive(fork)
        assert not note.exists()
        if goes_on:
            asker.sendall(b"1")
            until(lambda: note.exists() and note.read_text() == str(fork))
    until(lambda: not is_alive(fork))
    assert note.exists() is goes_on


def test_threads_exit_functions_and_streams_end_as_in_a_process_of_its_own(environment):
    assert ask(environment, "finisher").communicate("")[0] == "no end of line, late\ngoodbye\n"


def test_lines_that_nobody_takes_are_an_error(environment):
    cold = {name: value for name, value in environment.items() if name != warm.SERVER}
    statuses = []
    for asked in (environment, cold):
        process = ask(asked, "finisher")
        process.stdout.close()
        statuses.append(process.wait(timeout=30))
        process.stdin.close()
        process.stderr.close()
    assert statuses[0] == statuses[1] != 0  # 120, or 1 where streams have no buffer


def test_nobody_waits_for_imports_that_nobody_asked_for(folder, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ROOT}")
    assert warm.run_command(["true"], ["slow"]) == 0
    assert not (folder / "slow.done").exists()


def test_a_fork_that_is_killed_is_an_error(environment, tmp_path):
    note = tmp_path / "pid"
    process = ask(environment, "sleeper", str(note))
    os.kill(int(until(lambda: note.exists() and note.read_text())), signal.SIGKILL)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "was killed" in error


def test_what_a_module_raises_is_told(environment):
    process = ask(environment, "json.tool", "/no/such/file")
    assert "/no/such/file" in process.communicate()[1]
    assert process.returncode != 0
    process = ask(environment, "no_such_module")
    assert "No module named no_such_module" in process.communicate()[1]
    assert process.returncode == 1


def test_a_command_has_the_server_for_as_long_as_it_runs(monkeypatch, folder, tmp_path, capfd):
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ROOT}")
    inside = [sys.executable, "-m", "mmn_utils.running.warm", "-m", "probe", "inside"]
    shell = f"echo $MMN_WARM > {tmp_path}/path; exec {' '.join(inside)} < /dev/null"
    assert warm.run_command(["bash", "-c", shell], ["statistics"]) == 3
    seen = json.loads(capfd.readouterr().out)
    assert (seen["argv"], seen["warm"]) == (["inside"], True)
    assert not Path((tmp_path / "path").read_text().strip()).exists()


def test_a_server_that_is_gone_is_an_error(environment, tmp_path):
    process = ask({**environment, warm.SERVER: str(tmp_path / "none")}, "probe")
    assert "the server at" in process.communicate()[1]
    assert process.returncode == 1


def test_sockets_have_short_paths(monkeypatch, tmp_path):
    deep = tmp_path / ("deep" * 30)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with warm.socket_folder() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "kernel-5"))
    assert not folder.exists()


def test_usage(capsys):
    assert warm.main([]) == 2
    assert "python -m mmn_utils.running.warm -m MODULE" in capsys.readouterr().err


DRAW = """\
import sys, json, matplotlib.pyplot as plt, numpy as np, torch
from mmn_utils import plots
plots.use_style()
rng, torch_rng = np.random.default_rng(seed), torch.manual_seed(seed)
fig, ax = plt.subplots(figsize=(2, 1))
ax.plot(rng.standard_normal(9))
print(json.dumps([torch.rand(3).tolist(), hash("a"), plt.get_backend(), torch.get_num_threads()]))
print("mmn_utils.interventions.editing" in sys.modules, file=sys.stderr)
"""


def test_a_notebook_is_the_same_warm_and_cold(tmp_path):
    """Draws, numbers, hashes and the picture shown; only the imports were there before."""
    notebook = write_notebook(tmp_path / "notebooks", "tiny", "", DRAW)
    preset = tmp_path / "small.yaml"
    preset.write_text("name: small\nsettings:\n  seed: 5\n")
    run = ["-m", "mmn_utils.running.run", str(notebook), "--preset", str(preset), "--output-root"]
    warmly, plain = [sys.executable, "-m", "mmn_utils.running.warm"], [sys.executable]
    environment = {**os.environ, "MMN_FIGURES": str(tmp_path / "f"), "OMP_NUM_THREADS": "1"}
    environment.pop("MPLBACKEND", None)  # which other tests have
    said = {}
    for name, command in (("warm", [*warmly, "--", *warmly, *run]), ("cold", [*plain, *run])):
        subprocess.run([*command, str(tmp_path / name)], check=True, env=environment, cwd=ROOT)
        (copy,) = (tmp_path / name).rglob("*.ipynb")
        outputs = [out for cell in nbformat.read(copy, 4).cells for out in cell.get("outputs", [])]
        said[name] = {
            out.get("name", out["output_type"]): out.get("text") or out["data"]["image/png"]
            for out in outputs
        }
    assert (said["warm"].pop("stderr"), said["cold"].pop("stderr")) == ("True\n", "False\n")
    assert sorted(said["cold"]) == ["display_data", "stdout"]
    assert said["warm"] == said["cold"]
