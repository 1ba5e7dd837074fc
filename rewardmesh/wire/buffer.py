"""Connects to the server that carries samples, and checks that what it acknowledges may be trusted.

Foreign exceptions of the server and its client are mapped here, and nowhere else: `server_errors`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLCertVerificationError
from typing import Any, Final

import redis.exceptions as foreign
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from rewardmesh.wire.errors import BufferFault, BufferFull, BufferMisconfigured, BufferUnavailable, ProtocolError

__all__ = ["OLDEST_SUPPORTED", "BufferInfo", "connect", "describe", "redact", "server_errors"]

OLDEST_SUPPORTED: Final = (6, 2)
_START_ONE = "check REDIS_URL and that the server runs, or unset REDIS_URL to use the embedded one"
_NAME_CA = "name its CA in REDIS_URL, rediss://…?ssl_ca_certs=/path/ca.pem, and the host as the certificate does"
_SECRETS = (
    (re.compile(r"^(\w+://[^:/?#@]*:).*@", re.DOTALL), r"\1***@"),  # to the last @: passwords are not always quoted
    (re.compile(r"((?:ssl_)?password=)[^&#]*"), r"\1***"),
)


@dataclass(frozen=True, kw_only=True)
class BufferInfo:
    """What the server says about itself. `fsync` is "unknown" where a managed server hides its configuration."""

    version: str
    server: str  # "redis" or "valkey"
    maxmemory_policy: str
    aof: bool
    fsync: str

    @property
    def durability(self) -> str:
        """What is lost when the server dies, as far as the configuration tells."""
        if not self.aof:
            return "no append-only file: a restart loses what came after the last snapshot"
        lost = {
            "always": "nothing acknowledged",
            "everysec": "about the last second",
            "no": "what the system had not written",
        }
        return f"append-only file, fsync {self.fsync}: a power cut loses {lost.get(self.fsync, 'an unknown amount')}"


async def connect(url: str, *, timeout_s: float = 5.0) -> Redis:
    """A client of a server that may be trusted with samples; close it with `aclose()`.

    The URL is all that a process needs to know: password, and for TLS (`rediss://`) the client's own options as its
    query, `ssl_ca_certs` first of all.

    Raises: BufferUnavailable if nothing answers; BufferMisconfigured if the URL is none, names a file that is not here,
    the server refuses us or cannot prove who it is, is older than 6.2, or may evict keys.
    """
    client = _client(url, timeout_s)
    try:
        require_trustworthy(await describe(client), url)
    except BaseException:
        await client.aclose()
        raise
    return client


def _client(url: str, timeout_s: float) -> Redis:
    try:
        client: Redis = Redis.from_url(
            url,
            protocol=2,
            decode_responses=False,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), retries=3),
            retry_on_error=[foreign.ConnectionError, foreign.TimeoutError],
        )
        pool = client.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # connects to nothing, refuses what the query may not say
    except ValueError as error:  # whose text may quote a piece of the password
        what_to_do = "use redis://host:port, rediss://host:port or unix:///path"
        raise BufferMisconfigured("not the URL of a server", redact(url), what_to_do) from error
    except TypeError as error:
        what_to_do = "its query takes what redis-py's connections take, such as ssl_ca_certs"
        raise BufferMisconfigured(f"REDIS_URL has an unknown option: {error}", redact(url), what_to_do) from error
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        file = client.connection_pool.connection_kwargs.get(name)
        if file is not None and not Path(file).is_file():
            what_to_do = "every node that joins the buffer needs it, under the same path"
            raise BufferMisconfigured(f"REDIS_URL names a file that is not here: {name}", file, what_to_do)
    return client


def require_trustworthy(info: BufferInfo, url: str) -> None:
    """Raises BufferMisconfigured if the server is too old or may evict what it acknowledged."""
    version = tuple(int(part) for part in info.version.split(".")[:2])
    if version < OLDEST_SUPPORTED:
        raise BufferMisconfigured(
            f"{info.server} {info.version} is too old", redact(url), "use Redis 6.2 or newer, or Valkey"
        )
    if info.maxmemory_policy != "noeviction":
        raise BufferMisconfigured(
            f"the server may evict samples: maxmemory-policy is {info.maxmemory_policy}",
            redact(url),
            "set maxmemory-policy to noeviction",
        )


async def describe(client: Redis) -> BufferInfo:
    """Asks the server what it is; raises BufferUnavailable if it does not answer."""
    with server_errors(_where(client)):
        info: dict[str, Any] = await client.info()
        try:
            fsync = (await client.config_get("appendfsync")).get("appendfsync", "unknown")
        except foreign.ResponseError:  # managed servers forbid CONFIG
            fsync = "unknown"
    valkey = info.get("valkey_version")
    return BufferInfo(
        version=str(valkey or info["redis_version"]),
        server="valkey" if valkey else "redis",
        maxmemory_policy=str(info.get("maxmemory_policy", "unknown")),
        aof=bool(info.get("aof_enabled")),
        fsync=str(fsync),
    )


@contextmanager
def server_errors(which: str) -> Iterator[None]:
    """Maps what the server or its client raise to this project's errors."""
    try:
        yield
    except (foreign.AuthenticationError, foreign.NoPermissionError) as error:
        what_to_do = "check the user and password in REDIS_URL"
        raise BufferMisconfigured(f"the server refuses us: {error}", which, what_to_do) from error
    except (foreign.ConnectionError, foreign.TimeoutError, OSError) as error:
        if isinstance(error.__context__, SSLCertVerificationError):
            said = f"the server's certificate is not trusted: {error.__context__.verify_message}"
            raise BufferMisconfigured(said, which, _NAME_CA) from error
        raise BufferUnavailable(f"the server does not answer: {error}", which, _START_ONE) from error
    except foreign.RedisError as error:
        raise _mapped(error, which) from error


def _mapped(error: foreign.RedisError, which: str) -> BufferFault | ProtocolError:
    """What the server answered; older servers wrap it when a script meets it, so the text is searched."""
    said = str(error)
    if isinstance(error, foreign.OutOfMemoryError) or "OOM command" in said:
        return BufferFull("the server has no memory left", which, "raise its maxmemory, or lower the byte budgets")
    cannot_write = (foreign.ReadOnlyError, foreign.TryAgainError, foreign.ClusterDownError)
    if isinstance(error, cannot_write) or any(word in said for word in ("MISCONF", "MASTERDOWN", "STAGE", "BUSY ")):
        return BufferUnavailable(f"the server cannot write now: {said}", which, "see the server's log, then try again")
    return ProtocolError(f"the server refused a command: {said}", which, "report this with the server's version")


def redact(url: str) -> str:
    """The URL without its passwords, also where it is no good URL."""
    for secret, shown in _SECRETS:
        url = secret.sub(shown, url)
    return url


def _where(client: Redis) -> str:
    known = client.connection_pool.connection_kwargs
    return str(known.get("path") or f"{known.get('host', 'localhost')}:{known.get('port', 6379)}")
