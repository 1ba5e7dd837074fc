"""Processes of a stack are found by what they inherited, and stopped, however they resist."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

import psutil
import pytest

from deploy.processes import STACK_ID, ProcessRecord, record_of, spawn, stack_processes, stop_processes, wait_until

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def stack_id() -> str:
    return uuid.uuid4().hex


def test_children_that_left_their_parent_are_found_and_stopped(stack_id: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    spawn([sys.executable, "-c", STUBBORN], environment={STACK_ID: stack_id}, log=log)
    assert wait_until(lambda: "ready" in log.read_text(), timeout_s=20)
    found = stack_processes(stack_id)
    assert len(found) == 2
    killed = stop_processes(found, grace_s=0.5)
    assert len(killed) == 2  # both ignore being asked: that is inherited
    assert stack_processes(stack_id) == []


def test_nobody_elses_processes_are_found(stack_id: str) -> None:
    assert stack_processes(stack_id) == []


def test_a_record_is_not_fooled_by_a_number_that_was_used_again() -> None:
    record = record_of()
    assert record.alive
    assert record.process() == psutil.Process()
    assert not ProcessRecord(pid=record.pid, started_at=record.started_at - 60).alive


def test_waiting_has_an_end() -> None:
    assert not wait_until(lambda: False, timeout_s=0.1)
