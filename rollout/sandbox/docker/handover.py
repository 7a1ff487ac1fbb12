"""The host's half of `rollout-box serve`: what an init starts with, given to it in its container.

The socket that the init accepts on is made here, where nothing inside can reach its name; only a
second one, which takes a single caller before anything of the image runs, is mounted into the
container. Who called last, the kernel says: that is the container's PID 1, as the host counts.
"""

import asyncio
import os
import shutil
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

from rollout.errors import SandboxError
from rollout.sandbox.skeleton import HOSTNAME as NAME_INSIDE

INSIDE = "/dev/.rollout"
"""Where the container finds the folder with the program and the socket: in Docker's tmpfs, so that
no image ever holds it."""
PROGRAM = "box"
SOCKET = "s"
HOSTNAME = "hostname"
BACKLOG = 128
_ERROR_BYTES = 1024
_PEER = struct.Struct("3i")


class Handover:
    """One container's folder, from before it is created until its init has said that it runs."""

    def __init__(self, folder: Path, program: Path, files: Mapping[str, bytes]) -> None:
        """`folder` will be made; `program` must be on the same file system. `files` are shown
        beside it."""
        self.socket_path = folder / "c"
        self.mounted = folder / "in"
        self._program = program
        self._files = {HOSTNAME: f"{NAME_INSIDE}\n".encode(), **files}
        self._callers = _socket()
        self._init = _socket()

    def open(self) -> None:
        """Blocks."""
        self.socket_path.parent.mkdir(mode=0o700)
        self.mounted.mkdir()
        # Whatever uid the daemon gives root in a container; the folder above is ours alone.
        self.mounted.chmod(0o755)
        (self.mounted / PROGRAM).hardlink_to(self._program)
        for name, content in self._files.items():
            (self.mounted / name).write_bytes(content)
        _listen(self._callers, self.mounted / SOCKET, 0o666)
        _listen(self._init, self.socket_path, 0o600)

    def close(self) -> None:
        """Nobody is waited for any more; idempotent."""
        self._callers.close()
        self._init.close()

    async def give(self) -> int:
        """The pid of the container's init, once it answers. SandboxError if it said why not.

        Waits for as long as it takes: the deadline is the caller's.
        """
        loop = asyncio.get_running_loop()
        caller, _ = await loop.sock_accept(self._callers)
        ready, told = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            with caller:
                pid, _, _ = _PEER.unpack(
                    caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
                )
                socket.send_fds(caller, [b"\0"], [self._init.fileno(), told])
            os.close(told)
            told = -1
            word = await _read(ready)
        finally:
            os.close(ready)
            if told >= 0:
                os.close(told)
        self.close()
        (self.mounted / SOCKET).unlink(missing_ok=True)
        if word != b"R":
            said = word[1:].decode(errors="replace") or "it ended without a word"
            raise SandboxError(f"its init did not start: {said}")
        if pid <= 0:
            raise SandboxError("its processes cannot be seen from here: another pid namespace")
        return int(pid)


def copy_program(program: Path, folder: Path) -> Path:
    """A copy that each container gets a link to. Blocks."""
    target = folder / PROGRAM
    shutil.copyfile(program, target)
    target.chmod(0o755)
    return target


def _socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


def _listen(sock: socket.socket, path: Path, mode: int) -> None:
    """An address holds 107 bytes; a descriptor of the folder makes any path short."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        sock.bind(f"/proc/self/fd/{folder}/{path.name}")
        path.chmod(mode)
        sock.listen(BACKLOG)
    finally:
        os.close(folder)


def _wake(waiting: "asyncio.Future[None]") -> None:
    if not waiting.done():
        waiting.set_result(None)


async def _read(pipe: int) -> bytes:
    """What the init writes before it closes its end."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(pipe, _wake, readable)
    try:
        await readable
        return os.read(pipe, _ERROR_BYTES)
    finally:
        loop.remove_reader(pipe)
