"""What benchmarks put up to measure: the embedded server, a worker, an app in a process of its own or in this loop.

Everything listens on loopback or on a private socket, and ends with its context, which a signal ends too.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx
import uvicorn
from starlette.types import ASGIApp

from deploy.embedded_server import EmbeddedServer, find_server
from deploy.signals import stopping_on_signals, undisturbed

__all__ = ["LOOPBACK", "app_process", "embedded_server", "serving", "worker_process"]

LOOPBACK: Final = "127.0.0.0/8"
_ROOT = Path(__file__).parent.parent
_START_S = 120.0


@contextmanager
def embedded_server() -> Iterator[str]:
    """The URL of an empty server."""
    with stopping_on_signals(), tempfile.TemporaryDirectory(prefix="rewardmesh-bench-") as folder:
        server = EmbeddedServer(Path(folder) / "data", binary=find_server())
        server.start()
        try:
            yield server.url
        finally:
            with undisturbed():
                server.stop()


@contextmanager
def worker_process(redis_url: str) -> Iterator[None]:
    """`python -m reward_workers` on that server; it says nothing, and may not be ready yet."""
    settings = {
        "REDIS_URL": redis_url,
        "ALLOWED_NETWORKS": LOOPBACK,
        "DISCOVER_EVERY_S": "0.2",
        "DRAIN_S": "1",
    }
    environment = {f"REWARDMESH_WORKER_{name}": value for name, value in settings.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "reward_workers"],
        cwd=_ROOT,
        env=os.environ | environment | {"PYTHONPATH": str(_ROOT)},
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def app_process(make: Callable[[], ASGIApp]) -> Iterator[str]:
    """The URL of the app that `make` makes in a process of its own, once its `/v1/health` answers.

    `make` travels to the process: a function of a module, or a partial of one.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(make, port), daemon=True)
    process.start()
    deadline = time.monotonic() + _START_S
    url = f"http://127.0.0.1:{port}"
    try:
        while not _is_healthy(url):
            if not process.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"{make} did not start within {_START_S:.0f} s")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.join()


def _serve(make: Callable[[], ASGIApp], port: int) -> None:
    uvicorn.run(make(), host="127.0.0.1", port=port, log_level="critical")


def _is_healthy(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{url}/v1/health", trust_env=False).is_success
    return False


@asynccontextmanager
async def serving(app: ASGIApp, **more: Any) -> AsyncIterator[str]:
    """The URL of an app that this loop serves; uvicorn is told `more`."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="error", ws="none", lifespan="on", timeout_graceful_shutdown=1, **more)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            if task.done():
                raise RuntimeError(f"{app} did not start: {task.exception()}")
            await asyncio.sleep(0.01)
        try:
            yield f"{'https' if config.is_ssl else 'http'}://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            sockets = [one.transport.get_extra_info("socket") for one in server.server_state.connections]
            server.should_exit = True
            await task
            while any(one.fileno() >= 0 for one in sockets):  # noqa: ASYNC110 - the loop closes them, a step later
                await asyncio.sleep(0)
