"""The stack on one machine: the embedded server, Ray, oracles and reward workers; started, joined, stopped.

`with Stack(settings, progress=…) as stack:` gives a stack that is stopped at the end, whatever ends it. What it joined
(`REDIS_URL`, `RAY_ADDRESS`, or a stack that `rewardmesh up` left running in this run root) it leaves alone.
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from deploy import cluster, parts, ray_head, serving
from deploy.embedded_server import EmbeddedServer, find_server
from deploy.ports import require_port
from deploy.processes import STACK_ID, record_of, stop_processes
from deploy.progress import Progress, SilentProgress, Timings
from deploy.ray_head import RayHead, RayUnavailable
from deploy.settings import Settings, SettingsError
from deploy.signals import undisturbed
from deploy.state import StackBusy, StackState, exclusive, read_state, remove_state, write_state
from rewardmesh.wire.buffer import redact

__all__ = ["Stack", "stop_stack"]

NAMESPACE = "rewardmesh"
_RAY_TRIES = 3


class Stack:
    """One stack, from `start` to `stop`. `keep` leaves it running when this process ends (`rewardmesh up`).

    Promise: every process that it started is ended by `stop`, also after a start that failed half way; and by
    `stop_stack` or the next start in the same run root if this process was killed before it could.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        progress: Progress | None = None,
        keep: bool = False,
        on_connected: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings = settings
        self.timings = Timings(progress or SilentProgress())
        self._tell = self.timings.progress.tell
        self._keep = keep
        self._on_connected = on_connected
        self._state = StackState(stack_id=uuid.uuid4().hex, owner=None if keep else record_of())
        self._joined_stack = False
        self._connected = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._keep and kind is None:
            self.disconnect()
        else:
            self.stop()

    @property
    def state(self) -> StackState:
        return self._state

    @property
    def redis_url(self) -> str:
        return _required(self._state.redis_url)

    @property
    def ray_address(self) -> str:
        return _required(self._state.ray_address)

    @property
    def serve_url(self) -> str:
        return _required(self._state.serve_url)

    @property
    def dashboard_url(self) -> str | None:
        return self._state.dashboard_url

    def start(self) -> None:
        """Starts or joins every part and returns when work can be sent. A start that fails stops what it had started.

        Raises: PortInUse, BufferUnavailable, BufferMisconfigured, WeightsMissing, RayUnavailable, StackBusy.
        """
        with exclusive(self.settings.state_dir):
            if self._join_stack():
                return
            try:
                self._start_parts()
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """Ends what this stack started, in reverse order. Stopping twice is no error."""
        with undisturbed():
            if self._joined_stack:
                self.disconnect()
                return
            if self._connected and self._state.ray is None and self._state.deployed:
                serving.remove(self._state.deployed)
            self.disconnect()
            stop_stack(self._state, self.settings.state_dir)
            self._state = self._state.model_copy(update={"server": None, "ray": None, "deployed": ()})

    def take_off(self, state: StackState) -> None:
        """Takes off a joined cluster what an earlier command put there and left."""
        self._state = state
        self.connect()
        serving.remove(state.deployed)
        self.disconnect()

    def disconnect(self) -> None:
        """Lets go of the cluster; what runs on it for others goes on."""
        if self._connected:
            import ray

            ray.shutdown()
            self._connected = False

    def connect(self) -> None:
        """Makes this process a driver of the stack's cluster."""
        if self._connected:
            return
        import ray

        address = self.settings.ray_address or self.ray_address
        try:
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = "check RAY_ADDRESS" if self.settings.ray_address else "see `rewardmesh status`"
            raise RayUnavailable(f"the Ray cluster does not answer: {error}", address, where) from error
        self._connected = True
        self._on_connected()

    # -- starting -------------------------------------------------------------------------------------------------

    def _join_stack(self) -> bool:
        """Joins the stack that was left running here; clears away one that died. True if joined."""
        found = read_state(self.settings.state_dir)
        if found is None or not found.holds:
            return False
        if found.alive and found.ready:
            _require_same(self.settings, found)
            self._state, self._joined_stack = found, True
            if found.ray is not None:
                os.environ.update(ray_head.local_environment(self.settings))
            where = f"buffer {redact(self.redis_url)}, Ray {self.ray_address}"
            self._tell(f"joining the stack that runs here already ({where})")
            self.connect()
            self._require_same_cluster()
            return True
        self._tell("clearing away what a stack that ended badly left here")
        stop_stack(found, self.settings.state_dir)
        return False

    def _require_same_cluster(self) -> None:
        """RAY_ADDRESS may name the stack's cluster in other words, as in a job that Ray itself has started."""
        if self.settings.ray_address in {None, self.ray_address} or cluster.cluster_address() == self.ray_address:
            return
        self.disconnect()
        raise _uses_another("RAY_ADDRESS", self.ray_address)

    def _start_parts(self) -> None:
        settings = self.settings
        serve_port, dashboard_port = self._ports()
        self._update(serve_url=settings.serve_url(serve_port))
        parts.require_weights()
        self._start_buffer()
        if settings.ray_address is not None:
            self._update(ray_address=settings.ray_address)
        else:
            with self.timings.part("ray", "starting a local Ray (about half a minute)") as said:
                self._start_ray(dashboard_port)
                said.append(f"dashboard at {self.dashboard_url}")
        with self.timings.part("connect", f"connecting to Ray at {self.ray_address}"):
            self.connect()
        if settings.ray_address is not None:
            self._update(ray_address=cluster.cluster_address())
        self._start_services(serve_port)
        self._update(ready=True, timings_s=self.timings.seconds)

    def _ports(self) -> tuple[int, int]:
        """Ports of oracles and dashboard, checked before anything is started. A joined Ray has its own."""
        settings = self.settings
        if settings.ray_address is not None:
            return settings.serve_port, 0
        serve_port = require_port(
            settings.serve_port, purpose="the oracles", variable="REWARDMESH_SERVE_PORT", host=settings.host
        )
        dashboard_port = require_port(
            settings.dashboard_port,
            purpose="the Ray dashboard",
            variable="REWARDMESH_DASHBOARD_PORT",
            host=settings.host,
        )
        if settings.ray_port:
            require_port(settings.ray_port, purpose="Ray", variable="REWARDMESH_RAY_PORT", host=settings.host)
        return serve_port, dashboard_port

    def _start_buffer(self) -> None:
        if self.settings.redis_url is not None:
            with self.timings.part("buffer", "joining REDIS_URL") as said:
                said.append(parts.check_buffer(self.settings.redis_url))
            self._update(redis_url=self.settings.redis_url)
            return
        with self.timings.part("buffer", "starting the embedded server") as said:
            server = EmbeddedServer(
                self.settings.data_dir,
                binary=find_server(self.settings.server_binary),
                appendfsync=self.settings.appendfsync,
            )
            self._update(redis_url=server.url, scratch_dirs=(*self._state.scratch_dirs, server.socket.parent))
            self._update(server=server.start(environment={STACK_ID: self._state.stack_id}))
            said.append(parts.check_buffer(server.url))

    def _start_ray(self, dashboard_port: int) -> None:
        """Ray gives its own parts half a minute; on a machine that is busy the next try finds them in memory."""
        settings = self.settings
        os.environ.update(ray_head.local_environment(settings))  # Ray reads some of it only when it is imported
        for attempt in range(1, _RAY_TRIES + 1):
            head = self._spawn_ray(dashboard_port)
            parts.import_early()
            try:
                head.wait(timeout_s=settings.start_timeout_s)
                return
            except RayUnavailable as error:
                if attempt == _RAY_TRIES:
                    raise
                self._tell(f"trying once more: {error}")
                ray_head.stop_ray(self._state.ray, stack_id=self._state.stack_id, spare=self._server_process())

    def _spawn_ray(self, dashboard_port: int) -> RayHead:
        session = ray_head.session_folder()
        head = RayHead(
            self.settings,
            stack_id=self._state.stack_id,
            session=session,
            log=self.settings.state_dir / "ray.log",
            dashboard_port=dashboard_port,
        )
        self._update(
            ray_address=head.address,
            dashboard_url=head.dashboard_url,
            scratch_dirs=(*self._state.scratch_dirs, session),
        )
        self._update(ray=head.spawn())
        return head

    def _server_process(self) -> psutil.Process | None:
        return self._state.server.process() if self._state.server else None

    def _start_services(self, serve_port: int) -> None:
        settings = self.settings
        own = parts.own_oracles(settings)
        if settings.redis_url is not None and parts.oracles_answer(settings.redis_url, own):
            self._tell("the oracles that this buffer knows answer: none are started here")
            return
        present = serving.running() if self._state.ray is None else set()
        known = parts.applications(settings, redis_url=self.redis_url, serve_url=self.serve_url)
        wanted = [part for part in known if part.name not in present]
        if not wanted:
            return
        if settings.ray_address is not None:
            cluster.require_reachable(settings, cluster.node_addresses())
        with self.timings.part("serve", f"starting Ray Serve at {self.serve_url}"):
            serving.start_serve(settings, port=serve_port)
        names = ", ".join(part.name for part in wanted)
        with self.timings.part("services", f"starting {names}"):
            self._update(deployed=tuple(part.name for part in wanted))
            serving.deploy(wanted, timeout_s=settings.start_timeout_s, tell=self._tell)
        with self.timings.part("registry", "asking the oracles what they are") as said:
            token = parts.token_of(settings)
            said.append(parts.register_oracles(self.redis_url, own, serve_url=self.serve_url, token=token))

    def _update(self, **changes: object) -> None:
        """Changes the state, on disk too, before anything else is started: a killed start leaves a trace."""
        self._state = self._state.model_copy(update=changes)
        write_state(self.settings.state_dir, self._state)


