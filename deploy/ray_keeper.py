"""The process that holds a local Ray: starts it, says that it is ready, and waits to be asked to end.

    python -m deploy.ray_keeper '{"num_cpus": 4, …}' READY_FILE

Ray's parts share its fate: they end when it does, also by kill -9. Not for people; `deploy.ray_head` starts it.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import ray

__all__ = ["keep"]


def keep(facts: dict[str, Any], ready_file: Path) -> None:
    """Starts Ray with `ray.init(**facts)`, writes its address into `ready_file`, and ends on SIGTERM or SIGINT."""
    ended = threading.Event()
    ray.init(address="local", log_to_driver=False, logging_level=logging.WARNING, **facts)
    for number in (signal.SIGTERM, signal.SIGINT):  # after ray.init, which sets handlers of its own
        signal.signal(number, lambda *_: ended.set())
    ready_file.write_text(ray.get_runtime_context().gcs_address)
    ended.wait()
    ray.shutdown()


if __name__ == "__main__":
    keep(json.loads(sys.argv[1]), Path(sys.argv[2]))
