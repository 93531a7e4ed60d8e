"""Python processes that begin with everything imported.

    python -m mmn_utils.running.warm -- snakemake --cores all     # a server while the command runs
    python -m mmn_utils.running.warm -m mmn_utils.running NAME ...

torch, transformers, matplotlib and what starts a kernel cost each notebook ten seconds and more
before its first line, on two slow cores two minutes of a batch. A batch imports them once: the
server has imported them and does nothing else, and whoever asks gets a fork of it, with the
asker's arguments, folder, environment, streams and number of threads. The asker stays, passes
signals on and ends as the fork ends. Within the command Jupyter's kernels are such askers too, by
a kernel spec of their own. Nothing else is shared: each fork loads, draws and computes for itself.

Without a server the second form is plain ``python -m``; where forking is not safe (anything
but Linux) the first form has none.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

SERVER = "MMN_WARM"  # environment variable: the server's socket
# The first finds the environment's own kernel before a user's, the rest keep bytes and order
# the same from run to run. Two are read when a process starts, so a server has them all.
KERNEL_ENVIRONMENT = {
    "JUPYTER_PREFER_ENV_PATH": "1",
    "PYTHONHASHSEED": "0",
    "SOURCE_DATE_EPOCH": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    # Pages of large tensors are kept for the next ones, not given back to the system each time.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
}
# Threads that exist before a fork would be missing behind it; forks set their own number.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# matplotlib is imported before a kernel could tell it where figures go.
BACKEND = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_NUMBER = struct.Struct("!i")
USAGE = """\
usage: python -m mmn_utils.running.warm -- COMMAND ...   a command, and a server while it runs
       python -m mmn_utils.running.warm -m MODULE ...    as python -m; by the server, if any"""


# --- the command ------------------------------------------------------------------------


def run_command(command: Sequence[str], modules: Sequence[str] | None = None) -> int:
    """Run a command that may ask a server; return its exit status. ``modules`` as ``served``."""
    with served(modules) as asking:
        return subprocess.run(command, env={**os.environ, **asking}).returncode


@contextlib.contextmanager
def served(modules: Sequence[str] | None = None) -> Iterator[dict[str, str]]:
    """Have a server that has ``modules`` imported; None: all that the notebooks use.

    Yields what the environment of askers has beside its own; nothing where there is no server.
    """
    if sys.platform != "linux":
        yield {}
        return
    with socket_folder() as folder:
        path = str(folder / "socket")
        with _server(path, modules):
            yield {SERVER: path, "JUPYTER_PATH": _kernels(folder)}


@contextlib.contextmanager
def socket_folder() -> Iterator[Path]:
    """Have a temporary folder for sockets, whose paths a system may limit to 103 bytes.

    It is in ``/tmp`` where the path of the folder for temporary files is too long.
    """
    usual = tempfile.gettempdir()
    place = usual if len(os.fsencode(usual)) <= 70 else "/tmp"
    with tempfile.TemporaryDirectory(prefix="mmn-", dir=place) as folder:
        yield Path(folder)


def _kernels(folder: Path) -> str:
    """Write a kernel spec that asks the server; return Jupyter's path with it in front."""
    argv = [sys.executable, "-m", __spec__.name, "-m", "ipykernel_launcher"]
    spec = {"argv": [*argv, "-f", "{connection_file}"], "language": "python"}
    kernel = folder / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(json.dumps({"display_name": "Python 3 (warm)", **spec}))
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("JUPYTER_PATH")])])


@contextlib.contextmanager
def _server(path: str, modules: Sequence[str] | None) -> Iterator[None]:
    """Have a server listen at ``path``; it ends with this context, or with this process."""
    serve = [sys.executable, "-m", __spec__.name, "--serve", path, *(modules or [])]
    environment = {**BACKEND, **os.environ, **KERNEL_ENVIRONMENT, **ONE_THREAD}
    # in a session of its own: who interrupts the command interrupts the forks by their askers
    process = subprocess.Popen(
        serve, stdin=subprocess.PIPE, env=environment, start_new_session=True
    )
    try:
        while not Path(path).exists() and process.poll() is None:
            select.select([], [], [], 0.01)
        yield
    finally:
        process.terminate()  # also while it imports what nobody has asked for
        process.wait()
        process.stdin.close()


# --- the server -------------------------------------------------------------------------


def serve(path: str, modules: Sequence[str]) -> None:
    """Import ``modules``, then fork for each asker, until standard input ends.

    Returns in the server at its end, and never in a fork.
    """
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{path}-")
    listener.listen(64)
    os.rename(f"{path}-", path)  # whoever sees it can ask: while the imports run, and wait
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks but their askers
    for name in modules or notebook_modules():
        importlib.import_module(name)
    # What is imported stays. Looking through it for garbage would have each fork copy its pages.
    gc.collect()
    gc.freeze()
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _become(connection)
        connection.close()


