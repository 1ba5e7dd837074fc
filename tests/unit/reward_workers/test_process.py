"""`python -m reward_workers` as an operator meets it: one clear line and a status when it cannot work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reward_workers.settings import WorkerSettings

ROOT = Path(__file__).parents[3]


@pytest.mark.timeout(120)  # seconds where the cores are free
@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"REDIS_URL": "unix:///nonexistent/socket"}, "does not answer"),
        ({"REWARDMESH_WORKER_LEASE_S": "-1"}, "lease_s"),
    ],
)
def test_a_worker_that_cannot_work_says_so_in_one_line(environment: dict[str, str], says: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "reward_workers"],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert says in line


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://one:1")
    monkeypatch.setenv("REWARDMESH_WORKER_REPLICAS", "3")
    assert WorkerSettings().redis_url == "redis://one:1"
    assert WorkerSettings().replicas == 3
    monkeypatch.setenv("REWARDMESH_WORKER_REDIS_URL", "redis://two:2")
    assert WorkerSettings().redis_url == "redis://two:2"
    assert WorkerSettings(redis_url="redis://three:3").redis_url == "redis://three:3"
