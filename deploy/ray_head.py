"""A local Ray head with its dashboard, bound to loopback, that outlives the command which started it.

`deploy.ray_keeper` is the process that holds it, so that `rewardmesh up` can leave it running; when that process ends,
however it ends, Ray's parts end with it. What is fixed here, and why:

- usage statistics are off, and so is Ray's rebuilding of uv environments in workers;
- a token is asked for, as Ray does by default for a cluster that `ray.init` starts;
- `RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0`: off those two systems too, the node's address is 127.0.0.1, and nothing of Ray
  listens on another interface (`deploy.ray_loopback` sees to Serve's). Where the settings name another host (compose),
  the node's own address is used;
- no drain when it is stopped: it is the only node, there is nowhere to drain to.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from deploy.ports import free_port
from deploy.processes import STACK_ID, ProcessRecord, record_of, spawn, stack_processes, stop_processes
from deploy.settings import Settings
from rewardmesh.wire.errors import RewardmeshError

__all__ = ["RayHead", "RayUnavailable", "ensure_token", "keep_logs", "local_environment", "session_folder", "stop_ray"]

_LOOPBACK = "127.0.0.1"
_STOP_S = 15.0


class RayUnavailable(RewardmeshError):
    """A Ray cluster did not start, or does not answer."""


def ensure_token() -> None:
    """Makes sure that Ray's default token file exists, readable by its owner alone; an own token is respected."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return  # where it is, Ray says itself if it cannot be read
    path = Path.home() / ".ray" / "auth_token"
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32))


def local_environment(settings: Settings) -> dict[str, str]:
    """What a driver and a head of a local Ray both need in their environment, before Ray is imported."""
    return {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "token"),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0" if settings.is_loopback else "1",
        "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
        # On few cores, what only looks must not take them from what computes: Serve's controller looks twice a second
        # instead of ten times, and workers are not set behind Ray's own processes.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        "RAY_worker_niceness": "0",
    }


def session_folder() -> Path:
    """A short private folder for Ray's session: its unix sockets are deep in it, and their paths are limited."""
    return Path(tempfile.mkdtemp(prefix="rewardmesh-ray-"))


class RayHead:
    """A head of our own. `start` returns once drivers can connect; `stop` leaves no process of its stack."""

    def __init__(self, settings: Settings, *, stack_id: str, session: Path, log: Path, dashboard_port: int) -> None:
        self._settings = settings
        self._stack_id = stack_id
        self.session = session
        self.log = log
        self.port = settings.ray_port or free_port()
        self.dashboard_port = dashboard_port
        self.record: ProcessRecord | None = None

    @property
    def address(self) -> str:
        """For drivers on this machine."""
        return f"{_LOOPBACK}:{self.port}"

    @property
    def dashboard_url(self) -> str:
        return f"http://{_LOOPBACK}:{self.dashboard_port}"

    def command(self) -> list[str]:
        """The keeper, with everything that it needs to know."""
        settings = self._settings
        facts = {
            "num_cpus": settings.logical_cpus,
            "object_store_memory": settings.object_store_bytes,
            "dashboard_host": settings.host,
            "dashboard_port": self.dashboard_port,
            "_temp_dir": str(self.session),
            **({"_node_ip_address": _LOOPBACK} if settings.is_loopback else {}),
        }
        return [sys.executable, "-P", "-m", "deploy.ray_keeper", json.dumps(facts), str(self._ready_file)]

    def environment(self) -> Mapping[str, str]:
        """What the keeper and all that it starts inherit. Metrics ports of Ray's own parts are any free ones."""
        return {
            **local_environment(self._settings),
            STACK_ID: self._stack_id,
            **({"RAY_preload_python_modules": "deploy.ray_loopback"} if self._settings.is_loopback else {}),
            "RAY_GCS_SERVER_PORT": str(self.port),
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            # A machine that is busy starts slowly and is not broken: Serve would kill its proxy after 5 s.
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
            "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
            "RAY_DASHBOARD_STARTUP_TIMEOUT_S": str(int(self._settings.start_timeout_s)),
            "AUTOSCALER_METRIC_PORT": str(free_port()),
            "DASHBOARD_METRIC_PORT": str(free_port()),
        }

    def spawn(self) -> ProcessRecord:
        """Starts the keeper and returns at once."""
        ensure_token()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.unlink(missing_ok=True)
        self.record = record_of(spawn(self.command(), environment=self.environment(), log=self.log).pid)
        return self.record

    def wait(self, *, timeout_s: float) -> None:
        """Returns once drivers can connect.

        Raises: RayUnavailable, with the last line of its log, if it ends or does not get ready in time.
        """
        deadline = time.monotonic() + timeout_s
        while not self._ready_file.exists():
            if self.record is None or not self.record.alive or time.monotonic() > deadline:
                lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
                last = lines[-1] if lines else f"not ready after {timeout_s:.0f} s"
                raise RayUnavailable(f"a local Ray did not start: {last}", self.address, f"see {self.log}")
            time.sleep(0.1)

    @property
    def _ready_file(self) -> Path:
        return self.session / "ready"


def stop_ray(record: ProcessRecord | None, *, stack_id: str, spare: psutil.Process | None = None) -> None:
    """Ends the keeper, which ends Ray's parts; then whatever else belongs to this stack, workers included, but not
    `spare`: the server goes last, so that workers can still hand back what they hold.
    """
    keeper = record.process() if record else None
    if keeper is not None:
        family = [keeper, *_children(keeper)]
        stop_processes([keeper], grace_s=_STOP_S)
        stop_processes(family, grace_s=3.0)
    # Workers may still be starting others while they end: look until nobody is left.
    for _ in range(5):
        left = [process for process in stack_processes(stack_id) if process != spare]
        if not left:
            return
        stop_processes(left, grace_s=3.0)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def keep_logs(session: Path, destination: Path) -> None:
    """Moves the logs of Ray's last session out of the folder that is about to be removed, replacing the previous."""
    logs = session / "session_latest" / "logs"
    if logs.is_dir():
        shutil.rmtree(destination, ignore_errors=True)
        shutil.copytree(logs, destination, symlinks=True, ignore_dangling_symlinks=True)
