"""One process that serves one oracle with uvicorn, on loopback unless told otherwise. The app itself is `kit.app`."""

from __future__ import annotations

import uvicorn

from rewardmesh.kit.app import build_app
from rewardmesh.kit.oracle import Oracle
from rewardmesh.wire.tracing import configure_tracing

__all__ = ["serve_oracle"]


def serve_oracle(oracle: Oracle, *, host: str, port: int, token: str | None = None) -> None:
    """Serves until SIGINT or SIGTERM, then answers what it has in hand. Exits with 1 if the address is taken."""
    configure_tracing(oracle.info.name)
    uvicorn.run(build_app(oracle, token=token), host=host, port=port, access_log=False, timeout_graceful_shutdown=10)
