"""Ctrl-C and kill, made into one exception that unwinds whatever runs; a second one does not stop the clean-up."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["StopRequested", "stopping_on_signals", "undisturbed"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequested(KeyboardInterrupt):
    """Somebody wants this process to end: Ctrl-C, kill, or a closed terminal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_status(self) -> int:
        """What a shell expects of a process that ended so."""
        return 128 + self.number


def _raise(number: int, _frame: FrameType | None) -> None:
    raise StopRequested(number)


@contextmanager
def stopping_on_signals() -> Iterator[Callable[[], None]]:
    """Within it, the signals raise StopRequested in the main thread. Yields a call that takes the handlers back, for
    after `ray.init`, which puts its own in their place.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def install() -> None:
        for number in _SIGNALS:
            signal.signal(number, _raise)

    install()
    try:
        yield install
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within it the signals do nothing: cleaning up is bounded in time and must not be left half done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
