"""A training that can be stopped at any moment and goes on where it was: used for everything that is pre-trained.

Owns steps, checkpoints, the learning-rate schedule, the running averages and the progress bar. What a step computes is
the caller's. Not used for post-training, which has a loop of its own (``trainer.loop``).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn


@dataclass(frozen=True)
class Schedule:
    """Warm-up, then a cosine down to a twentieth of ``learning_rate``, over ``num_steps`` steps."""

    num_steps: int
    learning_rate: float
    warmup_steps: int = 100
    ema_decay: float = 0.0
    """0 keeps no average."""
    checkpoint_every_s: float = 60.0

    def rate(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps)
        return self.learning_rate * (0.05 + 0.95 * (1 + math.cos(math.pi * min(1.0, progress))) / 2)


class ResumableTraining:
    """Runs ``step -> loss`` over a set of modules; see ``run``."""

    def __init__(self, name: str, modules: dict[str, nn.Module], *, schedule: Schedule, folder: Path, seed: int):
        self.name, self.modules, self.schedule, self.folder, self.seed = name, modules, schedule, folder, seed
        self.step, self.seconds = 0, 0.0
        self._parameters = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=schedule.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self._ema = [p.detach().clone() for p in self._parameters] if schedule.ema_decay else []
        self._load()

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.name}.pt"

    def run(self, loss_at: Callable[[int], dict[str, Tensor]]) -> None:
        """Trains to the last step; ``loss_at(step)`` returns named losses, of which ``loss`` is descended.

        A step must draw its data from its number, so that a training which was stopped repeats nothing and skips
        nothing. Ctrl-C saves a checkpoint on the way out.
        """
        saved_at = started = time.monotonic()
        before = self.seconds
        with self._progress() as advance:
            try:
                while self.step < self.schedule.num_steps:
                    losses = self._one(loss_at)
                    self.step += 1
                    self.seconds = before + time.monotonic() - started
                    advance(losses)
                    if time.monotonic() - saved_at > self.schedule.checkpoint_every_s:
                        self.save()
                        saved_at = time.monotonic()
            finally:
                self.save()

    def _one(self, loss_at: Callable[[int], dict[str, Tensor]]) -> dict[str, float]:
        torch.manual_seed(self.seed * 1_000_003 + self.step)
        for group in self._optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.step)
        losses = loss_at(self.step)
        if not torch.isfinite(losses["loss"]):
            raise FloatingPointError(f"{self.name}: the loss of step {self.step} is {losses['loss'].item()}")
        self._optimizer.zero_grad()
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        if self._ema:
            decay = min(self.schedule.ema_decay, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self._ema, [p.detach() for p in self._parameters], 1 - decay)
        return {name: float(value.detach()) for name, value in losses.items()}

    def use_average(self) -> None:
        """Puts the running average into the modules; what is trained afterwards would start from it."""
        for parameter, average in zip(self._parameters, self._ema, strict=True):
            parameter.data.copy_(average)

    def save(self) -> None:
        """Writes the checkpoint, atomically."""
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizer": self._optimizer.state_dict(),
            "ema": self._ema,
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def _load(self) -> None:
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        for average, saved in zip(self._ema, state["ema"], strict=True):
            average.copy_(saved)
        self.step, self.seconds = state["step"], state["seconds"]

    def _progress(self) -> Bar:
        return Bar(self.name, first=self.step, total=self.schedule.num_steps)


def save_atomically(state: dict[str, Any], file: Path) -> None:
    """Writes tensors, numbers and strings so that a reader finds the old file or the new one, never half of one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(file)


class Bar:
    """A bar on a terminal, a line every twenty-five steps elsewhere."""

    def __init__(self, name: str, *, first: int, total: int):
        self._name, self._step, self._total = name, first, total
        self._average: dict[str, float] = {}
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
        self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
        self._task = self._bar.add_task(name, total=total, completed=first)

    def __enter__(self) -> Callable[[dict[str, float]], None]:
        if sys.stderr.isatty():
            self._bar.start()
        return self._advance

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _advance(self, losses: dict[str, float]) -> None:
        self._step += 1
        for name, value in losses.items():
            self._average[name] = value + 0.98 * (self._average.get(name, value) - value)
        words = "  ".join(f"{name} {value:.4f}" for name, value in self._average.items())
        self._bar.update(self._task, completed=self._step, description=f"{self._name}  {words}")
        if not sys.stderr.isatty() and (self._step % 25 == 0 or self._step == self._total):
            print(f"{self._name} {self._step}/{self._total}  {words}", file=sys.stderr, flush=True)
