"""A real server on loopback that keeps to the protocol but for one thing: our own app, with one part replaced.

with serving(Misbehaving(oracle, "nan")) as url: ...
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from rewardmesh.kit.app import build_app
from rewardmesh.kit.oracle import Oracle

Spoil = Callable[[dict[str, Any]], Any]


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """The app on a port of loopback that the system chose, in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    for _ in range(2000):
        if server.started:
            break
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


def _spoil_results(change: Callable[[dict[str, Any]], Any]) -> Spoil:
    return lambda reply: {**reply, "results": [change(one) for one in reply["results"]]}


def _score(result: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "scored", "sample_id": result["sample_id"], "reward": 0.5, "detail": {}}


def _fail(result: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "failed",
        "sample_id": result["sample_id"],
        "code": "oracle_error",
        "detail": "no",
        "retryable": False,
    }


#: What becomes of a reply of 200.
SPOILS: dict[str, Spoil] = {
    "nan": _spoil_results(lambda one: {**one, "reward": float("nan")} if "reward" in one else one),
    "out of range": _spoil_results(lambda one: {**one, "reward": 7.0} if "reward" in one else one),
    "text for a reward": _spoil_results(lambda one: {**one, "reward": "1"} if "reward" in one else one),
    "deferred undeclared": _spoil_results(
        lambda one: {"kind": "deferred", "sample_id": one["sample_id"], "until": 1.0} if "reward" in one else one
    ),
    "a code of the stream": _spoil_results(lambda one: {**_fail(one), "code": "poison"} if "reward" in one else one),
    "missing samples": lambda reply: {**reply, "results": reply["results"][1:]},
    "doubled samples": lambda reply: {**reply, "results": reply["results"] * 2},
    "strange ids": _spoil_results(lambda one: {**one, "sample_id": "stranger"}),
    "another oracle answers": lambda reply: {**reply, "oracle": "other"},
    "another version answers": lambda reply: {**reply, "version": "2"},
    "another shape": lambda reply: [reply],
    "malformed scored": _spoil_results(_score),
    "fails what it declares": _spoil_results(_fail),
    "neighbours fail": lambda reply: _spoil_results(
        _fail if any(one["kind"] == "failed" for one in reply["results"]) else lambda one: one
    )(reply),
    "fails large batches": lambda reply: _spoil_results(_fail if len(reply["results"]) == 16 else lambda one: one)(
        reply
    ),
}

#: What a route answers instead: path, status, body, seconds to wait first.
ANSWERS: dict[str, tuple[str, int, bytes, float]] = {
    "no identity": ("/v1/oracle", 404, b"", 0),
    "identity is garbage": ("/v1/oracle", 200, b"<html>", 0),
    "identity hangs": ("/v1/oracle", 200, b"", 60),
    "identity is huge": ("/v1/oracle", 200, b"x" * (9 * 1024 * 1024), 0),
    "no health": ("/v1/health", 404, b"", 0),
    "unhealthy": ("/v1/health", 200, b'{"status": "loading"}', 0),
    "hangs": ("/v1/score", 200, b"", 60),
    "garbage": ("/v1/score", 200, b"\x00\xff garbage", 0),
    "deep garbage": ("/v1/score", 200, b"[" * 100_000, 0),
    "huge answer": ("/v1/score", 200, b" " * (9 * 1024 * 1024), 0),
    "500s": ("/v1/score", 500, b"Internal Server Error", 0),
    "redirects": ("/v1/score", 307, b"", 0),
    "busy": ("/v1/score", 503, b"", 0),
}


class Misbehaving:
    """The app of an oracle, misbehaving in one way: an ASGI app around it that changes what it answers."""

    def __init__(self, oracle: Oracle, how: str) -> None:
        self._app = build_app(oracle)
        self._how = how
        self._num_described = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        if self._how in ANSWERS and ANSWERS[self._how][0] == path:
            _, status, body, wait_s = ANSWERS[self._how]
            while (await receive()).get("more_body"):
                pass
            await asyncio.sleep(wait_s)
        else:
            said: list[dict[str, Any]] = []

            async def keep(message: dict[str, Any]) -> None:
                said.append(message)

            await self._app(scope, receive, keep)
            status, body = self._spoilt(path, said[0]["status"], b"".join(one.get("body", b"") for one in said[1:]))
        headers = [(b"content-length", str(len(body)).encode()), (b"location", b"/v1/score")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _spoilt(self, path: str, status: int, body: bytes) -> tuple[int, bytes]:
        if path == "/v1/oracle" and self._how == "changing identity":
            self._num_described += 1
            return status, json.dumps({**json.loads(body), "version": f"{self._num_described}"}).encode()
        if path == "/v1/score":
            if status == 200 and self._how in SPOILS:
                return status, json.dumps(SPOILS[self._how](json.loads(body))).encode()
            if status != 200 and self._how == "accepts everything":
                return 200, b"{}"
            if status != 200 and self._how == "faults of its own":
                return 500, body
        return status, body
