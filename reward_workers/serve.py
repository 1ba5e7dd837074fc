"""Worker replicas as a Ray Serve application: a fixed number of them, answering no HTTP, each running one worker loop.

    serve.run(worker_application(WorkerSettings(redis_url=url)), name="reward_workers", route_prefix=None)

Serve drains requests and knows nothing of loops: the replica fails its health check when its loop has died, and stops
the loop itself, in order, when it is taken down.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ray import serve
from ray.serve import Application
from ray.util import metrics

from reward_workers.process import worker_on_server
from reward_workers.settings import WorkerSettings
from reward_workers.worker import Worker
from rewardmesh.wire.errors import BufferUnavailable
from rewardmesh.wire.names import METRICS
from rewardmesh.wire.telemetry import configure_logging, get_logger
from rewardmesh.wire.tracing import configure_tracing, flush

__all__ = ["RayMeter", "WorkerReplica", "worker_application"]

_NUM_SAMPLES_BOUNDS = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]
_LATENCY_BOUNDS_S = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0]


def worker_application(settings: WorkerSettings) -> Application:
    """`settings.replicas` workers. More do not make a slow oracle faster: they are there so that one may die."""
    deployment = serve.deployment(
        name="worker",
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": 0.1},
        health_check_period_s=5.0,
        health_check_timeout_s=20.0,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=settings.drain_s + 10.0,
    )(WorkerReplica)
    return deployment.bind(settings.model_dump())


class WorkerReplica:
    """One worker loop as a background task of the replica's event loop."""

    async def __init__(self, settings: dict[str, Any]) -> None:  # type: ignore[misc]  # Serve awaits it
        configure_logging()
        configure_tracing("worker")
        self._started: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        self._loop_task = asyncio.create_task(self._work(WorkerSettings(**settings)), name="reward worker")
        self._worker = await self._started

    async def check_health(self) -> None:
        """Raises if the loop has died, so that Serve replaces the replica."""
        if self._loop_task.done():
            self._loop_task.result()
            raise BufferUnavailable("the worker loop has ended", self._worker.name, "see the replica's log")

    async def describe(self) -> dict[str, Any]:
        """Name, what it serves, and how much it has settled."""
        settled = self._worker.meter.total("rewardmesh_samples_settled")
        return {"name": self._worker.name, "pumps": self._worker.pumps, "settled": settled}

    async def __del__(self) -> None:
        """What Serve calls, and awaits, when the replica is taken down."""
        await self.stop()

    async def stop(self) -> None:
        """Finishes or hands back what was claimed."""
        self._worker.stop()
        await asyncio.wait({self._loop_task})
        await asyncio.to_thread(flush)

    async def _work(self, settings: WorkerSettings) -> None:
        try:
            async with worker_on_server(settings, meter=RayMeter()) as worker:
                self._started.set_result(worker)
                await worker.run()
        except Exception as error:
            if not self._started.done():
                self._started.set_exception(error)  # the replica does not start, and Serve says why
                return
            get_logger("reward_workers.serve").exception("worker.died")
            raise


class RayMeter:
    """Shows what is measured wherever Ray's own metrics are shown."""

    def __init__(self) -> None:
        self._counters: dict[str, metrics.Counter] = {}
        self._histograms: dict[str, metrics.Histogram] = {}
        self._gauges: dict[str, metrics.Gauge] = {}

    def count(self, name: str, amount: int, **labels: str) -> None:
        if name not in self._counters:
            self._counters[name] = metrics.Counter(name, METRICS[name], tag_keys=tuple(labels))
        self._counters[name].inc(amount, labels)

    def observe(self, name: str, value: float, **labels: str) -> None:
        if name not in self._histograms:
            bounds = _LATENCY_BOUNDS_S if name.endswith("_s") else _NUM_SAMPLES_BOUNDS
            self._histograms[name] = metrics.Histogram(name, METRICS[name], boundaries=bounds, tag_keys=tuple(labels))
        self._histograms[name].observe(value, labels)

    def level(self, name: str, value: float, **labels: str) -> None:
        if name not in self._gauges:
            self._gauges[name] = metrics.Gauge(name, METRICS[name], tag_keys=tuple(labels))
        self._gauges[name].set(value, labels)
