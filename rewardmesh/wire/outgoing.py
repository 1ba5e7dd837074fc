"""The one HTTP client for URLs that people register: it calls public addresses and the networks that are allowed.

A host is resolved once for each connection, every address that it has is judged, and the connection goes to an address
that was judged: a name that changes its mind afterwards gains nothing, and an odd spelling of an address is the address
that it comes to. TLS still verifies the name of the URL. No redirects, no proxies of the environment, no decompression;
bytes and time of an answer are bounded.

Owns no retries and no reading of answers: that is the caller's.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import httpcore
import httpx

from rewardmesh.wire.errors import AddressRefused, ProtocolError
from rewardmesh.wire.networks import Address, AllowedNetworks, OutgoingPolicy, read_address

__all__ = ["AllowedNetworks", "OutgoingPolicy", "Resolve", "open_client", "resolve"]

_PIECE_BYTES = 64 * 1024

#: Addresses of a host and port, as text; raises OSError.
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


async def resolve(host: str, port: int) -> Sequence[str]:
    """What the system's resolver makes of the host."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(one[4][0]) for one in found]


def open_client(
    policy: OutgoingPolicy,
    *,
    base_url: str = "",
    timeout: httpx.Timeout,
    limits: httpx.Limits | None = None,
    headers: Mapping[str, str] | None = None,
    max_answer_bytes: int = 64 * 1024 * 1024,
    deadline_s: float = 300.0,
    resolve: Resolve = resolve,
) -> httpx.AsyncClient:
    """A client of httpx that calls what the policy allows. SSL_CERT_FILE names the authorities that TLS trusts.

    Deadline: an exchange ends after `deadline_s`, whatever `timeout` says about its parts (httpx.ReadTimeout).
    Errors: AddressRefused for an address, a scheme or a URL with user information, before anything is sent;
    ProtocolError while reading an answer that is compressed or longer than `max_answer_bytes`; httpx's own else.
    """
    return httpx.AsyncClient(
        base_url=base_url,
        timeout=timeout,
        headers={**(headers or {}), "Accept-Encoding": "identity"},
        follow_redirects=False,
        trust_env=False,  # a proxy of the environment would choose the address
        transport=_GuardedTransport(
            _GuardedBackend(policy, resolve),
            limits=limits or httpx.Limits(max_connections=100, max_keepalive_connections=20),
            max_answer_bytes=max_answer_bytes,
            deadline_s=deadline_s,
        ),
    )


class _GuardedBackend(httpcore.AsyncNetworkBackend):
    """Opens sockets to addresses that the policy has seen, and to no others."""

    def __init__(self, policy: OutgoingPolicy, resolve: Resolve) -> None:
        self._policy = policy
        self._resolve = resolve
        self._sockets = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._addresses(host, port, timeout)
        for address in addresses:  # one that is refused refuses all: which is used would be chance
            self._policy.require(address, host=host)
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            try:
                return await self._sockets.connect_tcp(
                    str(address),
                    port,
                    timeout=None if timeout is None else timeout / len(addresses),
                    local_address=local_address,
                    socket_options=socket_options,
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def _addresses(self, host: str, port: int, timeout_s: float | None) -> list[Address]:
        try:
            async with asyncio.timeout(timeout_s):
                found = await self._resolve(host, port)
            return list(dict.fromkeys(map(read_address, found)))
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"{host} was not resolved in time") from error
        except (OSError, ValueError) as error:  # ValueError: a name that cannot be encoded
            raise httpcore.ConnectError(f"{host} cannot be resolved: {error}") from error


class _GuardedTransport(httpx.AsyncBaseTransport):
    """httpcore's connection pool over the guarded backend, for httpx."""

    def __init__(
        self, backend: _GuardedBackend, *, limits: httpx.Limits, max_answer_bytes: int, deadline_s: float
    ) -> None:
        self._max_answer_bytes = max_answer_bytes
        self._deadline_s = deadline_s
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=_authorities(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")),
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=backend,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        _require_plain_url(request.url)
        ends_s = asyncio.get_running_loop().time() + self._deadline_s
        url = request.url
        asked = httpcore.Request(
            request.method,
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=_pieces(request.stream),
            extensions=request.extensions,
        )
        with _errors_of_httpx():
            async with asyncio.timeout_at(ends_s):
                answer = await self._pool.handle_async_request(asked)
        headers = httpx.Headers(answer.headers)
        encoding = headers.pop("Content-Encoding", "identity")  # gone, so that httpx decodes nothing
        stream = _Answer(answer, host=url.host, encoding=encoding, max_bytes=self._max_answer_bytes, ends_s=ends_s)
        return httpx.Response(answer.status, headers=headers, stream=stream, extensions=answer.extensions)

    async def aclose(self) -> None:
        await self._pool.aclose()


async def _pieces(body: httpx.SyncByteStream | httpx.AsyncByteStream) -> AsyncIterator[bytes]:
    """The body in few pieces: httpx has some for each part of a form, and each would be an event and a write."""
    assert isinstance(body, httpx.AsyncByteStream)
    piece: list[bytes] = []
    num_bytes = 0
    async for part in body:
        if piece and num_bytes + len(part) > _PIECE_BYTES:
            yield b"".join(piece)  # of one large part: that part itself
            piece, num_bytes = [], 0
        piece.append(part)
        num_bytes += len(part)
    if piece:
        yield b"".join(piece)


class _Answer(httpx.AsyncByteStream):
    """The body as it was sent, as far as it is not compressed, too long or too slow."""

    def __init__(self, answer: httpcore.Response, *, host: str, encoding: str, max_bytes: int, ends_s: float) -> None:
        self._answer = answer
        self._host = host
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._ends_s = ends_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._encoding.strip().lower() != "identity":
            raise ProtocolError(
                f"the answer is compressed ({self._encoding[:40]})", self._host, "send it as it is: we accept identity"
            )
        parts = self._answer.aiter_stream()
        num_bytes = 0
        while True:
            with _errors_of_httpx():
                async with asyncio.timeout_at(self._ends_s):
                    part = await anext(parts, None)
            if part is None:
                return
            num_bytes += len(part)
            if num_bytes > self._max_bytes:
                raise ProtocolError(f"the answer is longer than {self._max_bytes} bytes", self._host)
            yield part

    async def aclose(self) -> None:
        await self._answer.aclose()


@cache
def _authorities(_file: str | None, _folder: str | None) -> ssl.SSLContext:
    """Whom TLS trusts, by these variables of the environment; read once for each of their values, for it is slow."""
    return httpx.create_ssl_context()  # which reads the same variables


@contextmanager
def _errors_of_httpx() -> Iterator[None]:
    """httpcore's exceptions have the names of httpx's."""
    try:
        yield
    except TimeoutError as error:
        raise httpx.ReadTimeout("the exchange did not end in time") from error
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
        kind: Any = getattr(httpx, type(error).__name__)
        raise kind(str(error)) from error


def _require_plain_url(url: httpx.URL) -> None:
    """Raises AddressRefused; repeats neither user nor password."""
    if url.scheme not in {"http", "https"} or not url.host:
        raise AddressRefused(f"a URL of the kind {url.scheme or '?'!r} is not called", url.host, "use http or https")
    if url.userinfo:
        raise AddressRefused("the URL carries a user or a password", url.host, "register the secret beside the URL")
