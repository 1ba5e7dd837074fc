"""A small HTTP oracle on loopback whose every answer a test decides: real sockets, so that broken answers are real."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.parser import BytesParser
from typing import Any, Self

from rewardmesh.wire.messages import OracleInfo, ScoreBatch
from rewardmesh.wire.strict_json import dump_json


@dataclass(frozen=True)
class Response:
    """`cut_to`: send that many bytes of the body and close the connection."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut_to: int | None = None


@dataclass(frozen=True)
class Call:
    """One `POST /v1/score` as it arrived; pictures by the name of their part: (media type, bytes)."""

    headers: dict[str, str]
    batch: ScoreBatch
    pictures: dict[str, tuple[str, bytes]]

    @property
    def sample_ids(self) -> list[str]:
        return [item.sample.sample_id for item in self.batch.items]


Answer = Callable[[Call], Awaitable[Response]]


def reward_of(picture: bytes) -> float:
    """A reward that the picture decides: its first byte / 255."""
    return picture[0] / 255


def reply(call: Call, *, version: str = "1", results: list[dict[str, Any]] | None = None) -> Response:
    """A good answer, or one with the results given."""
    if results is None:
        results = [
            {
                "kind": "scored",
                "sample_id": item.sample.sample_id,
                "reward": reward_of(call.pictures[item.picture or ""][1]),
                "detail": {},
            }
            for item in call.batch.items
        ]
    return Response(dump_json({"oracle": call.batch.oracle, "version": version, "results": results}).encode())


class OracleServer:
    """Serves one oracle. `answer` may be replaced at any time; every call is kept in `calls`."""

    def __init__(self, name: str = "object_count", *, answer: Answer | None = None, **info: Any) -> None:
        known = {
            "version": "1",
            "reward_min": 0.0,
            "reward_max": 1.0,
            "media_types": ("application/x-raw-rgb", "image/png"),
            "max_batch": 8,
        }
        self.info = OracleInfo(name=name, **(known | info))
        self.answer: Answer = answer or self._good
        self.info_response: Response | None = None
        self.calls: list[Call] = []
        self.asked: Counter[str] = Counter()  # sample id -> times asked
        self.now_asked = 0
        self.most_asked_at_once = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _good(self, call: Call) -> Response:
        return reply(call, version=self.info.version)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._serve_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; False when the connection is over."""
        line, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = line.split(" ")
        headers = dict(part.split(": ", 1) for part in rest if part)
        headers = {name.lower(): value for name, value in headers.items()}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        if (method, path) == ("GET", "/v1/oracle"):
            response = self.info_response or Response(self.info.to_json().encode())
        elif (method, path) == ("POST", "/v1/score"):
            response = await self._score(headers, body)
        else:
            response = Response(b'{"error":"no such path"}', status=404)
        head = f"HTTP/1.1 {response.status} X\r\nContent-Length: {len(response.body)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in response.headers.items())
        writer.write(head.encode() + b"\r\n" + response.body[: response.cut_to])
        await writer.drain()
        return response.cut_to is None

    async def _score(self, headers: dict[str, str], body: bytes) -> Response:
        call = parse_call(headers, body)
        self.calls.append(call)
        self.asked.update(call.sample_ids)
        self.now_asked += 1
        self.most_asked_at_once = max(self.most_asked_at_once, self.now_asked)
        try:
            return await self.answer(call)
        finally:
            self.now_asked -= 1


def parse_call(headers: dict[str, str], body: bytes) -> Call:
    message = BytesParser().parsebytes(b"Content-Type: " + headers["content-type"].encode() + b"\r\n\r\n" + body)
    parts: dict[str, tuple[str, bytes]] = {}
    for part in message.get_payload():
        name = part.get_param("name", header="content-disposition")
        parts[name] = (part["content-type"], part.get_payload(decode=True))
    batch = ScoreBatch.model_validate_json(parts.pop("request")[1])
    return Call(headers=headers, batch=batch, pictures=parts)


class ThreadedOracle:
    """The same server in a thread with an event loop of its own, for tests whose workers are other processes."""

    def __init__(self, server: OracleServer) -> None:
        self.server = server
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> OracleServer:
        self._thread.start()
        assert self._ready.wait(20)
        return self.server

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self.server:
            self._ready.set()
            await self._stop.wait()
