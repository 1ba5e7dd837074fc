"""Progress that can be seen from the first second: steps that begin, tell, and end with the time they took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console

__all__ = ["ConsoleProgress", "Progress", "SilentProgress", "Timings"]


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
            self._console.print(f"{part}: {text} …", highlight=False, markup=False)
            return
        self._status.update(f"{part}: {text}")
        self._status.start()

    def tell(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    def end(self, part: str, seconds: float, text: str = "") -> None:
        if self._status is not None:
            self._status.stop()
        self._console.print(f"{part}: {text or 'ready'} ({seconds:.1f} s)", highlight=False, markup=False)


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
