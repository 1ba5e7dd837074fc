"""The outgoing client against real sockets: what it refuses never arrives, and what it calls is what it judged."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.outgoing import FORMS, Form, attempt, listening, try_all
from rewardmesh.wire import outgoing
from rewardmesh.wire.errors import AddressRefused, ProtocolError
from rewardmesh.wire.networks import read_address
from rewardmesh.wire.outgoing import OutgoingPolicy, open_client
from tests.certificates import self_signed

LOOPBACK = OutgoingPolicy.parse("127.0.0.0/8, ::1/128")
PATIENCE = httpx.Timeout(20.0)


def naming(*answers: Sequence[str]) -> Callable[[str, int], Awaitable[Sequence[str]]]:
    """A resolver that gives each answer once and the last one from then on."""
    left = list(answers)

    async def look_up(host: str, port: int) -> Sequence[str]:
        return left.pop(0) if len(left) > 1 else left[0]

    return look_up


@asynccontextmanager
async def serving(answer: bytes, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that sends these bytes for every request; its port and the heads of what it was sent."""
    heads: list[bytes] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1], heads


def whole(body: bytes, *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_the_table_is_long_enough() -> None:
    assert len({(form.url, form.resolves) for form in FORMS}) >= 90


async def test_every_form_is_refused_and_nothing_arrives() -> None:
    assert [one for one in await try_all() if not one.refused or one.arrived] == []


async def test_an_allowed_network_is_called_and_only_that_one() -> None:
    async with listening() as listener:
        loopback = Form("loopback", "http://127.0.0.1:PORT/")
        assert (await attempt(loopback, listener, policy=OutgoingPolicy.parse("127.0.0.0/8"))).arrived
        assert (await attempt(loopback, listener, policy=OutgoingPolicy.parse("10.0.0.0/8"))).refused
        mapped = Form("mapped", "http://[::ffff:127.0.0.1]:PORT/")
        assert (await attempt(mapped, listener, policy=OutgoingPolicy.parse("127.0.0.0/8"))).arrived


async def test_a_refusal_says_which_host_which_address_and_what_to_do() -> None:
    async with open_client(OutgoingPolicy(), timeout=PATIENCE, resolve=naming(["10.1.2.3"])) as client:
        with pytest.raises(AddressRefused) as caught:
            await client.get("http://oracle.example/v1/oracle")
    said = str(caught.value)
    assert "oracle.example" in said
    assert "10.1.2.3" in said
    assert "REWARDMESH_ALLOWED_NETWORKS" in said
    assert not caught.value.retryable


async def test_user_information_is_refused_and_not_repeated() -> None:
    async with open_client(LOOPBACK, timeout=PATIENCE) as client:
        with pytest.raises(AddressRefused) as caught:
            await client.get("http://someone:hunter2@127.0.0.1/")
    assert "hunter2" not in repr(caught.value)


async def test_a_name_that_changes_its_mind_is_judged_by_the_address_that_is_used() -> None:
    """The first answer is public and so is judged fit; asking again would have given loopback."""
    asked: list[str] = []

    async def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["192.88.98.1"] if len(asked) == 1 else ["127.0.0.1"]

    async with listening() as listener:
        async with open_client(OutgoingPolicy(), timeout=httpx.Timeout(0.5), resolve=rebinding) as client:
            with pytest.raises((httpx.ConnectError, httpx.ConnectTimeout)):
                await client.get(f"http://rebind.example:{listener.port}/")
            assert asked == ["rebind.example"]  # one look, and the connection went to what it gave
            with pytest.raises(AddressRefused):
                await client.get(f"http://rebind.example:{listener.port}/")
        assert listener.arrivals == 0


async def test_the_connection_goes_to_the_address_and_the_host_header_keeps_the_name() -> None:
    client = open_client(LOOPBACK, timeout=PATIENCE, resolve=naming(["127.0.0.1"]))
    async with serving(whole(b"{}")) as (port, heads), client:
        assert (await client.get(f"http://oracle.example:{port}/v1/oracle")).content == b"{}"
    assert f"host: oracle.example:{port}".encode() in heads[0].lower()
    assert b"accept-encoding: identity\r\n" in heads[0].lower()


async def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    addresses = naming(["127.0.0.2", "127.0.0.1"])  # nobody listens at the first
    client = open_client(LOOPBACK, timeout=PATIENCE, resolve=addresses)
    async with serving(whole(b"{}")) as (port, _), client:
        assert (await client.get(f"http://oracle.example:{port}/")).status_code == 200


async def test_a_resolver_that_hangs_or_fails_is_a_failed_connection() -> None:
    async def hanging(host: str, port: int) -> Sequence[str]:
        await asyncio.sleep(60)
        return []

    async with open_client(LOOPBACK, timeout=httpx.Timeout(0.1), resolve=hanging) as client:
        with pytest.raises(httpx.ConnectTimeout):
            await client.get("http://oracle.example/")
    async with open_client(LOOPBACK, timeout=PATIENCE, resolve=naming([])) as client:
        with pytest.raises(httpx.ConnectError, match="no address"):
            await client.get("http://oracle.example/")
    async with open_client(LOOPBACK, timeout=PATIENCE) as client:
        with pytest.raises(httpx.ConnectError, match="cannot be resolved"):
            await client.get(f"http://{'a' * 63}.{'b' * 63}.invalid/")


async def test_a_redirect_is_an_answer_like_any_other() -> None:
    async with listening() as listener:
        moved = f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{listener.port}/\r\nContent-Length: 0\r\n\r\n"
        async with serving(moved.encode()) as (port, _), open_client(LOOPBACK, timeout=PATIENCE) as client:
            assert (await client.get(f"http://127.0.0.1:{port}/")).status_code == 302
        assert listener.arrivals == 0


async def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening() as proxy, serving(whole(b"{}")) as (port, _):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        async with open_client(LOOPBACK, timeout=PATIENCE) as client:
            assert (await client.get(f"http://127.0.0.1:{port}/")).status_code == 200
        assert proxy.arrivals == 0


async def test_a_compressed_answer_is_refused_as_it_lies_and_its_status_is_kept() -> None:
    bomb = gzip.compress(b"0" * 5_000_000)
    client = open_client(LOOPBACK, timeout=PATIENCE)
    async with serving(whole(bomb, "Content-Encoding: gzip")) as (port, _), client:
        request = client.build_request("GET", f"http://127.0.0.1:{port}/")
        response = await client.send(request, stream=True)
        assert response.status_code == 200
        with pytest.raises(ProtocolError, match="compressed"):
            await response.aread()
        await response.aclose()


async def test_an_answer_ends_at_its_cap() -> None:
    async with serving(whole(b"x" * 5_000)) as (port, _):
        async with open_client(LOOPBACK, timeout=PATIENCE, max_answer_bytes=4_999) as client:
            with pytest.raises(ProtocolError, match="longer than 4999 bytes"):
                await client.get(f"http://127.0.0.1:{port}/")
        async with open_client(LOOPBACK, timeout=PATIENCE, max_answer_bytes=5_000) as client:
            assert len((await client.get(f"http://127.0.0.1:{port}/")).content) == 5_000


@pytest.mark.parametrize("beginning", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"])
async def test_a_trickle_ends_at_the_deadline(beginning: bytes) -> None:
    """Every read succeeds in time, and yet the answer never ends."""
    stop, ended = asyncio.Event(), asyncio.Event()

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(beginning)
        while not stop.is_set() and not writer.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0.02)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    began_s = time.monotonic()
    async with server, open_client(LOOPBACK, timeout=PATIENCE, deadline_s=0.3) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get(f"http://127.0.0.1:{port}/")
        stop.set()
        await ended.wait()
    assert time.monotonic() - began_s < 30


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return self_signed(tmp_path / "oracle.pem", hosts=["oracle.example"])


async def test_tls_verifies_the_name_though_the_address_is_called(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    names: list[str | None] = []
    context.sni_callback = lambda _, name, __: names.append(name)
    async with serving(whole(b"{}"), tls=context) as (port, _):
        async with open_client(LOOPBACK, timeout=PATIENCE, resolve=naming(["127.0.0.1"])) as client:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await client.get(f"https://oracle.example:{port}/")  # nobody vouches for it
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with open_client(LOOPBACK, timeout=PATIENCE, resolve=naming(["127.0.0.1"])) as client:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await client.get(f"https://other.example:{port}/")
            assert (await client.get(f"https://oracle.example:{port}/")).status_code == 200
    assert names == ["oracle.example", "other.example", "oracle.example"]


def test_a_policy_is_read_from_text() -> None:
    policy = OutgoingPolicy.parse(" 127.0.0.0/8, ::1/128,10.0.0.7 ,")
    assert str(policy) == "public addresses, 127.0.0.0/8, ::1/128, 10.0.0.7/32"
    assert OutgoingPolicy.parse("") == OutgoingPolicy()
    with pytest.raises(ValueError, match=r"10\.0\.0\.7/8"):
        OutgoingPolicy.parse("10.0.0.7/8")
    with pytest.raises(ValueError, match="everything"):
        OutgoingPolicy.parse("everything")


@pytest.mark.parametrize(
    ("text", "everything"),
    [
        ("", False),
        ("127.0.0.0/8", False),
        ("0.0.0.0/0", True),
        ("::/0", True),
        ("0.0.0.0/1, 128.0.0.0/1", True),
        ("0.0.0.0/1, 8000::/1", False),
    ],
)
def test_everything_is_recognized(text: str, everything: bool) -> None:
    assert OutgoingPolicy.parse(text).allows_everything is everything


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6))
def test_what_is_called_is_public_by_the_standard_library_too(address: object) -> None:
    judged = read_address(str(address))
    try:
        OutgoingPolicy().require(judged, host="oracle.example")
    except AddressRefused:
        return
    assert judged.is_global
    assert not judged.is_multicast


@pytest.mark.parametrize(
    "text", ["1.1.1.1", "93.184.215.14", "172.32.0.1", "100.128.0.1", "2606:4700:4700::1111", "2a00:1450::1"]
)
def test_public_addresses_are_called(text: str) -> None:
    OutgoingPolicy().require(ip_address(text), host=text)


@pytest.mark.parametrize(("picture_bytes", "num_pieces"), [(100, 1), (40_000, 4), (100_000, 9)])
async def test_a_form_is_sent_in_few_pieces(picture_bytes: int, num_pieces: int) -> None:
    pictures = [bytes([number]) * picture_bytes for number in range(4)]
    files = [("request", ("r", b"{}", "application/json")), *((f"p{n}", ("p", one)) for n, one in enumerate(pictures))]
    form = httpx.Request("POST", "http://oracle/", files=files)
    pieces = [piece async for piece in outgoing._pieces(form.stream)]
    assert b"".join(pieces) == b"".join([part async for part in form.stream])  # type: ignore[union-attr]
    assert len(pieces) == num_pieces
