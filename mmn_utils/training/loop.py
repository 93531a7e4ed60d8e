"""What every training shares: schedule, checkpoints, progress."""

from __future__ import annotations

import csv
import ctypes
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from mmn_utils.training.muon import Muon, parameter_groups

Summand = Callable[[], torch.Tensor]  # of a loss; computed when it is called
GENTLY = 0.1  # share of the rate at which parameters learn that begin trained


def fast_autocast() -> torch.autocast:
    """Return autocast to bfloat16 where the processor multiplies it fast, else one that is off.

    That takes AMX's tiles. AVX-512's own bfloat16 is no faster than float32, and what turns
    one into the other makes it slower (the encoder by a third); without either it is a
    hundred times slower.
    """
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=torch.cpu._is_amx_tile_supported())


def keep_freed_memory() -> None:
    """Stop glibc from returning large buffers to the system after every use.

    Training allocates the same buffers in every step; having their pages mapped
    anew each time cost a quarter of the speed. Does nothing without glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, TypeError):
        return
    mmap_threshold, trim_threshold, arenas = -3, -1, -8
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)
    mallopt(arenas, 1)  # the limits hold for the main arena; other threads would get their own


def rate_factor(step: int, steps: int, warmup: int, final: float) -> float:
    """Return the learning rate at a step as a share of its peak.

    It rises linearly through the warm-up, then falls by half a cosine to ``final``.
    """
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@dataclass(frozen=True)
class Schedule:
    """Length and learning rate of one training, see ``rate_factor``."""

    steps: int
    rate: float
    warmup: int = 100
    final: float = 0.1
    weight_decay: float = 0.01
    clip: float = 1.0
    save_every: int = 200

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step."""
        return self.rate * rate_factor(step, self.steps, self.warmup, self.final)


@dataclass
class Progress:
    """One line every few seconds, and a row of the training curve for each."""

    name: str
    steps: int
    curve: Path
    every: float = 20.0
    _last: float = 0.0
    _first: tuple[int, float] | None = None  # step and time of the first report

    def __call__(self, step: int, items: int, **values: float) -> None:
        """Report ``values`` at ``step``; ``items`` is how many examples were seen."""
        now = time.monotonic()
        self._first = self._first or (step, now)
        if now - self._last < self.every and step < self.steps:
            return
        self._last = now
        speed = (step - self._first[0]) / max(1e-9, now - self._first[1])
        left = f"  {(self.steps - step) / speed / 60:.1f} min left" if speed else ""
        shown = "  ".join(f"{key} {value:.3f}" for key, value in values.items())
        print(f"{self.name}  {step}/{self.steps}  {shown}{left}", flush=True)
        self._row({"step": step, "items": items, **{k: round(v, 5) for k, v in values.items()}})

    def _row(self, row: dict) -> None:
        new = not self.curve.exists()
        self.curve.parent.mkdir(parents=True, exist_ok=True)
        with self.curve.open("a", newline="") as file:
            writer = csv.DictWriter(file, row.keys(), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)


def side_by_side(threads: int = 2) -> ThreadPoolExecutor:
    """Return threads that compute on one core each.

    Two of them do as much as one that shares out every product, and leave a core to others in
    between.
    """
    torch.get_num_threads()  # fixes this thread's own number, which would follow the others'
    return ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))


class Workers:
    """Threads that compute the gradients of a loss's summands side by side.

    They are added in the order of the summands: how many threads there are, and who else
    wants the cores, changes no bit of the sum.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], threads: int = 2) -> None:
        self.parameters = list(parameters)
        self.pool = side_by_side(threads)

    def gradients(self, losses: Sequence[Summand]) -> float:
        """Set the parameters' gradients to those of the sum of ``losses``; return its value."""
        value = 0.0
        for number, (loss, parts) in enumerate(self.pool.map(self._gradient, losses)):
            value += loss
            for parameter, part in zip(self.parameters, parts, strict=True):
                if number and part is not None:
                    parameter.grad += part
                elif not number:
                    parameter.grad = part
        return value

    def _gradient(self, loss: Summand) -> tuple[float, tuple]:
        """Return one summand and its gradients, None for a parameter that it does not need."""
        value = loss()
        return value.item(), torch.autograd.grad(value, self.parameters, allow_unused=True)