def stop_stack(state: StackState, state_dir: Path) -> None:
    """Ends all processes of a stack, started by this process or by one that is gone, and removes its state."""
    server = state.server.process() if state.server else None
    try:
        ray_head.stop_ray(state.ray, stack_id=state.stack_id, spare=server)
    finally:
        if server is not None:
            stop_processes([server], grace_s=20.0)
    for folder in state.scratch_dirs:
        ray_head.keep_logs(folder, state_dir / "ray-logs")
        shutil.rmtree(folder, ignore_errors=True)
    remove_state(state_dir)


def _require_same(settings: Settings, found: StackState) -> None:
    """The stack must be free to be joined, and its buffer the one that the environment asks for, if it asks."""
    if found.owner is not None:
        raise StackBusy(
            f"a stack of process {found.owner.pid} runs here and ends with it",
            str(settings.state_dir),
            "wait until it ends, or set REWARDMESH_RUN_ROOT to another folder",
        )
    if settings.redis_url not in {None, found.redis_url}:
        raise _uses_another("REDIS_URL", redact(str(found.redis_url)))


def _uses_another(name: str, used: str) -> SettingsError:
    advice = f"run `rewardmesh down` first, or unset {name}"
    return SettingsError(f"the stack that runs here uses another {name}", used, advice)


def _required(value: str | None) -> str:
    if value is None:
        raise RuntimeError("the stack has not been started")
    return value
