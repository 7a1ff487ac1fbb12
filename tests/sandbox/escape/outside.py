"""Probes: the host and the neighbours: processes, networks, files, devices, settings."""

import errno
import fcntl
import os
import signal
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from tests.sandbox.escape.probe import PRIVILEGED, call, probe, refuse

PTRACE_SEIZE = 0x4206
IMMUTABLE = 0x10
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914

# ---------------------------------------------------------------- namespaces shared with the host


def share_namespace(kind: str) -> Callable[[dict[str, str]], object]:
    def get_out(namespaces: dict[str, str]) -> object:
        own = os.readlink(f"/proc/self/ns/{kind}")
        if own != namespaces[kind]:
            raise refuse(f"{own} of its own")
        return own

    return get_out


for _kind, _wall in {
    "user": "userns",
    "pid": "pid",
    "net": "net",
    "ipc": "ipc",
    "uts": "uts",
    "cgroup": "cgroup",
}.items():
    probe(_wall, name=f"share_namespace_{_kind}")(share_namespace(_kind))


@probe("uts")
def name_of_the_host(nodename: str) -> object:
    if os.uname().nodename != nodename:
        raise refuse(os.uname().nodename)
    return nodename


@probe("cgroup")
def path_of_the_cgroup() -> object:
    lines = Path("/proc/self/cgroup").read_text().split()
    paths = {line.split(":", 2)[2] for line in lines} - {"/"}
    if not paths:
        raise refuse("only /")
    return paths


# ---------------------------------------------------------------- processes


@probe("pid")
def see_processes_of_the_host(host_pid: int) -> object:
    return Path(f"/proc/{host_pid}/comm").read_text()


@probe("pid")
def see_processes_of_neighbours(neighbour_pid: int) -> object:
    return Path(f"/proc/{neighbour_pid}/comm").read_text()


@probe("pid userns")
def signal_a_process_of_the_host(host_pid: int) -> object:
    return os.kill(host_pid, signal.SIGCONT)


@probe("pid userns")
def signal_a_neighbour(neighbour_pid: int) -> object:
    return os.kill(neighbour_pid, 0)


@probe("pid userns caps")
def trace_a_process_of_the_host(host_pid: int) -> object:
    return call("ptrace", PTRACE_SEIZE, host_pid, None, None)


@probe("pid userns caps")
def trace_a_neighbour(neighbour_pid: int) -> object:
    return call("ptrace", PTRACE_SEIZE, neighbour_pid, None, None)


@probe("pid userns caps")
def files_of_the_host_by_proc(host_pid: int, etc: list[int]) -> object:
    return is_etc(f"/proc/{host_pid}/root/etc", etc)


@probe("pid userns caps")
def environment_of_the_host(host_pid: int) -> object:
    return len(Path(f"/proc/{host_pid}/environ").read_bytes())


# ---------------------------------------------------------------- inter-process communication


@probe("ipc")
def message_queue_of_the_host(queue_key: int) -> object:
    return call("msgget", queue_key, 0)


@probe("ipc")
def named_queue_of_the_host(queue_name: str) -> object:
    return call("mq_open", queue_name.encode() + b"\0", os.O_RDONLY, 0, None)


@probe("net")
def abstract_socket_of_the_host(abstract: str) -> object:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("\0" + abstract)
        return abstract


@probe("net")
def port_of_the_host(port: int) -> object:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        return sock.getpeername()


@probe("userns caps")
def raw_socket() -> object:
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP).fileno()


@probe("userns caps")
def raw_socket_v6() -> object:
    return socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6).fileno()


@probe(PRIVILEGED)
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
    probe("seccomp", name=f"socket_{_name}")(open_socket(_family, _kind, _protocol))


@probe("seccomp")
def events_of_the_hosts_devices(uevents: bool) -> object:
    """The kernel tells every network that belongs to the host's user namespace."""
    with socket.socket(16, socket.SOCK_RAW, 15) as sock:
        sock.bind((0, 1))
        if not uevents:
            raise FileNotFoundError(errno.ENOENT, "this host lets nobody make an event")
        sock.settimeout(5)
        return sock.recv(4096)


@probe("userns caps")
def change_the_network() -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        flags = fcntl.ioctl(sock, SIOCGIFFLAGS, b"lo".ljust(40, b"\0"))
        return fcntl.ioctl(sock, SIOCSIFFLAGS, flags)[:2]


# ---------------------------------------------------------------- files


def is_etc(path: str, etc: list[int]) -> str:
    found = os.stat(path)
    if [found.st_dev, found.st_ino] != etc:
        raise refuse("its own")
    return path


@probe("unmount")
def root_above_the_root(etc: list[int]) -> object:
    return is_etc("/../etc", etc)


@probe("pivot userns")
def out_of_a_chroot(etc: list[int]) -> object:
    """Out of an inner root, whose outer one is then just a folder on the way up. On that way lie
    folders that only root of the host may pass."""
    Path("/tmp/inner").mkdir()
    os.chroot("/tmp/inner")
    os.chdir("../" * 50)
    os.chroot(".")
    return is_etc("/etc", etc)


@probe("userns caps")
def trusted_attribute() -> object:
    """What overlays keep their own notes in."""
    Path("/tmp/noted").touch()
    os.setxattr("/tmp/noted", "trusted.probe", b"y")
    return os.listxattr("/tmp/noted")


@probe("userns caps")
def file_nobody_can_remove() -> object:
    path = Path("/tmp/immutable")
    path.touch()
    with path.open() as file:
        flags = struct.unpack("q", fcntl.ioctl(file, FS_IOC_GETFLAGS, bytes(8)))[0]
        fcntl.ioctl(file, FS_IOC_SETFLAGS, struct.pack("q", flags | IMMUTABLE))
        fcntl.ioctl(file, FS_IOC_SETFLAGS, struct.pack("q", flags))
    return flags


# ---------------------------------------------------------------- devices


@probe("userns caps")
def make_a_device() -> object:
    return os.mknod("/tmp/zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))


@probe("userns caps nodev")
def read_a_device_of_its_own(disk: list[int]) -> object:
    """The host's disk, where it has one; past all files and rights."""
    kind = stat.S_IFBLK if disk != [1, 5] else stat.S_IFCHR
    os.mknod("/tmp/disk", kind | 0o600, os.makedev(*disk))
    with open("/tmp/disk", "rb", buffering=0) as device:
        return len(device.read(512))


@probe("nodev")
def device_in_a_layer(laid: str) -> object:
    with open(laid, "rb", buffering=0) as device:
        return device.read(8)


@probe("dev userns")
def write_to_the_shared_dev() -> object:
    path = Path("/dev/left-for-neighbours")
    path.write_text("x")
    path.unlink()
    return path


@probe("dev userns")
def change_a_shared_device() -> object:
    return os.chmod("/dev/null", 0o666)
