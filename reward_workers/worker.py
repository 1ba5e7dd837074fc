"""Finds runs and oracles in the registry, and keeps one pump for every (run, oracle).

Each pump has lanes and connections of its own: an oracle that hangs holds up nobody else. Changes of the registry take
effect within `discover_every_s`. A lane never ends by itself; if one does, that is a fault of ours and `run` raises it,
so that whoever supervises the process starts a new one (what was claimed comes back when its lease runs out).
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Awaitable, Callable
from uuid import uuid4

from pydantic import ValidationError

from reward_workers.link import OracleLink, wait_for
from reward_workers.meter import Meter, TallyMeter
from reward_workers.pump import Pump
from reward_workers.settings import WorkerSettings
from rewardmesh.wire.answers import AnswerCache, MemoryAnswers
from rewardmesh.wire.errors import BufferFault, BufferMisconfigured, ProtocolError, RewardmeshError
from rewardmesh.wire.messages import OracleEndpoint
from rewardmesh.wire.registry import OracleRegistry
from rewardmesh.wire.stream import Stream
from rewardmesh.wire.telemetry import get_logger

__all__ = ["Worker", "worker_name"]

_log = get_logger("reward_workers.worker")

OpenStream = Callable[[str], Awaitable[Stream]]

_LEVELS_EVERY_S = 4.0  # Ray drops a gauge that is not set again within some ten seconds
_BREAKER_LEVELS = {"closed": 0, "probing": 1, "open": 2}


def worker_name() -> str:
    """A name that no other worker has: host, process and four random bytes."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"


