"""Servers that may not be trusted are refused with one clear line."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rewardmesh.wire.buffer import BufferInfo, connect, redact, require_trustworthy
from rewardmesh.wire.errors import BufferMisconfigured, BufferUnavailable, RewardmeshError
from tests.tls_front import TlsFront, make_certificate


def one_line(error: RewardmeshError) -> str:
    text = str(error)
    assert "\n" not in text
    assert error.what_to_do in text
    return text


async def test_a_server_that_evicts_is_refused(new_server: Callable[..., Any]) -> None:
    server = new_server("valkey-9.1", "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru")
    with pytest.raises(BufferMisconfigured) as caught:
        await connect(server.url)
    assert "maxmemory-policy is allkeys-lru" in one_line(caught.value)
    assert not caught.value.retryable


async def test_a_server_without_memory_says_so(new_server: Callable[..., Any]) -> None:
    from rewardmesh.wire.errors import BufferFull
    from rewardmesh.wire.registry import Registry

    server = new_server("redis-6.2", "--maxmemory", "1")
    client = await connect(server.url)
    with pytest.raises(BufferFull, match="no memory left"):
        await Registry(client).put_run("r")
    await client.aclose()


async def test_a_wrong_password_is_said_and_not_shown(new_server: Callable[..., Any]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    new_server("valkey-9.1", "--requirepass", "right", "--port", str(port), "--bind", "127.0.0.1")
    with pytest.raises(BufferMisconfigured, match="password") as caught:
        await connect(f"redis://:wrong@127.0.0.1:{port}")
    assert "wrong@" not in one_line(caught.value)
    client = await connect(f"redis://:right@127.0.0.1:{port}")
    await client.aclose()


async def test_a_certificate_is_checked_and_the_password_still_asked_for(
    new_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = new_server("valkey-9.1", "--requirepass", "right")
    ca, key = make_certificate(tmp_path / "own")
    another_ca, _ = make_certificate(tmp_path / "another")
    with TlsFront(server.socket, certificate=ca, key=key) as front:
        where = f"127.0.0.1:{front.port}/0"
        client = await connect(f"rediss://:right@{where}?ssl_ca_certs={ca}")
        assert await client.ping()
        await client.aclose()
        for url, said in {
            f"rediss://:right@{where}": "certificate is not trusted: self-signed.*ssl_ca_certs=",
            f"rediss://:right@{where}?ssl_ca_certs={another_ca}": "certificate is not trusted",
            f"rediss://:right@localhost:{front.port}/0?ssl_ca_certs={ca}": "not valid for 'localhost'.*and the host",
            f"rediss://:right@{where}?ssl_ca_certs=/no/ca.pem": r"file that is not here.*\(/no/ca.pem\).*every node",
            f"rediss://:right@{where}?ca={ca}": "unknown option.*'ca'",
            f"rediss://:wrong@{where}?ssl_ca_certs={ca}": "check the user and password",
        }.items():
            with pytest.raises(BufferMisconfigured, match=said) as caught:
                await connect(url)
            assert ":right@" not in one_line(caught.value)
        with pytest.raises(BufferUnavailable):
            await connect(f"redis://:right@{where}")


@pytest.mark.parametrize("kind", ["socket", "port"])
async def test_nothing_that_answers(kind: str, tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/none" if kind == "socket" else "redis://127.0.0.1:1"
    with pytest.raises(BufferUnavailable) as caught:
        await connect(url)
    assert "does not answer" in one_line(caught.value)
    assert "REDIS_URL" in str(caught.value)
    assert caught.value.retryable


@pytest.mark.parametrize("url", ["http://localhost", "localhost:6379", "", "redis://localhost:port"])
async def test_what_is_no_url(url: str) -> None:
    with pytest.raises(BufferMisconfigured) as caught:
        await connect(url)
    assert "redis://host:port" in one_line(caught.value)


@pytest.mark.parametrize(("version", "refused"), [("6.0.16", True), ("5.0", True), ("6.2.0", False), ("9.1.2", False)])
def test_old_servers_are_refused(version: str, refused: bool) -> None:
    info = BufferInfo(version=version, server="redis", maxmemory_policy="noeviction", aof=True, fsync="always")
    if refused:
        with pytest.raises(BufferMisconfigured, match="too old"):
            require_trustworthy(info, "redis://localhost")
    else:
        require_trustworthy(info, "redis://localhost")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("unix:///folder/a:b@c.sock", "unix:///folder/a:b@c.sock"),
        ("redis://user:secret@host:6379/0", "redis://user:***@host:6379/0"),
        ("redis://:se/cr@et@host:6379/0", "redis://:***@host:6379/0"),  # not quoted, and so no good URL
        ("redis://host/0?password=secret&db=1", "redis://host/0?password=***&db=1"),
        (
            "rediss://:secret@host/0?ssl_ca_certs=/ca.pem&ssl_password=secret",
            "rediss://:***@host/0?ssl_ca_certs=/ca.pem&ssl_password=***",
        ),
    ],
)
def test_passwords_are_not_printed(url: str, shown: str) -> None:
    assert redact(url) == shown


async def test_not_even_those_of_a_url_that_is_none() -> None:
    with pytest.raises(BufferMisconfigured) as caught:
        await connect("redis://:secr/et@localhost:6379/0")
    assert "secr" not in one_line(caught.value)
