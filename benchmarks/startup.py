"""How long each part of the stack takes to start and to stop, and how much memory it takes when it runs.

Each repetition starts a stack of its own (embedded server, local Ray, Serve, oracles, reward workers) in a folder that
is removed afterwards. Memory counts shared pages once; this process is in it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from benchmarks.record import Figure, parser, report
from deploy.local import Stack
from deploy.memory import memory_bytes
from deploy.progress import ConsoleProgress
from deploy.settings import Settings
from deploy.signals import stopping_on_signals


def measure() -> dict[str, float]:
    """Seconds by part, and GiB, of one stack."""
    with tempfile.TemporaryDirectory(prefix="rewardmesh-startup-") as folder, stopping_on_signals() as install:
        settings = Settings(run_root=Path(folder), dashboard_port=0, serve_port=0)
        stack = Stack(settings, progress=ConsoleProgress(Console(stderr=True)), on_connected=install)
        began = time.monotonic()
        with stack:
            measured = dict(stack.timings.seconds)
            measured["start, all of it"] = time.monotonic() - began
            measured["memory"] = sum(memory_bytes(stack.state.stack_id).values()) / 2**30
            began = time.monotonic()
        measured["stop"] = time.monotonic() - began
    return measured


def main() -> int:
    """Prints the table."""
    arguments = parser(__doc__)
    arguments.set_defaults(repetitions=1)
    given = arguments.parse_args()
    runs = [measure() for _ in range(given.repetitions)]
    units = {"memory": "GiB"}
    figures = [Figure(part, units.get(part, "s"), [run[part] for run in runs if part in run]) for part in runs[0]]
    report("startup", figures, json_file=given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