class Worker:
    """Serves every run that is alive with every oracle that is registered and not paused, until it is stopped.

    `answers`: where answers are kept that runs may reuse; None: in this worker alone.
    """

    def __init__(
        self,
        *,
        registry: OracleRegistry,
        open_stream: OpenStream,
        settings: WorkerSettings,
        answers: AnswerCache | None = None,
        name: str | None = None,
        meter: Meter | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.name = name or worker_name()
        self.meter = TallyMeter(then=meter)
        self._registry = registry
        self._open_stream = open_stream
        self._settings = settings
        self._answers = answers or MemoryAnswers(max_bytes=settings.answers_bytes)
        self._registered: list[OracleEndpoint] = []
        self._levels_due_s = 0.0
        self._rng = rng or random.Random()
        self._stopping = asyncio.Event()
        self._streams: dict[str, Stream] = {}
        self._links: dict[str, OracleLink] = {}
        self._pumps: dict[tuple[str, str], Pump] = {}
        self._retiring: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """Asks `run` to end: what was claimed is finished, or handed back after `drain_s`."""
        self._stopping.set()

    @property
    def pumps(self) -> list[tuple[str, str]]:
        """The pairs (run, oracle) that are served now."""
        return sorted(self._pumps)

    async def run(self) -> None:
        """Works until `stop`. Raises BufferUnavailable if the server is away for longer than `buffer_patience_s`."""
        _log.info("worker.started", worker=self.name)
        try:
            await self._discover_until_stopped()
        finally:
            await self._close()
            _log.info("worker.stopped", worker=self.name, settled=self.meter.total("rewardmesh_samples_settled"))

    async def _discover_until_stopped(self) -> None:
        loop = asyncio.get_running_loop()
        heard_s = loop.time()
        faults = 0
        while not self._stopping.is_set():
            try:
                await self._discover()
                await self._report_levels()
                heard_s, faults = loop.time(), 0
            except (BufferFault, ValidationError) as error:
                faults += 1
                if faults == 1:
                    _log.warning("registry.unreadable", worker=self.name, detail=str(error))
                if loop.time() - heard_s > self._settings.buffer_patience_s:
                    raise _given_up(error) from error
            self._raise_lane_faults()
            await self._wait_for_stop_or_fault()

    async def _discover(self) -> None:
        """Makes the pumps those that the registry asks for."""
        runs = set(await self._registry.runs())
        self._registered = await self._registry.oracles()
        endpoints = {endpoint.name: endpoint for endpoint in self._registered if endpoint.state != "paused"}
        secrets = {name: await self._registry.secret(name) for name in endpoints}
        for name, link in list(self._links.items()):
            if not link.serves(endpoints.get(name), secrets.get(name)):
                self._retire(oracle=name)
        for run_id in set(self._streams) - runs:
            self._retire(run_id=run_id)
        for name, endpoint in endpoints.items():
            if name not in self._links:
                self._links[name] = OracleLink(
                    endpoint,
                    secret=secrets[name],
                    registry=self._registry,
                    settings=self._settings,
                    meter=self.meter,
                )
        for run_id in runs - set(self._streams):
            self._streams[run_id] = await self._open_stream(run_id)
        for run_id, stream in self._streams.items():
            for name, link in self._links.items():
                if (run_id, name) not in self._pumps:
                    self._start_pump(stream, link)

    async def _report_levels(self) -> None:
        """How much waits for each oracle, and how its breaker stands; the same from every worker."""
        now_s = asyncio.get_running_loop().time()
        if now_s < self._levels_due_s:
            return
        self._levels_due_s = now_s + _LEVELS_EVERY_S
        for endpoint in self._registered:
            link = self._links.get(endpoint.name)
            labels = link.labels if link is not None else {"oracle": endpoint.name, "version": endpoint.version}
            breaker = await self._registry.breaker(endpoint.name)
            self.meter.level("rewardmesh_oracle_breaker", _BREAKER_LEVELS[breaker.kind], **labels)
            for run_id, stream in self._streams.items():
                depth = await stream.depth(endpoint.name)
                for name, value in {
                    "rewardmesh_stream_lag": depth.lag,
                    "rewardmesh_stream_pending": depth.pending,
                    "rewardmesh_stream_retrying": depth.retrying,
                    "rewardmesh_stream_deferred": depth.deferred,
                    "rewardmesh_stream_bytes": depth.bytes_in_use,
                    "rewardmesh_stream_oldest_pending_s": depth.oldest_pending_s,
                    "rewardmesh_stream_dead_letters": depth.dead_letters,
                }.items():
                    self.meter.level(name, value, run=run_id, **labels)

    def _start_pump(self, stream: Stream, link: OracleLink) -> None:
        pump = Pump(
            stream=stream,
            link=link,
            answers=self._answers,
            settings=self._settings,
            consumer=self.name,
            meter=self.meter,
            rng=self._rng,
        )
        pump.start()
        self._pumps[stream.run_id, link.endpoint.name] = pump

    def _retire(self, *, oracle: str | None = None, run_id: str | None = None) -> None:
        """Stops the pumps of an oracle or of a run beside the others' work, then closes what only they used."""
        pumps = [self._pumps.pop(key) for key in list(self._pumps) if oracle == key[1] or run_id == key[0]]
        link = self._links.pop(oracle) if oracle is not None else None
        stream = self._streams.pop(run_id) if run_id is not None else None
        earlier = list(self._retiring)

        async def retire() -> None:
            await asyncio.gather(*(pump.stop(drain_s=self._settings.drain_s) for pump in pumps))
            if link is not None:
                await link.aclose()
            if stream is not None:
                await asyncio.gather(*earlier, return_exceptions=True)  # its other pumps may still be draining
                await stream.close()

        task = asyncio.create_task(retire())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _wait_for_stop_or_fault(self) -> None:
        """Until the next look at the registry; ends early for a stop or a lane that died."""
        stop = asyncio.create_task(wait_for(self._stopping, self._settings.discover_every_s))
        lanes = [lane for pump in self._pumps.values() for lane in pump.lanes]
        await asyncio.wait({stop, *lanes}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        await asyncio.gather(stop, return_exceptions=True)
        self._raise_lane_faults()

    def _raise_lane_faults(self) -> None:
        for (run_id, oracle), pump in self._pumps.items():
            for lane in pump.lanes:
                if lane.done():
                    _log.error("lane.died", worker=self.name, run_id=run_id, oracle=oracle)
                    lane.result()
                    raise ProtocolError("a lane ended by itself", f"{run_id}/{oracle}", "report this")

    async def _close(self) -> None:
        for name in list(self._links):
            self._retire(oracle=name)
        for run_id in list(self._streams):
            self._retire(run_id=run_id)
        await asyncio.gather(*self._retiring, return_exceptions=True)


def _given_up(error: Exception) -> RewardmeshError:
    if isinstance(error, RewardmeshError):
        return error
    what = f"the registry holds what cannot be read: {' '.join(str(error).split())[:300]}"
    return BufferMisconfigured(what, "registry", "register the oracle again")
