"""What a benchmark put up ends with it, also when it is told to end."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil
import pytest

WAITS = """
import time
from benchmarks.served import embedded_server, worker_process
with embedded_server() as url, worker_process(url):
    print("up", flush=True)
    time.sleep(120)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_what_was_started(number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) == 2
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert "StopRequested" in said
        assert [one for one in started if one.is_running()] == []
    finally:
        process.kill()
        process.communicate()
