"""A real init as PID 1 of its own namespaces: no engine, no overlay, the host's files."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rollout.sandbox.client import InitClient
from rollout.sandbox.init.build import binary

NAMESPACES = """
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWIPC, NEWPID, REC_PRIVATE, PDEATHSIG = 0x20000, 0x8000000, 0x20000000, 0x44000, 1

def must(result):
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

high = [os.dup2(int(fd), 100 + n) for n, fd in enumerate(sys.argv[1:3])]
must(libc.unshare(NEWNS | NEWIPC | NEWPID))
must(libc.mount(b"none", b"/", None, REC_PRIVATE, None))
child = os.fork()
if child == 0:
    # Every signal ignored, as some parents leave it: by the bare call, since libc keeps 32 and 33
    # to itself. Nothing of it may reach what runs inside.
    if os.uname().machine == "x86_64":
        ignore = (ctypes.c_ulong * 4)(1, 0, 0, 0)
        for number in {*range(1, 65)} - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
            libc.syscall(13, number, ignore, None, 8)
    must(libc.prctl(PDEATHSIG, signal.SIGKILL))
    must(libc.mount(b"proc", b"/proc", b"proc", 0, None))
    os.dup2(100, 3), os.dup2(101, 4)
    os.closerange(5, 200)
    os.execv(sys.argv[3], [sys.argv[3], "init"])
os.closerange(3, 200)
print(child, flush=True)
os.waitpid(child, 0)
"""


class Box:
    """One init and what a test needs to know of it from the outside."""

    def __init__(self, folder: Path, pid: int) -> None:
        self.folder = folder
        self.pid = pid
        """Of the init, as the host numbers it."""
        self.socket = str(folder / "s")
        self.client = InitClient(self.socket)

    async def sh(self, script: str, *, user: str = "", cwd: str = "") -> tuple[int, str]:
        """Exit code, and stdout followed by stderr."""
        result = await self.client.exec(["sh", "-c", script], user=user, cwd=cwd)
        return result.exit_code, (result.stdout + result.stderr).decode()

    async def processes(self) -> set[str]:
        """The names of all processes inside, but init and those that look."""
        _, listing = await self.sh("for p in /proc/[0-9]*; do cat $p/comm; done 2>/dev/null; :")
        return set(listing.split()) - {"rollout-box", "sh", "cat"}

    async def runs(self, name: str) -> bool:
        return name in await self.processes()

    async def gone(self, name: str) -> bool:
        return not await self.runs(name)

    async def only_init(self) -> bool:
        """Whether the one that looks is all that runs beside init, zombies counted."""
        _, listing = await self.sh("cd /proc && echo [0-9]*")
        return len(listing.split()) == 2

    def raw(self) -> socket.socket:
        """A blocking connection for what the client would never send."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(10)
        sock.connect(self.socket)
        return sock


@contextmanager
def running_init(folder: Path, program: Path | None = None) -> Iterator[Box]:
    ready, tell = os.pipe()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        listener.listen(256)
        fds = (listener.fileno(), tell)
        command = [sys.executable, "-c", NAMESPACES, *map(str, fds), str(program or binary())]
        parent = subprocess.Popen(command, pass_fds=fds, stdout=subprocess.PIPE)
    os.close(tell)
    try:
        with parent, os.fdopen(ready, "rb") as pipe:
            try:
                assert parent.stdout is not None
                pid = int(parent.stdout.readline())
                assert pipe.read() == b"R"
                yield Box(folder, pid)
            finally:
                parent.kill()
    finally:
        parent.wait()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what must come to hold; fails after 20 s."""
    async with asyncio.timeout(20):
        while not await holds():
            await asyncio.sleep(0.02)
