"""One notebook, headless: checked, recorded, executed by papermill."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from traitlets.config import Config

from mmn_utils.compat import unavailable
from mmn_utils.exhibits.entries import made_exhibits
from mmn_utils.exhibits.formats import to_json, write_text
from mmn_utils.exhibits.ledger import forget
from mmn_utils.presets import (
    ROOT,
    Preset,
    data_path,
    from_here,
    from_root,
    notebook_path,
    resolve,
)
from mmn_utils.running.environment import KERNEL, socket_folder, with_defaults

PATHS = {"model", "data_root", "classes"}  # parameters that may be paths


def execute(
    notebook: str | Path,
    preset: str | Path | Preset = "miniature",
    overrides: Mapping[str, Any] | None = None,
    *,
    output_root: str | Path = "build",
    figures: str | Path | None = None,
    cache: str | Path | None = None,
    atlas: str | Path | None = None,
    lines: bool = False,
) -> Path:
    """Run a notebook on a preset; return the path of the executed copy.

    What ran to its end is a page of the run, too (``notebook_pages``). ``output_root`` is
    relative to the repository, and what ``overrides`` name by a path to where one stands.
    ``figures``, ``cache`` and ``atlas`` replace ``figures/``, ``data/cache/results/`` and
    ``data/atlas/``. With ``lines``, whatever is printed comes in
    lines that begin with the run and the notebook, for others run beside it.

    ValueError for bad parameters, before a kernel starts; papermill's
    PapermillExecutionError where a cell fails, and then the executed copy ends at that cell.
    """
    path = notebook_path(notebook)
    parameters = check(path, preset, overrides)
    folder = from_root(output_root) / parameters["run"]
    output = folder / "notebooks" / path.name
    output.parent.mkdir(parents=True, exist_ok=True)
    redirected = {"MMN_FIGURES": figures, "MMN_CACHE": cache, "MMN_ATLAS": atlas}
    redirected["MMN_BUILD"] = output_root
    paths = {name: str(from_root(value)) for name, value in redirected.items() if value}
    # which the kernel inherits; nobody will touch what it shows
    with _environment({**with_defaults(), **paths, "MMN_HEADLESS": "1"}):
        forget(parameters["run"], path)
        record = folder / "parameters" / f"{path.stem}.json"
        _record(record, path, parameters, made=[])
        _papermill(path, output, parameters, lines)
        # here, where jsonschema, which it needs, has been imported for papermill
        from mmn_utils.running.notebook_pages import write_page

        write_page(output, parameters["run"])
        _record(record, path, parameters, made_exhibits(parameters["run"], path))
    return output


def check(
    notebook: str | Path,
    preset: str | Path | Preset,
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the resolved parameters; ValueError where a kernel must not be started.

    That is what ``resolve`` refuses, a variable that the environment does not have, and a
    parameter that papermill would not see.
    """
    papermill = load_papermill()
    path = notebook_path(notebook)
    parameters = resolve(path, preset, _whole(overrides or {}))
    for value in parameters.values():
        if isinstance(value, str) and "$" in value:
            from_root(value)  # a variable that is not set is an error now
    seen = papermill.inspect_notebook(str(path))
    hidden = [name for name in parameters if name not in seen]
    if hidden:
        raise ValueError(
            f"{path.name}: papermill does not see {', '.join(hidden)}; write "
            "'name = literal  # comment' on one line"
        )
    return parameters


def _whole(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with paths that are there from here made whole, for a kernel elsewhere.

    The name of a miniature is no path, wherever one stands.
    """
    found = dict(overrides)
    for name in PATHS & found.keys():
        if isinstance(found[name], str) and found[name]:
            here = from_here(found[name])
            if here.exists() and here not in (data_path(found[name]), from_root(found[name])):
                found[name] = str(here)
    return found


def load_papermill():
    """Import papermill, which what only looks parameters up does without."""
    # jsonschema would have a grammar of international addresses compiled, each time it is
    # imported: three seconds, for a check that no notebook asks for
    with unavailable("rfc3987_syntax"):
        import papermill
    return papermill


def _record(record: Path, path: Path, parameters: dict[str, Any], made: list[str]) -> None:
    """Write down the resolved parameters and, after the run, which exhibits came of them."""
    content = {"notebook": path.stem, "parameters": parameters, "exhibits": made}
    write_text(record, to_json(content))


def _papermill(path: Path, output: Path, parameters: dict[str, Any], lines: bool) -> None:
    papermill = load_papermill()
    out, error = sys.stdout, sys.stderr
    if lines:
        out, error = (_Lines(to, f"{parameters['run']} {path.stem}") for to in (out, error))
    with _channels() as channels:
        papermill.execute_notebook(
            str(path),
            str(output),
            parameters=parameters,
            kernel_name=KERNEL,
            cwd=str(ROOT),
            progress_bar={
                "desc": "cells" if lines else path.stem,
                "file": error,
                # Where nobody watches a terminal, a line now and then instead of a moving bar.
                "mininterval": 0.1 if error.isatty() else 10,
            },
            # or each kernel warns that its messages on this machine are not encrypted, and
            # reports the interrupt by which it is shut down; a cell that fails is told of by
            # papermill
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
            stdout_file=out,
            stderr_file=error,
            config=channels,
            coalesce_streams=True,  # of a bar, the copy holds the end
        )


@contextlib.contextmanager
def _channels() -> Iterator[Config]:
    """Have a kernel listen in a folder of its own, where the system has such sockets.

    Ports are chosen before the kernel listens on them, and another that starts in between may
    have taken one: then the kernel dies.
    """
    if os.name != "posix":
        yield Config()
        return
    with socket_folder() as folder:
        yield Config(KernelManager={"transport": "ipc", "ip": str(folder / "kernel")})


class _Lines:
    """A text stream that passes whole lines on, each with a name in front."""

    def __init__(self, stream: TextIO, name: str):
        self.stream, self.name, self.text = stream, name, ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        """Write what has come so far; a bar's way back to the line's start ends a line."""
        lines = [line for line in re.split(r"[\r\n]", self.text) if line.strip()]
        # one write for all, so that no other process gets between
        self.stream.write("".join(f"{self.name} | {line.rstrip()}\n" for line in lines))
        self.stream.flush()
        self.text = ""

    def isatty(self) -> bool:
        return False


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
