"""Processes that outlive a call: started in a session of their own, recorded, and stopped without leaving any behind.

Every process of a stack inherits `REWARDMESH_STACK_ID`. That is how those which were orphaned (Ray's dashboard starts
a fork server that changes its parent) are still found, and how nobody else's are ever touched. Some of Ray's write
their title over their environment: those are known by the session of a process that has not.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

__all__ = ["STACK_ID", "ProcessRecord", "record_of", "spawn", "stack_processes", "stop_processes", "wait_until"]

STACK_ID = "REWARDMESH_STACK_ID"
_started: list[subprocess.Popen[bytes]] = []


class ProcessRecord(BaseModel):
    """A process, told apart from a later one that was given the same number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pid: int
    started_at: float

    def process(self) -> psutil.Process | None:
        """The process, or None if it has ended."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started_at) < 1.0
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    @property
    def alive(self) -> bool:
        return self.process() is not None


def record_of(pid: int | None = None) -> ProcessRecord:
    """The record of a running process, by default of this one."""
    process = psutil.Process(pid)
    return ProcessRecord(pid=process.pid, started_at=process.create_time())


def spawn(command: Sequence[str], *, environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Starts the command in its own session (Ctrl-C in our terminal does not reach it), output appended to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(command),
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _started.append(process)  # a child that nobody refers to any more could not be reaped
    return process


def stack_processes(stack_id: str) -> list[psutil.Process]:
    """All running processes that inherited this stack's id, this one excepted."""
    found, untold = [], []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):  # ended meanwhile, or somebody else's
            if process.pid == os.getpid() or not _running([process]):
                continue
            environment = process.environ()
            if environment.get(STACK_ID) == stack_id:
                found.append((process, os.getsid(process.pid)))
            elif STACK_ID not in environment and process.name().startswith("ray::"):
                untold.append((process, os.getsid(process.pid)))
    sessions = {session for _, session in found} - {os.getsid(0)}
    return [process for process, _ in found] + [process for process, session in untold if session in sessions]


def stop_processes(processes: Iterable[psutil.Process], *, grace_s: float) -> list[int]:
    """Asks the processes to end, waits, and kills those that did not. Returns the numbers of the killed."""
    asked = list(processes)
    for process in asked:
        _quietly(process.terminate)
    wait_until(lambda: not _running(asked), timeout_s=grace_s)
    killed = _running(asked)
    for process in killed:
        _quietly(process.kill)
    wait_until(lambda: not _running(killed), timeout_s=5.0)
    return [process.pid for process in killed]


def wait_until(condition: Callable[[], bool], *, timeout_s: float, interval_s: float = 0.05) -> bool:
    """True as soon as the condition holds, False if the time passes first."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(interval_s)
    return True


def _running(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that still run. One that has ended and waits for its parent to notice does not."""
    _started[:] = [process for process in _started if process.poll() is None]
    running = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                running.append(process)
    return running


def _quietly(action: Callable[[], None]) -> None:
    with contextlib.suppress(psutil.Error):
        action()
