"""Addresses and spellings that the outgoing client must refuse, each tried against a server that listens on loopback.

    python -m benchmarks.outgoing [--json FILE]

Every form is a URL that somebody might register. It is asked for with the policy of a deployment that allows nothing
but public addresses; what counts is that the client refuses it and that nothing arrives at the listener. A control at
the end allows loopback and does arrive. `tests/unit/wire/test_outgoing.py` goes through the same list.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import httpx
from rich.markup import escape
from rich.table import Table

from benchmarks.record import parser, print_table, write
from rewardmesh.wire.errors import AddressRefused
from rewardmesh.wire.outgoing import OutgoingPolicy, open_client, resolve

__all__ = ["FORMS", "Attempt", "Form", "Listener", "attempt", "listening", "try_all"]


@dataclass(frozen=True)
class Form:
    """A URL, with `PORT` where the listener's goes; `resolves`: what the name of its host resolves to."""

    what: str
    url: str
    resolves: tuple[str, ...] = ()


@dataclass(frozen=True)
class Attempt:
    """What became of a form: the error that ended it, and whether anything arrived at the listener."""

    form: Form
    error: Exception | None
    arrived: bool

    @property
    def refused(self) -> bool:
        no_url_or_address = isinstance(self.error, httpx.InvalidURL) or "cannot be resolved" in str(self.error)
        return not self.arrived and (isinstance(self.error, AddressRefused) or no_url_or_address)

    @property
    def by(self) -> str:
        """What refused it, in a few words."""
        if isinstance(self.error, AddressRefused):
            return self.error.what
        if isinstance(self.error, httpx.InvalidURL):
            return "no URL"
        return "no such name" if self.refused else f"{self.error!r}"


def _addresses(what: str, *hosts: str) -> list[Form]:
    return [Form(what, f"http://{host}:PORT/v1/oracle") for host in hosts]


