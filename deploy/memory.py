"""How much memory a stack takes at its worst: the sum over its processes, shared pages counted once."""

from __future__ import annotations

import contextlib
import threading
from types import TracebackType
from typing import Self

import psutil

from deploy.processes import stack_processes

__all__ = ["MemoryWatch", "memory_bytes"]


def memory_bytes(stack_id: str) -> int:
    """Proportional set size of this process and of all processes of the stack; resident size where that is not told."""
    total = 0
    for process in (psutil.Process(), *stack_processes(stack_id)):
        with contextlib.suppress(psutil.Error):
            told = process.memory_full_info()
            total += getattr(told, "pss", told.rss)
    return total


class MemoryWatch:
    """Looks every so many seconds, in a thread; `peak_bytes` is the most that was seen."""

    def __init__(self, stack_id: str, *, every_s: float = 10.0) -> None:
        self._stack_id = stack_id
        self._every_s = every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory watch", daemon=True)
        self.peak_bytes = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(5.0)

    def _watch(self) -> None:
        while not self._ended.wait(self._every_s):
            self.peak_bytes = max(self.peak_bytes, memory_bytes(self._stack_id))
