"""What of the world outside a blueprint opens: `network` and `allowed_hosts`, read and asked.

A rule is `HOST`, `*.HOST`, an address or a range of them, each with `:PORT` behind it or without:
ports 443 and 80 then. Nothing here looks anything up. A name is asked for by `refuses` before it is
looked up, each address that it has by `refuses_address` before anybody connects to it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from rollout.egress.addresses import (
    Address,
    Network,
    closed,
    closed_network,
    never,
    never_network,
    read_address,
)
from rollout.types import NETWORKS

NONE, ALLOWLIST, PUBLIC = NETWORKS
USUAL_PORTS = frozenset({443, 80})
MOST_RULES = 1_000
FORMS = "a host, *.host, an address or a CIDR range, with :port or without"
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PARTS = re.compile(r"(\[[^\[\]]*\]|[^\[\]:]*)(?::([^:]*))?")


@dataclass(frozen=True, slots=True)
class Host:
    """One of the two."""

    name: str = ""
    """In lower case, without a dot at its end, ASCII."""
    address: Address | None = None

    def __str__(self) -> str:
        if self.address is None:
            return self.name
        return f"[{self.address}]" if self.address.version == 6 else str(self.address)


@dataclass(frozen=True, slots=True)
class Rule:
    """A name or a network, and what of it may be reached."""

    ports: frozenset[int]
    name: str = ""
    below: bool = False
    """Names that end in `.name`, and not itself."""
    network: Network | None = None
    private: bool = False
    """No part of the public internet, and named as such."""

    def names(self, name: str) -> bool:
        return name.endswith(f".{self.name}") if self.below else name == self.name

    def holds(self, address: Address) -> bool:
        network = self.network
        return network is not None and network.version == address.version and address in network


class Rules:
    """Of one sandbox. Each answer is why not, in words; empty means that it may."""

    def __init__(self, network: str, allowed_hosts: Sequence[str] = ()) -> None:
        """ValueError as of `problems`."""
        if found := list(problems(network, allowed_hosts)):
            raise ValueError("; ".join(found))
        self._public = network == PUBLIC
        self._rules = [read_rule(text) for text in allowed_hosts]

    def refuses(self, host: Host, port: int) -> str:
        """Asked before a name is looked up: one that no rule allows is told to no name server."""
        if host.address is not None:
            return self.refuses_address(host.address, port) or self._unlisted(host.address, port)
        named = [rule for rule in self._rules if rule.name and rule.names(host.name)]
        return self._unless(any(port in rule.ports for rule in named), bool(named), port)

    def refuses_address(self, address: Address, port: int) -> str:
        """Asked of each address that an allowed name has."""
        if why := never(address):
            return f"its address is never reached: {why}"
        why = closed(address)
        if why and not any(
            rule.private and port in rule.ports and rule.holds(address) for rule in self._rules
        ):
            return f"its address is {why}, and no rule names that range for port {port}"
        return ""

    def _unlisted(self, address: Address, port: int) -> str:
        rules = [rule for rule in self._rules if rule.holds(address)]
        return self._unless(any(port in rule.ports for rule in rules), bool(rules), port)

    def _unless(self, listed: bool, known: bool, port: int) -> str:
        if listed or (self._public and port in USUAL_PORTS):
            return ""
        if known or self._public:
            return f"port {port} is not allowed for it"
        return "no rule allows it"


def problems(network: str, allowed_hosts: Sequence[str]) -> Iterator[str]:
    """What is wrong with a blueprint's two words: `KEY: what, and what to write`."""
    if network not in NETWORKS:
        yield f"network: {network!r} is none of {', '.join(NETWORKS)}"
    if network == NONE and allowed_hosts:
        yield "allowed_hosts: nothing is reached with network none; say network=allowlist"
    if network == ALLOWLIST and not allowed_hosts:
        yield "allowed_hosts: must be given with network=allowlist, such as [packages.example]"
    if len(allowed_hosts) > MOST_RULES:
        yield f"allowed_hosts: {len(allowed_hosts)} of them; at most {MOST_RULES}"
    for text in allowed_hosts:
        try:
            read_rule(text)
        except ValueError as exc:
            yield f"allowed_hosts: saw {text!r}: {exc}; use {FORMS}"


def read_rule(text: str) -> Rule:
    """ValueError says what is wrong with it."""
    said, ports = _split_ports(text.strip())
    if "/" in said or ":" in said:
        return _network_rule(said[1:-1] if re.fullmatch(r"\[.*\]", said) else said, ports)
    if said.startswith("*."):
        return Rule(ports, name=_read_name(_ascii(said[2:])), below=True)
    host = read_host(_ascii(said))
    if host.address is not None:
        return _network_rule(str(host.address), ports)
    return Rule(ports, name=host.name)


def read_authority(text: str, usual_port: int | None) -> tuple[Host, int]:
    """`host:port` of a request; ValueError for what has no one meaning.

    usual_port: where none is said; None: it must be.
    """
    found = _PARTS.fullmatch(text)
    if not found:
        raise ValueError("its host and port have no meaning")
    if not found[2]:
        if usual_port is None or found[2] is not None:
            raise ValueError("it names no port")
        return read_host(found[1]), usual_port
    return read_host(found[1]), read_port(found[2])


def read_host(text: str) -> Host:
    """ValueError for spellings that only some programs take for an address, such as `127.1`,
    `0x7f000001` or `017700000001`, and for names that are none."""
    if text.startswith("[") and text.endswith("]"):
        address = read_address(text[1:-1])
        if ":" not in text:
            raise ValueError("brackets are for IPv6")
        return Host(address=address)
    if _NUMBER.fullmatch(text.lower().removesuffix(".").rpartition(".")[2]):
        try:
            return Host(address=read_address(text))
        except ValueError:
            raise ValueError("no address, and no name ends in a number") from None
    return Host(name=_read_name(text))


def read_port(text: str) -> int:
    port = int(text) if re.fullmatch(r"[0-9]{1,5}", text) else 0
    if not 0 < port < 65_536:
        raise ValueError("its port is no number from 1 to 65535")
    return port


def _split_ports(text: str) -> tuple[str, frozenset[int]]:
    bare_v6 = text.count(":") > 1 and not text.startswith("[")
    if bare_v6 or not (found := re.fullmatch(r"(.*[^:]|):([^:\]/]*)", text)):
        return text, USUAL_PORTS
    return found[1], frozenset({read_port(found[2])})


def _network_rule(text: str, ports: frozenset[int]) -> Rule:
    network = ip_network(text)
    if why := never_network(network):
        raise ValueError(f"it is never reached: {why}")
    return Rule(ports, network=network, private=bool(closed_network(network)))


def _read_name(text: str) -> str:
    name = text.lower().removesuffix(".")
    if len(name) > 253 or not all(map(_LABEL.fullmatch, name.split("."))):
        raise ValueError("no name of a host")
    return name


def _ascii(text: str) -> str:
    """As name servers know it: `bücher.example` is `xn--bcher-kva.example`."""
    try:
        return text if text.isascii() else text.encode("idna").decode()
    except UnicodeError:
        raise ValueError("no name of a host") from None
