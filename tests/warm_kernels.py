"""Kernels that begin with torch and transformers loaded, which takes a new process eight seconds.

Each is a fork of multiprocessing's fork server, with the arguments, the environment and the folder
that it would have been started with. What a process reads when it starts, it has from the server.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import time

# Nothing of this project: what is tested is imported by the notebook.
LOADED = ("torch", "transformers.generation.utils", "bert_score", "matplotlib.pyplot", "pandas",
          "pyarrow.parquet", "ipykernel.kernelapp")  # fmt: skip
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(list(LOADED))


class Fork:
    """A kernel's process, for those who expect it to be a ``subprocess.Popen``."""

    stdin = stdout = stderr = None

    def __init__(self, command, env=None, cwd=None, **_options):
        given = list(command), dict(os.environ if env is None else env), str(cwd or os.getcwd())
        self.process = _server.Process(target=_become, args=given, daemon=True)
        self.process.start()
        self.pid = self.process.pid
        while self.poll() is None and os.getpgid(self.pid) != self.pid:
            time.sleep(0.005)  # else what is meant for its group would go to that of the tests

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self.process.join(timeout)
        return self.poll()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _become(command: list[str], env: dict[str, str], cwd: str) -> None:
    """Do as ``python -m MODULE ARGUMENTS``, which a kernel's command is."""
    os.setsid()
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    place = command.index("-m")
    sys.argv = command[place + 1 :]
    runpy.run_module(command[place + 1], run_name="__main__", alter_sys=True)