def train(
    name: str,
    parameters: Sequence[torch.nn.Parameter],
    loss_at: Callable[[int], torch.Tensor | Sequence[Summand]],
    schedule: Schedule,
    work: Path,
    items_per_step: int,
    *,
    gently: Sequence[torch.nn.Parameter] = (),
    matrices: Sequence[torch.nn.Parameter] = (),
    state: torch.nn.Module | None = None,
) -> None:
    """Minimise ``loss_at(step)`` with AdamW; go on from the checkpoint of the name, if any.

    Checkpoint and curve are ``name``.pt and ``name``.csv in ``work``; the first holds
    ``state``, or the parameters alone: what is frozen has no place in it.

    ``loss_at`` must depend on the step alone (it seeds its own draws), so that a
    resumed training ends with the weights of an uninterrupted one. It returns the loss,
    or its summands, which two threads work on. Only matrices decay.
    ``gently`` are parameters that begin trained: they learn at ``GENTLY`` of the rate, lest
    what is fresh beside them spoils them first. ``matrices`` are those of the parameters that
    learn by Muon. Raises ValueError for a checkpoint of
    another schedule.
    """
    groups = parameter_groups(parameters, schedule.weight_decay, by_muon={1: matrices})
    if gently:
        groups += parameter_groups(gently, schedule.weight_decay, share=GENTLY)
        parameters = [*parameters, *gently]
    state = state or torch.nn.ParameterList(parameters)
    optimizer = Muon(groups, lr=schedule.rate, betas=(0.9, 0.98), fused=True)
    checkpoint = work / f"{name}.pt"
    workers = Workers(parameters)
    progress = Progress(name, schedule.steps, work / f"{name}.csv")
    start = _resume(checkpoint, state, optimizer, schedule)
    running = None
    for step in range(start, schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * schedule.rate_at(step)
        loss = _backward(loss_at(step), workers)
        torch.nn.utils.clip_grad_norm_(parameters, schedule.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        running = loss if running is None else 0.97 * running + 0.03 * loss
        if (step + 1) % schedule.save_every == 0 or step + 1 == schedule.steps:
            save_checkpoint(checkpoint, state, optimizer, schedule, step + 1)
            progress(step + 1, (step + 1) * items_per_step, loss=running)


def _backward(loss: torch.Tensor | Sequence[Summand], workers: Workers) -> float:
    """Set the gradient of a loss, or of the sum of its summands; return its value."""
    if not isinstance(loss, torch.Tensor):
        return workers.gradients(loss)
    loss.backward()
    return loss.item()


def _resume(checkpoint: Path, state: torch.nn.Module, optimizer, schedule: Schedule) -> int:
    """Load a checkpoint into model and optimiser; return the step to go on from."""
    if not checkpoint.exists():
        return 0
    saved = torch.load(checkpoint, weights_only=True)
    if saved.get("schedule") != asdict(schedule):
        raise ValueError(
            f"{checkpoint} was made with {saved.get('schedule')}, not {asdict(schedule)}: "
            "move it away to start anew"
        )
    state.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return int(saved["step"])


def save_checkpoint(
    path: Path, state: torch.nn.Module, optimizer, schedule: Schedule, step: int
) -> None:
    """Write a checkpoint with the schedule that it belongs to."""
    saved = {"model": state.state_dict(), "optimizer": optimizer.state_dict()}
    save_atomically({**saved, "schedule": asdict(schedule), "step": step}, path)


def save_atomically(content: object, path: Path) -> None:
    """Write a file so that a kill leaves the old one or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".tmp")
    torch.save(content, fresh)
    os.replace(fresh, path)
