"""What an acknowledgement is worth, measured: a scratch server is killed with -9 and started again.

The scratch server has the configuration of the embedded one. What was handed to the system survives the process, so
one might expect nothing to be lost. Under `everysec` that is not so: while a sync is under way in the background (the
disk is busy) the server answers first and writes up to two seconds later, and a kill in between takes what it answered.
Under `always` an answer follows the sync. A power cut is another matter, which killing does not show; that is said.
"""

from __future__ import annotations

import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import redis
import redis.exceptions

from deploy.embedded_server import EmbeddedServer, ServerBinary
from deploy.settings import Fsync

__all__ = ["Durability", "measure_durability"]

_VALUE_BYTES = 7000  # a small picture


@dataclass(frozen=True)
class Durability:
    """Acknowledged writes before the kill, and how many of them were gone afterwards."""

    acknowledged: int
    lost: int
    appendfsync: Fsync
    restart_s: float

    def __str__(self) -> str:
        power = {
            "always": "nothing",
            "everysec": "up to about the last second",
            "no": "what the system had not written",
        }
        return (
            f"{self.lost} of {self.acknowledged} acknowledged writes lost to kill -9 (back after "
            f"{self.restart_s:.1f} s, appendfsync "
            f"{self.appendfsync}; a power cut is not measured and may take {power[self.appendfsync]})"
        )


def measure_durability(binary: ServerBinary, *, appendfsync: Fsync, write_s: float = 1.0) -> Durability:
    """Writes to a scratch server for `write_s` seconds, kills it in mid-write, starts it again and counts."""
    with tempfile.TemporaryDirectory(prefix="rewardmesh-scratch-") as folder:
        server = EmbeddedServer(Path(folder) / "data", binary=binary, appendfsync=appendfsync)
        try:
            server.start()
            acknowledged = _write_until_killed(server, write_s)
            started = time.monotonic()
            server.start()
            restart_s = time.monotonic() - started
            lost = _missing(server, acknowledged)
        finally:
            server.stop()
    return Durability(acknowledged=acknowledged, lost=lost, appendfsync=appendfsync, restart_s=restart_s)


def _write_until_killed(server: EmbeddedServer, write_s: float) -> int:
    """Keys `0`, `1`, … are written one after another; returns how many the server acknowledged."""
    timer = threading.Timer(write_s, server.kill)
    timer.start()
    acknowledged = 0
    client = redis.Redis(unix_socket_path=str(server.socket), socket_timeout=5.0)
    try:
        while client.set(str(acknowledged), acknowledged.to_bytes(4, "big") * (_VALUE_BYTES // 4)):
            acknowledged += 1
    except (redis.exceptions.RedisError, OSError):
        pass  # killed, as intended
    finally:
        timer.join()
        client.close()
    return acknowledged


def _missing(server: EmbeddedServer, acknowledged: int) -> int:
    client = redis.Redis(unix_socket_path=str(server.socket), socket_timeout=5.0)
    try:
        kept = 0
        for first in range(0, acknowledged, 500):
            keys = range(first, min(first + 500, acknowledged))
            values = client.mget([str(key) for key in keys])
            kept += sum(
                value is not None and value[:4] == key.to_bytes(4, "big")
                for key, value in zip(keys, values, strict=True)
            )
        return acknowledged - kept
    finally:
        client.close()
