"""Sockets of a sandbox's network, passed by its init and used from here.

No byte then goes through the init, and the sandbox needs no network of its own.
"""

import asyncio
import errno
import os
import socket

from rollout.errors import SandboxError
from rollout.sandbox.link import Link, ok_or_error


async def take_socket(
    socket_path: str, doing: str, request: bytes, *, listening: bool, timeout_s: float
) -> socket.socket:
    """Send LISTEN or CONNECT and give the socket, non-blocking and checked."""
    link = Link(doing, ok_or_error, deadline_s=timeout_s)
    passed: list[int] = []
    link.descriptors = passed
    try:
        await link.start(socket_path, request)
        await link.finished()
        return _checked(doing, passed, listening)
    finally:
        link.close()
        for descriptor in passed:
            os.close(descriptor)


async def established(sock: socket.socket, doing: str, timeout_s: float) -> None:
    """Wait until a socket that is connecting is connected; closes it and raises if not."""
    try:
        async with asyncio.timeout(timeout_s):
            await _writable(sock)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    except TimeoutError as exc:
        sock.close()
        raise SandboxError(f"{doing}: nobody answers") from exc
    except BaseException:
        sock.close()
        raise
    if error or not _has_peer(sock):
        sock.close()
        raise SandboxError(f"{doing}: {os.strerror(error or errno.ENOTCONN)}")


def _has_peer(sock: socket.socket) -> bool:
    """A socket that nobody connected is as writable as one that is."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _checked(doing: str, passed: list[int], listening: bool) -> socket.socket:
    """The one descriptor, if it is what was asked for: the other end may be hostile."""
    if len(passed) != 1:
        raise SandboxError(f"{doing}: init passed {len(passed)} descriptors, not one")
    try:
        sock = socket.socket(fileno=passed[0])
    except OSError as exc:
        raise SandboxError(f"{doing}: init passed something that is no socket") from exc
    passed.clear()  # the socket owns it from here
    seen = (
        sock.family,
        sock.type,
        sock.proto,
        bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)),
    )
    if seen != (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, listening):
        sock.close()
        raise SandboxError(f"{doing}: init passed another kind of socket: {seen}")
    sock.setblocking(False)
    return sock


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Event = asyncio.Event()
    loop.add_writer(sock.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(sock.fileno())
