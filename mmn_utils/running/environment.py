"""What a kernel's process is started with: the one place that papermill, JupyterLab and make share.

    python -m mmn_utils.running.environment            write it into this environment's kernel
    python -m mmn_utils.running.environment COMMAND    run a command in it

Some of it is read when a process starts, or when torch is first loaded: too late for a cell.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

KERNEL = "python3"
ENVIRONMENT = {
    # Threads that wait sleep, and leave the core to another notebook.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Pages of large tensors are kept for the next ones, not given back to the system each time.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "TOKENIZERS_PARALLELISM": "false",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    # These keep bytes and order the same from run to run.
    "PYTHONHASHSEED": "0",
    "SOURCE_DATE_EPOCH": "0",
    # The environment's own kernel is found before a user's.
    "JUPYTER_PREFER_ENV_PATH": "1",
}


def with_defaults(given: dict[str, str] | None = None) -> dict[str, str]:
    """Return an environment, by default this process's, where what it sets itself stays."""
    return {**ENVIRONMENT, **(os.environ if given is None else given)}


def write_kernel(prefix: str | Path = sys.prefix) -> Path:
    """Give the kernel of a Python environment what it is to start with; return its spec's path.

    JupyterLab starts kernels by this spec. ``FileNotFoundError`` where there is none.
    """
    path = Path(prefix) / "share" / "jupyter" / "kernels" / KERNEL / "kernel.json"
    if not path.is_file():
        raise FileNotFoundError(f"no kernel at {path}; install ipykernel into that environment")
    spec = json.loads(path.read_text())
    path.write_text(json.dumps({**spec, "env": ENVIRONMENT}, indent=1) + "\n")
    return path


@contextlib.contextmanager
def socket_folder() -> Iterator[Path]:
    """Have a temporary folder for sockets, whose paths a system may limit to 103 bytes.

    It is in ``/tmp`` where the path of the folder for temporary files is too long.
    """
    usual = tempfile.gettempdir()
    place = usual if len(os.fsencode(usual)) <= 70 else "/tmp"
    with tempfile.TemporaryDirectory(prefix="mmn-", dir=place) as folder:
        yield Path(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the kernel's spec, or become a command."""
    command = list(sys.argv[1:] if arguments is None else arguments)
    if not command:
        print(write_kernel())
        return
    os.execvpe(command[0], command, with_defaults())


if __name__ == "__main__":
    main()