FORMS: tuple[Form, ...] = (
    *_addresses("loopback", "127.0.0.1", "127.255.255.254", "[::1]", "[0:0:0:0:0:0:0:1]"),
    *_addresses("loopback by name", "localhost", "LOCALHOST", "localhost."),
    *_addresses("loopback, decimal", "2130706433"),
    *_addresses("loopback, octal", "0177.0.0.1", "017700000001"),
    *_addresses("loopback, hexadecimal", "0x7f000001", "0x7f.0x0.0x0.0x1", "0x7F.1"),
    *_addresses("loopback, short", "127.1", "127.0.1"),
    *_addresses("loopback, trailing dot", "127.0.0.1."),
    *_addresses("loopback, other digits", "①②⑦.⓪.⓪.①", "１２７.０.０.１", "127。0。0。1"),
    *_addresses("loopback, percent-encoded", "127%2e0%2e0%2e1", "%31%32%37.0.0.1"),
    *_addresses("loopback as mapped IPv6", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:7f00:0001]"),
    *_addresses("loopback as compatible IPv6", "[::127.0.0.1]", "[::7f00:1]"),
    *_addresses("loopback by 6to4, NAT64, Teredo", "[2002:7f00:1::]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]"),
    *_addresses("loopback by 6to4, NAT64, Teredo", "[2001:0:4136:e378:8000:63bf:80ff:fffe]", "[::ffff:0:7f00:1]"),
    *_addresses("unspecified", "0", "0.0.0.0", "[::]", "[::ffff:0.0.0.0]"),  # noqa: S104 - called, not bound
    *_addresses("metadata", "169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518"),
    *_addresses("metadata", "[fd00:ec2::254]", "[fd20:ce::254]", "[::ffff:a9fe:a9fe]", "[64:ff9b::a9fe:a9fe]"),
    *_addresses("metadata", "100.100.100.200", "192.0.0.192", "168.63.129.16", "[2002:a9fe:a9fe::]"),
    *_addresses("private", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "3232235777", "012.0.0.1"),
    *_addresses("private IPv6", "[fc00::1]", "[fd12:3456:789a::1]", "[::ffff:10.0.0.1]", "[2002:c0a8:101::]"),
    *_addresses("carrier-grade NAT", "100.64.0.1", "100.127.255.254"),
    *_addresses("link-local", "169.254.1.1", "[fe80::1]", "[fe80::1%25lo]", "[febf::1]"),
    *_addresses("multicast", "224.0.0.1", "239.255.255.250", "[ff02::1]", "[ff0e::1]"),
    *_addresses("reserved", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
    *_addresses("reserved IPv6", "[2001:db8::1]", "[100::1]", "[4000::1]", "[3fff::1]", "[2001:20::1]", "[5f00::1]"),
    *_addresses("user information", "user@127.0.0.1", "public.example@127.0.0.1", "user:secret@127.0.0.1"),
    *_addresses("user information, public host", "user:secret@public.example"),
    Form("another scheme", "ftp://127.0.0.1:PORT/"),
    Form("another scheme", "file:///etc/passwd"),
    Form("another scheme", "gopher://127.0.0.1:PORT/"),
    Form("another scheme", "ws://127.0.0.1:PORT/"),
    Form("another scheme", "//127.0.0.1:PORT/"),
    Form("another scheme", "http+unix://%2ftmp%2fsocket/"),
    Form("a name of loopback", "http://inside.example:PORT/", ("127.0.0.1",)),
    Form("a name of loopback", "http://inside.example:PORT/", ("::1",)),
    Form("a name of a private address", "http://inside.example:PORT/", ("10.1.2.3",)),
    Form("a name of the metadata", "http://metadata.example:PORT/", ("169.254.169.254",)),
    Form("a name of both", "http://both.example:PORT/", ("93.184.215.14", "127.0.0.1")),
    Form("a name of both", "http://both.example:PORT/", ("127.0.0.1", "93.184.215.14")),
    Form("a name with a zone", "http://zone.example:PORT/", ("fe80::1%lo",)),
)


@dataclass
class Listener:
    """Where it listens, and how many connections arrived."""

    port: int = 0
    arrivals: int = 0


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    """A listener on one port of both loopback addresses (of IPv4 alone where there is no IPv6)."""
    listener = Listener()

    async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        listener.arrivals += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    servers = [await asyncio.start_server(connected, "127.0.0.1", 0)]
    listener.port = servers[0].sockets[0].getsockname()[1]
    with suppress(OSError):  # no IPv6 here, or the port is another's there
        servers.append(await asyncio.start_server(connected, "::1", listener.port))
    try:
        yield listener
    finally:
        for server in servers:
            server.close()
            await server.wait_closed()


async def attempt(form: Form, listener: Listener, *, policy: OutgoingPolicy | None = None) -> Attempt:
    """Asks for the form's URL once, with the policy that allows public addresses only if none is given."""

    async def look_up(host: str, port: int) -> Sequence[str]:
        return form.resolves or await resolve(host, port)

    before = listener.arrivals
    error: Exception | None = None
    async with open_client(policy or OutgoingPolicy(), timeout=httpx.Timeout(2.0), resolve=look_up) as client:
        try:
            await client.get(form.url.replace("PORT", str(listener.port)))
        except (AddressRefused, httpx.InvalidURL, httpx.HTTPError) as caught:
            error = caught
    return Attempt(form, error, arrived=listener.arrivals > before)


async def try_all(forms: Sequence[Form] = FORMS) -> list[Attempt]:
    """Every form, then the control. Raises RuntimeError if the control does not arrive: then the rest shows nothing."""
    async with listening() as listener:
        attempts = [await attempt(form, listener) for form in forms]
        control = await attempt(forms[0], listener, policy=OutgoingPolicy.parse("127.0.0.0/8"))
    if control.error is not None or not control.arrived:
        raise RuntimeError(f"the listener is not reached even where it is allowed: {control.error}")
    return attempts


def main(arguments: argparse.Namespace) -> int:
    """Prints the table; 1 if a form was not refused."""
    attempts = asyncio.run(try_all())
    table = Table(title="benchmarks.outgoing", title_justify="left")
    for column in ("what", "form", "refused", "by"):
        table.add_column(column, overflow="fold")
    rows = []
    for one in attempts:
        url = one.form.url + (f" ({', '.join(one.form.resolves)})" if one.form.resolves else "")
        table.add_row(one.form.what, escape(url), "yes" if one.refused else "NO", one.by)
        rows.append({"what": one.form.what, "form": url, "refused": one.refused, "by": one.by})
    refused = sum(one.refused for one in attempts)
    print_table(table, f"{refused} of {len(attempts)} refused, nothing arrived but the control")
    write("outgoing", {"tried": len(attempts), "refused": refused, "forms": rows}, json_file=arguments.json)
    return 0 if refused == len(attempts) else 1


if __name__ == "__main__":
    raise SystemExit(main(parser(__doc__, repeats=False).parse_args()))
