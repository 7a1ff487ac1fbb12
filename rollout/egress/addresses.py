"""Addresses by what lies there, whatever the version of Python says of them.

Written down after IANA's registries of special addresses. `NEVER` is reached by nobody; `CLOSED` is
no part of the public internet, and open only where a rule names it.
"""

from collections.abc import Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Named = tuple[tuple[Network, str], ...]


def _named(*pairs: tuple[str, str]) -> Named:
    return tuple((ip_network(text), what) for text, what in pairs)


NEVER = _named(
    ("0.0.0.0/8", "unspecified"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local, where clouds keep metadata"),
    ("100.100.100.200/32", "a cloud's metadata"),
    ("168.63.129.16/32", "a cloud's metadata"),
    ("192.0.0.192/32", "a cloud's metadata"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("::/8", "reserved, or another address in disguise"),
    ("2001::/32", "another address in disguise (Teredo)"),
    ("2002::/16", "another address in disguise (6to4)"),
    ("fd00:ec2::/32", "a cloud's metadata"),
    ("fd20:ce::254/128", "a cloud's metadata"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
)
CLOSED = _named(
    ("10.0.0.0/8", "private"),
    ("172.16.0.0/12", "private"),
    ("192.168.0.0/16", "private"),
    ("100.64.0.0/10", "a carrier's own"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "reserved"),
    ("192.88.99.0/24", "reserved"),
    ("198.18.0.0/15", "reserved"),
    ("198.51.100.0/24", "reserved"),
    ("203.0.113.0/24", "reserved"),
    ("240.0.0.0/4", "reserved"),
    ("2001::/23", "reserved"),
    ("2001:db8::/32", "reserved"),
    ("3fff::/20", "reserved"),
    ("fc00::/7", "private"),
    ("fec0::/10", "private"),
)
PUBLIC_V6 = IPv6Network("2000::/3")
"""All that is given out of IPv6; what lies outside and is not in `CLOSED` is nobody's."""
NAT64 = IPv6Network("64:ff9b::/96")
"""Its last 32 bits are the IPv4 address that is meant. Names have such addresses where the host's
own network has no IPv4."""


def read_address(text: str) -> Address:
    """ValueError for all but the one usual spelling. IPv4 inside of IPv6 (`::ffff:…`) is IPv4."""
    if "%" in text:
        raise ValueError(f"{text!r} names an interface")
    address = ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def never(address: Address) -> str:
    """Why nobody reaches it, whatever the rules; empty if somebody may."""
    if isinstance(address, IPv6Address) and address in NAT64:
        meant = IPv4Address(int(address) & 0xFFFFFFFF)
        return never(meant) or closed(meant)
    if found := _first(NEVER, address):
        return found
    if isinstance(address, IPv6Address) and address not in PUBLIC_V6 and not closed(address):
        return "reserved"
    return ""


def closed(address: Address) -> str:
    """Why it is open only to a rule that names it; empty for the public internet."""
    return _first(CLOSED, address)


def never_network(network: Network) -> str:
    """As `never`, of all addresses of a network."""
    return _around(NEVER, network)


def closed_network(network: Network) -> str:
    """As `closed`, of all addresses of a network. Of one that holds public ones too it is empty:
    who names the whole internet has not named what is private in it."""
    return _around(CLOSED, network)


def _first(table: Named, address: Address) -> str:
    return next((what for network, what in table if address in network), "")


def _around(table: Iterable[tuple[Network, str]], network: Network) -> str:
    return next((what for outer, what in table if _within(network, outer)), "")


def _within(inner: Network, outer: Network) -> bool:
    same = inner.version == outer.version
    return same and inner.prefixlen >= outer.prefixlen and inner.network_address in outer
