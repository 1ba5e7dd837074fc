"""One training run on a stack: started in a thread, watched from the main one, stopped in order when asked.

The trainer is a Ray Train controller and its workers: they belong to this process's job and end with it, while the
stack may go on.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from deploy.live import follow
from deploy.signals import StopRequested

if TYPE_CHECKING:
    from trainer.launch import LaunchResult
    from trainer.recipe import Recipe

__all__ = ["Training", "train_and_show"]

_FINISH_S = 20.0


class Training:
    """`trainer.launch.launch` in a thread of its own."""

    def __init__(
        self, recipe: Recipe, run_folder: Path, *, redis_url: str, num_workers: int = 1, cpus_per_worker: float = 1.0
    ) -> None:
        self._recipe = recipe
        self.run_folder = run_folder
        self._redis_url = redis_url
        self._num_workers = num_workers
        self._cpus_per_worker = cpus_per_worker
        self._result: LaunchResult | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._launch, name="training", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> LaunchResult:
        """How it ended. Raises what ended it."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def ask_to_stop(self) -> None:
        """Asks for the end after this iteration, with a checkpoint."""
        self.run_folder.mkdir(parents=True, exist_ok=True)
        (self.run_folder / "stop").touch()

    def wait(self, seconds: float) -> bool:
        """True if it ended within that time."""
        self._thread.join(seconds)
        return self.done()

    def _launch(self) -> None:
        from trainer.launch import launch

        try:
            self._result = launch(
                self._recipe,
                self.run_folder,
                num_workers=self._num_workers,
                buffer_url=self._redis_url,
                cpus_per_worker=self._cpus_per_worker,
            )
        except BaseException as error:  # noqa: BLE001 - handed to whoever asks for the result
            self._error = error


def train_and_show(training: Training, *, console: Console, title: str) -> LaunchResult:
    """Runs the training with the live view. Ctrl-C lets the iteration end and write its checkpoint, for some seconds;
    a second one does not wait. Raises StopRequested then, and what ended training otherwise.
    """
    training.start()
    try:
        follow(training.run_folder, done=training.done, console=console, title=title)
    except StopRequested:
        training.ask_to_stop()
        console.print(
            f"stopping: letting this iteration end and write its checkpoint, for {_FINISH_S:.0f} s at most "
            "(Ctrl-C again: at once)",
            soft_wrap=True,
            highlight=False,
        )
        with contextlib.suppress(StopRequested):
            training.wait(_FINISH_S)
        raise
    return training.result()
