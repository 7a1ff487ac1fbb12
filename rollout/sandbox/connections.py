"""Connections to inits, and those kept for the next exec: making and ending one took a fifth of it.

What is here runs for each exec, so it is written for few steps.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

KEPT = 64
"""How many an engine keeps: thousands of sandboxes shall not hold a descriptor each."""
_MAX_SUN_PATH_BYTES = 107


class Connection:
    """A connection to an init. While it is watched, `taker` is called when bytes are there."""

    __slots__ = ("_loop", "_taker", "_watched", "sock")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """OSError where no socket is to be had."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._loop = loop
        self._taker: Callable[[], None] = self.close
        self._watched = False

    def connect(self, path: str) -> bool:
        """False: too many wait there; ask again. OSError: nobody listens."""
        try:
            if len(os.fsencode(path)) <= _MAX_SUN_PATH_BYTES:
                self.sock.connect(path)
            else:
                _connect_by_folder(self.sock, Path(path))
        except BlockingIOError:
            return False
        return True

    def watch(self, taker: Callable[[], None]) -> None:
        self._taker = taker
        if not self._watched:
            self._loop.add_reader(self.sock.fileno(), self._readable)
            self._watched = True

    def unwatch(self) -> None:
        if self._watched:
            self._loop.remove_reader(self.sock.fileno())
            self._watched = False

    def close(self) -> None:
        """Hang up; idempotent."""
        self.unwatch()
        self.sock.close()

    def _readable(self) -> None:
        self._taker()


class Connections:
    """Idle connections of an engine's sandboxes, at most one each, by the path of the socket.

    One on which anything comes while nobody has asked is hung up: its init has ended or is hostile.
    """

    def __init__(self, most: int = KEPT) -> None:
        self._most = most
        self._idle: dict[str, Connection] = {}

    def __len__(self) -> int:
        return len(self._idle)

    def take(self, path: str) -> Connection | None:
        """The one to `path`, now the caller's; None where none is idle."""
        return self._idle.pop(path, None)

    def keep(self, path: str, connection: Connection) -> None:
        """Have it for the next call; where there are too many, the one idle longest goes."""
        if path in self._idle or not self._most:
            connection.close()
            return
        if len(self._idle) >= self._most:
            self._drop(next(iter(self._idle)))
        self._idle[path] = connection
        connection.watch(partial(self._drop, path))

    def close(self) -> None:
        for path in list(self._idle):
            self._drop(path)

    def _drop(self, path: str) -> None:
        self._idle.pop(path).close()


def _connect_by_folder(sock: socket.socket, path: Path) -> None:
    # An address holds 107 bytes; a descriptor of the folder makes any path short.
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        sock.connect(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)
