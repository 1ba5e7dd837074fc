"""Which addresses may be called: public ones, and those of the networks that a deployment allows.

Knows addresses only; `outgoing` resolves names and connects.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_address, ip_network
from typing import Annotated, Final, Self

from pydantic import AfterValidator

from rewardmesh.wire.errors import AddressRefused

__all__ = ["Address", "AllowedNetworks", "OutgoingPolicy", "read_address"]

VARIABLE: Final = "REWARDMESH_ALLOWED_NETWORKS"
Address = IPv4Address | IPv6Address

#: Written out, because what `is_private` and `is_global` say has changed between versions of Python.
_NOT_PUBLIC: Final = [
    (ip_network(network), what)
    for network, what in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared by a carrier, or a cloud's metadata"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "a cloud's metadata, though the address looks public"),
        ("169.254.0.0/16", "link-local, or a cloud's metadata"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved, or a cloud's metadata"),
        ("192.0.2.0/24", "documentation"),
        ("192.88.99.0/24", "a relay to IPv6"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved, or broadcast"),
        ("::1/128", "loopback"),
        ("::/96", "unspecified, or an IPv4 address in IPv6"),
        ("64:ff9b::/96", "a translation to IPv4"),
        ("64:ff9b:1::/48", "a translation to IPv4"),
        ("2001::/23", "a tunnel, or reserved"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "a tunnel to IPv4"),
        ("3fff::/20", "documentation"),
        ("fc00::/7", "private, or a cloud's metadata"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
    )
]
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")


@dataclass(frozen=True)
class OutgoingPolicy:
    """Which addresses may be called: public ones, and those of `allowed_networks`."""

    allowed_networks: tuple[IPv4Network | IPv6Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `127.0.0.0/8, ::1/128`; raises ValueError that names the part that is no network."""
        return cls(tuple(ip_network(part.strip()) for part in text.split(",") if part.strip()))

    @property
    def allows_everything(self) -> bool:
        """Whether nothing is refused any more, of IPv4 or of IPv6."""
        of_four = [one for one in self.allowed_networks if isinstance(one, IPv4Network)]
        of_six = [one for one in self.allowed_networks if isinstance(one, IPv6Network)]
        whole_four = any(one.prefixlen == 0 for one in collapse_addresses(of_four))
        return whole_four or any(one.prefixlen == 0 for one in collapse_addresses(of_six))

    def require(self, address: Address, *, host: str) -> None:
        """Raises AddressRefused unless the address may be called; `host` is how it was written."""
        if any(address in network for network in self.allowed_networks):
            return
        what = next((what for network, what in _NOT_PUBLIC if address in network), None)
        if what is None and address.version == 6 and address not in _GLOBAL_UNICAST:
            what = "not in global use"
        if what is not None:
            raise AddressRefused(
                f"the address {address} is not called, it is not public ({what})",
                host,
                f"if this service is meant, name its network in {VARIABLE}",
            )

    def __str__(self) -> str:
        """What may be called, in words."""
        return ", ".join(["public addresses", *map(str, self.allowed_networks)])


def _parsable(text: str) -> str:
    OutgoingPolicy.parse(text)
    return text


#: The type of a setting that `OutgoingPolicy.parse` reads.
AllowedNetworks = Annotated[str, AfterValidator(_parsable)]


def read_address(text: str) -> Address:
    """The address that a socket would use: an IPv4 address written as IPv6 is that IPv4 address. Raises ValueError."""
    address = ip_address(text)
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))  # without its zone
    return address
