"""Bombs, liars and oversize requests: each refused by the real app in a real process, which stays small and alive."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import httpx
import pytest

from benchmarks.bombs import CASES, Case, Served, serving

MAX_GROWTH_MIB = 600  # some times the largest body (64 MiB); what the bombs hold opened is 768 MiB to 10 GiB

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(sys.platform != "linux", reason="a process's peak memory is read from /proc"),
]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving() as started:
        yield started
        assert httpx.get(f"{started.url}/v1/health", trust_env=False).is_success


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_refused_and_cheaply(served: Served, case: Case) -> None:
    refused, grown_mib = served.ask(case.request())
    assert refused == case.refused
    assert grown_mib < MAX_GROWTH_MIB
