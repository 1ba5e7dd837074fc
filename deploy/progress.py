"""Progress that can be seen from the first second: steps that begin, tell, and end with the time they took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

__all__ = ["ConsoleProgress", "Progress", "SilentProgress", "Timings", "counting"]


class Progress(Protocol):
    """Who is told what happens."""

    def begin(self, part: str, text: str) -> None:
        """A part begins."""

    def tell(self, text: str) -> None:
        """Something worth a line."""

    def end(self, part: str, seconds: float, text: str = "") -> None:
        """A part is done."""


class SilentProgress:
    """For tests and for callers who look at the timings afterwards."""

    def begin(self, part: str, text: str) -> None: ...

    def tell(self, text: str) -> None: ...

    def end(self, part: str, seconds: float, text: str = "") -> None: ...


class ConsoleProgress:
    """A line when a part begins, a line when it is done; a spinner between them on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("") if console.is_terminal else None

    def begin(self, part: str, text: str) -> None:
        if self._status is None:
            self._console.print(f"{part}: {text} …", highlight=False, markup=False, soft_wrap=True)
            return
        self._status.update(f"{part}: {text}")
        self._status.start()

    def tell(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def end(self, part: str, seconds: float, text: str = "") -> None:
        if self._status is not None:
            self._status.stop()
        self._console.print(
            f"{part}: {text or 'ready'} ({seconds:.1f} s)", highlight=False, markup=False, soft_wrap=True
        )


@contextmanager
def counting(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """Shows how far a counted piece of work is: a bar on a terminal, else a line at each quarter."""
    began = time.monotonic()
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bar(*columns, console=console, transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        said = 0

        def tell(done: int, total: int) -> None:
            nonlocal said
            if 4 * done // total > said:
                said = 4 * done // total
                console.print(f"{what}: {done} of {total}", highlight=False, markup=False, soft_wrap=True)

        yield tell
    console.print(f"{what}: done ({time.monotonic() - began:.1f} s)", highlight=False, markup=False, soft_wrap=True)


@dataclass
class Timings:
    """Seconds by part, told to `progress` as they are taken."""

    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str, text: str) -> Iterator[list[str]]:
        """Times a part. What the caller appends to the list is said when it ends."""
        self.progress.begin(name, text)
        started = time.monotonic()
        said: list[str] = []
        yield said
        self.seconds[name] = time.monotonic() - started
        self.progress.end(name, self.seconds[name], " ".join(said))
