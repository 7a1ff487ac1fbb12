"""Native sandboxes without some of their walls, and a host that has something to hide.

The launcher that is started here has a variable and an open file of the host, as one of a careless
parent would; the file's and the variable's text is SECRET.
"""

import os
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rollout.sandbox.base import SandboxSpec
from rollout.sandbox.native import NativeEngine
from rollout.sandbox.native_sandbox import NativeSandbox
from rollout.types import Blueprint
from tests.sandbox.escape.table import call

SECRET = "the-hosts-own-secret"
DEFINE = "ROLLOUT_WEAKEN"
NAMESPACES = ("user", "pid", "net", "ipc", "uts", "cgroup")
ZERO = os.makedev(1, 5)
LAID = "/laid-zero"
UEVENT = Path("/sys/devices/virtual/mem/null/uevent")
"""Write `change` here and the kernel tells that the device has changed."""
IPC_CREAT, IPC_RMID = 0o1000, 0


class WeakenedEngine(NativeEngine):
    """Of a launcher that was built to leave walls out."""

    walls = ""

    def _fields(self, *request: Any) -> list[tuple[str, str]]:
        fields = super()._fields(*request)
        return [*fields, ("weaken", self.walls)] if self.walls else fields

    async def without(self, walls: str, *, sudo: bool = False) -> NativeSandbox:
        """A sandbox without these `walls`, split at commas; with a device file laid into it."""
        image = await self.build(Blueprint())
        self.walls = walls
        try:
            box = await self.create(SandboxSpec(image=image, sudo=sudo))
        finally:
            self.walls = ""
        laid = box._scratch / "u" / LAID.strip("/")
        os.mknod(laid, 0o020666, ZERO)
        laid.chmod(0o666)
        return box


@asynccontextmanager
async def running_weakened(engine: WeakenedEngine, box: Path, folder: Path) -> AsyncIterator[None]:
    """`engine` started with a launcher out of the program `box`, below `folder`."""
    secret, program = folder / "secret", folder / f"launch-{box.name}"
    secret.write_text(SECRET)
    program.write_text(f'#!/bin/sh\nexec 9<{secret}\nSECRET={SECRET} exec {box} "$@"\n')
    program.chmod(0o755)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rollout.sandbox.launcher.binary", lambda: program)
            await engine.start()
        yield
    finally:
        await engine.close()


@contextmanager
def host_with_secrets(folder: Path) -> Iterator[dict[str, Any]]:
    """Things of the host to find, and what a probe must know to look for them."""
    with ExitStack() as ending:
        host = ending.enter_context(subprocess.Popen(["sleep", "600"]))
        ending.callback(host.kill)
        abstract = ending.enter_context(socket.socket(socket.AF_UNIX))
        name = f"rollout-host-{os.getpid()}"
        abstract.bind(f"\0{name}")
        abstract.listen(64)
        port = ending.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
        uevents = os.access(UEVENT, os.W_OK)
        if uevents:
            events = f"while sleep 0.1; do echo change > {UEVENT}; done"
            ending.callback(ending.enter_context(subprocess.Popen(["sh", "-c", events])).kill)
        etc = Path("/etc").stat()
        yield {
            "host_pid": host.pid,
            "abstract": name,
            "port": port.getsockname()[1],
            "queue_key": ending.enter_context(system_v_queue()),
            "queue_name": ending.enter_context(posix_queue(name)),
            "namespaces": {
                kind: str(Path("/proc/self/ns", kind).readlink()) for kind in NAMESPACES
            },
            "nodename": os.uname().nodename,
            "etc": [etc.st_dev, etc.st_ino],
            "disk": disk_of(folder),
            "laid": LAID,
            "uevents": uevents,
            "secret": SECRET,
            "secret_file": "/secret",
        }


def disk_of(folder: Path) -> list[int]:
    """The device number of the host's disk, where the host itself may open it; else of zeros."""
    disk, root = folder / "disk", Path("/").stat().st_dev
    os.mknod(disk, 0o060600, root)
    try:
        disk.open("rb").close()
    except OSError:
        return [os.major(ZERO), os.minor(ZERO)]
    finally:
        disk.unlink()
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
