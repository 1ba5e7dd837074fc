"""Memory of a stack, by process."""

from __future__ import annotations

import time

from deploy.memory import MemoryWatch, memory_bytes


def test_this_process_is_in_it() -> None:
    found = memory_bytes("no such stack")
    assert list(found) == ["driver"]
    assert found["driver"] > 10 * 2**20


def test_the_largest_sum_is_kept() -> None:
    with MemoryWatch("no such stack", every_s=0.05) as watch:
        time.sleep(0.3)
    assert watch.peak_bytes == sum(watch.peak.values()) > 0
