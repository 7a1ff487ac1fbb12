"""A host that has something to hide, and what a probe must know to look for it."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.security.probes.network import BEYOND, RAY
from tests.security.probes.table import call

SECRET = "the-hosts-own-secret"
NAMESPACES = ("user", "pid", "net", "ipc", "uts", "cgroup")
ZERO = os.makedev(1, 5)
LAID = "/laid-zero"
UEVENT = Path("/sys/devices/virtual/mem/null/uevent")
"""Write `change` here and the kernel tells that the device has changed."""
IPC_CREAT, IPC_RMID = 0o1000, 0
USER_KEYRING, KEYCTL_UNLINK = -4, 9


@contextmanager
def host_with_secrets(folder: Path) -> Iterator[dict[str, Any]]:
    """Whatever is made is gone after the block; `folder` keeps a file named `secret`."""
    secret = folder / "secret"
    secret.write_text(SECRET)
    with ExitStack() as ending:
        host = ending.enter_context(subprocess.Popen(["sleep", "600"]))
        ending.callback(host.kill)
        abstract = ending.enter_context(socket.socket(socket.AF_UNIX))
        name = f"rollout-host-{os.getpid()}"
        abstract.bind(f"\0{name}")
        abstract.listen(64)
        uevents = os.access(UEVENT, os.W_OK)
        if uevents:
            events = f"while sleep 0.1; do echo change > {UEVENT}; done"
            ending.callback(ending.enter_context(subprocess.Popen(["sh", "-c", events])).kill)
        etc = Path("/etc").stat()
        yield {
            **ending.enter_context(servers()),
            "host_pid": host.pid,
            "abstract": name,
            "queue_key": ending.enter_context(system_v_queue()),
            "queue_name": ending.enter_context(posix_queue(name)),
            "key": ending.enter_context(key(name)),
            "namespaces": {
                kind: str(Path("/proc/self/ns", kind).readlink()) for kind in NAMESPACES
            },
            "nodename": os.uname().nodename,
            "etc": [etc.st_dev, etc.st_ino],
            "disk": disk_of(folder),
            "laid": LAID,
            "uevents": uevents,
            "secret": SECRET,
            "secret_path": str(secret),
        }


@contextmanager
def servers() -> Iterator[dict[str, Any]]:
    """On every address of this host, and on Ray's ports, where nobody else is there already."""
    with ExitStack() as ending:

        def listen(address: str, port: int = 0) -> int:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            made = socket.create_server((address, port), family=family, backlog=64)
            return int(ending.enter_context(made).getsockname()[1])

        for port in RAY.values():
            with suppress(OSError):  # whoever has it already will do as well
                listen("127.0.0.1", port)
        yield {
            "port": listen("127.0.0.1"),
            "port_v6": listen("::1") if socket.has_ipv6 else 0,
            "open_port": listen("0.0.0.0"),
            "address": own_address(BEYOND["the_internet"]) or "127.0.0.1",
            "routed": {name: bool(own_address(address)) for name, address in BEYOND.items()},
        }


def own_address(beyond: str) -> str:
    """The address from which this host would talk to that one; nothing where it has no route."""
    family = socket.AF_INET6 if ":" in beyond else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock, suppress(OSError):
        sock.connect((beyond, 53))
        return str(sock.getsockname()[0])
    return ""


def disk_of(folder: Path) -> list[int]:
    """The device number of the host's disk, where the host itself may open it; else of zeros."""
    disk, root = folder / "disk", Path("/").stat().st_dev
    try:
        os.mknod(disk, 0o060600, root)
        disk.open("rb").close()
    except OSError:
        return [os.major(ZERO), os.minor(ZERO)]
    finally:
        disk.unlink(missing_ok=True)
    return [os.major(root), os.minor(root)]


@contextmanager
def system_v_queue() -> Iterator[int]:
    key = 0x526F0000 + os.getpid() % 65536
    queue = call("msgget", key, IPC_CREAT | 0o666)
    try:
        yield key
    finally:
        call("msgctl", queue, IPC_RMID, None)


@contextmanager
def posix_queue(name: str) -> Iterator[str]:
    before = os.umask(0)
    try:
        os.close(call("mq_open", name.encode() + b"\0", os.O_CREAT | os.O_RDWR, 0o666, None))
    finally:
        os.umask(before)
    try:
        yield name
    finally:
        call("mq_unlink", name.encode() + b"\0")


@contextmanager
def key(name: str) -> Iterator[str]:
    made = call("add_key", b"user\0", name.encode() + b"\0", b"secret\0", 6, USER_KEYRING)
    try:
        yield name
    finally:
        call("keyctl", KEYCTL_UNLINK, made, USER_KEYRING)