def notebook_modules() -> list[str]:
    """Name what the notebooks import, and what runs them: this package but for the training."""
    package = importlib.import_module("mmn_utils")
    own = [module.name for module in pkgutil.walk_packages(package.__path__, "mmn_utils.")]
    without = ("mmn_utils.miniature", __spec__.name)
    runner = importlib.import_module("mmn_utils.running.run")
    runner.load_papermill()
    return [
        "matplotlib.pyplot",
        "matplotlib.backends.backend_agg",
        "matplotlib.backends.backend_pdf",
        "ipykernel.kernelapp",
        "ipykernel.ipkernel",
        *(name for name in own if not name.startswith(without) and "__main__" not in name),
    ]


def _become(connection: socket.socket) -> None:
    """Turn this fork into what the asker asked for."""
    head, streams, _, _ = socket.recv_fds(connection, _NUMBER.size, 3)
    asked = json.loads(_exactly(connection, *_NUMBER.unpack(head)))
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # a server begun in the background of a shell ignores it, and so would this
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    _use_threads(os.environ.get("OMP_NUM_THREADS"))
    connection.sendall(_NUMBER.pack(os.getpid()))
    if not connection.recv(1):  # until it passes signals on, nothing begins that one could hit
        os._exit(1)
    _end_with(connection)
    status = _finished(_as_main(*asked["argv"]))
    connection.sendall(_NUMBER.pack(status))  # it stays open, and so says when this process ended
    os._exit(status)


def _finished(status: int) -> int:
    """Do what Python does at its end, but for taking thousands of modules apart: 3 seconds.

    Threads, exit functions, streams, and then no more, as multiprocessing's forks end. Returns
    the exit status: 120, as Python's, where a stream cannot take its last lines.
    """
    threading._shutdown()  # waits for the threads that are no daemons
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        return 120
    return status


def _use_threads(wanted: str | None) -> None:
    """Compute with as many threads as this process would have had, started by itself."""
    if "torch" not in sys.modules:
        return
    from threadpoolctl import threadpool_limits

    count = int(wanted.partition(",")[0]) if wanted else len(os.sched_getaffinity(0))
    threadpool_limits(count)
    sys.modules["torch"].set_num_threads(count)


def _end_with(connection: socket.socket) -> None:
    """End this process at once when its asker is gone."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            connection.recv(1)  # nothing more is ever sent
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _as_main(module: str, *arguments: str) -> int:
    """Run a module as ``python -m`` does; return its exit status."""
    import runpy
    import traceback
    import warnings

    sys.argv = [module, *arguments]
    # runpy warns of a module that is imported already, which is what this is for
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


# --- the asker --------------------------------------------------------------------------


def run_module(argv: Sequence[str]) -> int:
    """Run ``python -m`` with these arguments, warm where there is a server; its exit status."""
    path = os.environ.get(SERVER)
    if not path:
        os.execv(sys.executable, [sys.executable, "-m", *argv])
    asked = {"argv": list(argv), "folder": os.getcwd(), "environment": dict(os.environ)}
    text = json.dumps(asked).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
        except OSError as error:
            raise SystemExit(f"error: the server at {path} is gone ({error}); see above") from error
        socket.send_fds(connection, [_NUMBER.pack(len(text))], [0, 1, 2])
        connection.sendall(text)
        (fork,) = _NUMBER.unpack(_exactly(connection, _NUMBER.size))
        for number in PASSED_ON:
            if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, lambda number, _frame: _pass_on(fork, number))
        connection.sendall(b"1")
        status = _exactly(connection, _NUMBER.size)
        connection.recv(1)  # ends with the fork
    return _NUMBER.unpack(status)[0]


def _pass_on(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def _exactly(connection: socket.socket, size: int) -> bytes:
    """Receive so many bytes; ``SystemExit`` where the other end is gone before."""
    parts = b""
    while len(parts) < size:
        part = b""
        with contextlib.suppress(ConnectionResetError):
            part = connection.recv(size - len(parts))
        if not part:
            raise SystemExit("error: a process was killed, or its server; see above, or dmesg")
        parts += part
    return parts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command with a server (``--``), a module (``-m``), or the server itself."""
    kind, *rest = list(sys.argv[1:] if arguments is None else arguments) or [""]
    if kind == "--" and rest:
        return run_command(rest)
    if kind == "-m" and rest:
        return run_module(rest)
    if kind == "--serve" and rest:
        serve(rest[0], rest[1:])
        return 0
    print(USAGE, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
