"""How much memory a stack takes at its worst: the sum over its processes, shared pages counted once."""

from __future__ import annotations

import contextlib
import threading
from types import TracebackType
from typing import Self

import psutil

from deploy.processes import stack_processes

__all__ = ["MemoryWatch", "memory_bytes"]


def memory_bytes(stack_id: str) -> dict[str, int]:
    """By name, of this process (`driver`) and of all processes of the stack: proportional set size, or resident size
    where the system does not tell it. Processes of one name are added.
    """
    found: dict[str, int] = {}
    own = psutil.Process()
    for process in (own, *stack_processes(stack_id)):
        with contextlib.suppress(psutil.Error):
            told = process.memory_full_info()
            name = "driver" if process == own else process.name().partition(".")[0]
            found[name] = found.get(name, 0) + getattr(told, "pss", told.rss)
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


class MemoryWatch:
    """Looks every so many seconds, in a thread; `peak` is what was seen when the sum was largest."""

    def __init__(self, stack_id: str, *, every_s: float = 10.0) -> None:
        self._stack_id = stack_id
        self._every_s = every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory watch", daemon=True)
        self.peak: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    @property
    def peak_bytes(self) -> int:
        return sum(self.peak.values())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(5.0)

    def _watch(self) -> None:
        while not self._ended.wait(self._every_s):
            now = memory_bytes(self._stack_id)
            if sum(now.values()) > self.peak_bytes:
                self.peak = now
