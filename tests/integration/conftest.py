"""One real stack for all integration tests: the compose file's buffer and head, as processes of this machine.

A server, Ray with its dashboard, the oracles with their weights, people, the reward workers. Tests join it as a trainer
on another machine would: by `REDIS_URL` and `RAY_ADDRESS`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.processes import stack_processes
from deploy.settings import Settings
from deploy.state import StackState, read_state
from tests.integration.compose import LocalService, any_ports

START_S = 600.0  # two busy cores; half a minute on two that are idle


@dataclass(frozen=True)
class RunningStack:
    """Where the stack is, and what a process needs to join it."""

    redis: LocalService
    head: LocalService
    state: StackState
    folder: Path

    @property
    def redis_url(self) -> str:
        return self.head.environment["REDIS_URL"]

    def environment(self, run_root: Path, *, join_ray: bool = True) -> dict[str, str]:
        """For a command that joins the stack. Only the buffer is joined where `join_ray` is False."""
        joined = {"REDIS_URL": self.redis_url, "REWARDMESH_RUN_ROOT": str(run_root)}
        if join_ray:
            assert self.state.ray_address is not None
            joined |= {"RAY_ADDRESS": self.state.ray_address, "RAY_AUTH_MODE": "token"}
        return {**os.environ, **joined}


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    folder = tmp_path_factory.mktemp("stack")
    ports = any_ports()
    redis = LocalService("redis", folder=folder, ports=ports)
    head = LocalService("head", folder=folder, ports=ports, REWARDMESH_PREFERENCE="true")
    redis.start()
    try:
        redis.wait_until_healthy(30)
        head.start()
        try:
            head.wait_until_healthy(START_S)
            state = read_state(Settings(run_root=folder / "stack").state_dir)
            assert state is not None
            yield RunningStack(redis, head, state, folder)
        finally:
            head.stop()
        assert stack_processes(state.stack_id) == [], "the head left processes behind"
    finally:
        redis.stop()


def rewardmesh(*arguments: str, environment: dict[str, str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "deploy.cli", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
