"""Probes: networks: the host's ports and Ray's, neighbours, whatever is beyond."""

import errno
import fcntl
import socket
from collections.abc import Callable

from tests.security.probes.probe import PRIVILEGED, probe, refuse

SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
BEYOND = {
    "the_internet": "1.1.1.1",
    "the_internet_v6": "2606:4700:4700::1111",
    "a_name_server": "8.8.8.8",
    "a_private_network": "10.0.0.1",
    "another_private_network": "192.168.0.1",
    "a_shared_network": "100.64.0.1",
    "metadata": "169.254.169.254",
    "metadata_v6": "fd00:ec2::254",
    "metadata_of_another_cloud": "100.100.100.200",
}

RAY = {"control_store": 6379, "dashboard": 8265, "client_server": 10001}
"""The ports that a cluster has unless told otherwise: whoever reaches one commands the cluster."""


def connect_tcp(address: str, port: int) -> object:
    with socket.create_connection((address, port), timeout=5) as sock:
        return sock.getpeername()


@probe("network", "net")
def abstract_socket_of_the_host(abstract: str) -> object:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("\0" + abstract)
        return abstract


@probe("network", "net")
def port_of_the_host(port: int) -> object:
    return connect_tcp("127.0.0.1", port)


@probe("network", "net")
def port_of_the_host_v6(port_v6: int) -> object:
    return connect_tcp("::1", port_v6)


@probe("network", "net")
def port_of_the_host_by_its_address(address: str, open_port: int) -> object:
    return connect_tcp(address, open_port)


@probe("network", "net")
def port_of_a_neighbour(neighbour_port: int) -> object:
    return connect_tcp("127.0.0.1", neighbour_port)


def knock(port: int) -> Callable[[], object]:
    return lambda: connect_tcp("127.0.0.1", port)


for _name, _port in RAY.items():
    probe("network", "net", name=f"port_of_rays_{_name}")(knock(_port))


@probe("network", "userns caps")
def raw_socket() -> object:
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP).fileno()


@probe("network", "userns caps")
def raw_socket_v6() -> object:
    return socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6).fileno()


@probe("network", PRIVILEGED)
def packet_socket() -> object:
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)).fileno()


def open_socket(family: int, kind: int, protocol: int) -> Callable[[], object]:
    return lambda: socket.socket(family, kind, protocol).fileno()


for _name, _family, _kind, _protocol in (
    ("vsock", 40, socket.SOCK_STREAM, 0),
    ("alg", 38, socket.SOCK_SEQPACKET, 0),
    ("xfrm_netlink", 16, socket.SOCK_RAW, 6),
    ("audit_netlink", 16, socket.SOCK_RAW, 9),
    ("netfilter_netlink", 16, socket.SOCK_RAW, 12),
):
    probe("network", "seccomp", name=f"socket_{_name}")(open_socket(_family, _kind, _protocol))


@probe("network", "seccomp")
def events_of_the_hosts_devices(uevents: bool) -> object:
    """The kernel tells every network that belongs to the host's user namespace."""
    with socket.socket(16, socket.SOCK_RAW, 15) as sock:
        sock.bind((0, 1))
        if not uevents:
            raise FileNotFoundError(errno.ENOENT, "this host lets nobody make an event")
        sock.settimeout(5)
        return sock.recv(4096)


@probe("network", "userns caps")
def change_the_network() -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        flags = fcntl.ioctl(sock, SIOCGIFFLAGS, b"lo".ljust(40, b"\0"))
        return fcntl.ioctl(sock, SIOCSIFFLAGS, flags)[:2]


# ---------------------------------------------------------------- beyond the host


@probe("network", "net")
def interfaces_beyond_loopback() -> object:
    names = {name for _, name in socket.if_nameindex()} - {"lo"}
    if not names:
        raise refuse("only lo")
    return names


def find_a_way(name: str, address: str) -> Callable[[dict[str, bool]], object]:
    """Connecting a datagram socket sends nothing: the kernel looks for a route."""

    def get_out(routed: dict[str, bool]) -> object:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            try:
                sock.connect((address, 53))
            except OSError:
                if not routed[name]:
                    raise FileNotFoundError(errno.ENOENT, "the host has no route either") from None
                raise
            return sock.getsockname()

    return get_out


for _name, _address in BEYOND.items():
    probe("network", "net", name=f"route_to_{_name}")(find_a_way(_name, _address))
