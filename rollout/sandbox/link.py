"""One connection to an init: bytes out with back-pressure, frames in, one end, one deadline.

Built on `add_reader` and not on asyncio's streams, for the time of an exec is the product: what is
here runs once or twice for each.
"""

import array
import asyncio
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from rollout.errors import RolloutError, SandboxError, SandboxLost
from rollout.sandbox import wire

GRACE_S = 2.0
"""How much longer than a process's own timeout the host waits for its init to say so."""
READ_BYTES = 64 << 10
"""A larger buffer would be mapped and unmapped for each answer."""
_UNSENT_BYTES = 256 << 10
_MAX_SUN_PATH_BYTES = 107
_BACKLOG_PAUSE_S = 0.002


class Link:
    """A connection, for one operation named by `doing`. Leaving it hangs up, which cancels.

    Every frame goes to `on_frame`, which says whether it was the last, or raises. Whatever goes
    wrong meanwhile is one typed error, raised by `finished`.
    """

    __slots__ = (
        "_decoder",
        "_doing",
        "_done",
        "_drained",
        "_loop",
        "_on_frame",
        "_reading",
        "_sock",
        "_source",
        "_timer",
        "_unsent",
        "_writing",
        "descriptors",
    )

    def __init__(
        self, doing: str, on_frame: Callable[[int, bytes], bool], *, deadline_s: float
    ) -> None:
        self._doing = doing
        self._on_frame = on_frame
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        self._drained: asyncio.Future[None] | None = None
        self._decoder = wire.Decoder()
        self._sock: socket.socket | None = None
        self._source: Iterator[bytes] = iter(())
        self._unsent = bytearray()
        self._reading = self._writing = False
        self._timer = self._loop.call_later(deadline_s, self._expire, deadline_s)
        self.descriptors: list[int] | None = None
        """Set to a list, it takes what the init passes; whoever sets it closes them."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- the operation

    async def start(self, path: str, request: bytes, source: Iterable[bytes] = ()) -> None:
        """Connect and send `request`; `source` follows it piece by piece as the init takes it."""
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as exc:
            raise SandboxError(f"{self._doing}: no socket for it: {exc.strerror}") from exc
        self._sock = sock
        try:
            while not _connected(sock, path):
                # A full backlog. Not `sock_connect`: for unix sockets it takes that for success.
                await asyncio.sleep(_BACKLOG_PAUSE_S)
                if self._done.done():
                    return
        except OSError as exc:
            raise SandboxLost(f"{self._doing}: no init at {path}: {exc.strerror}") from exc
        self._source = iter(source)
        self._unsent += request
        self._push()
        self.resume()

    async def finished(self) -> None:
        """Wait for the end; raises what ended it. Cancelled, it ends the operation."""
        await self._done

    @property
    def over(self) -> bool:
        return self._done.done()

    def on_end(self, then: Callable[[], None]) -> None:
        self._done.add_done_callback(lambda _: then())

    def fail(self, error: Exception) -> None:
        if not self._done.done():
            self._done.set_exception(error)
            # Nobody may be waiting any more; the error is then of no interest.
            self._done.exception()
            self._stop()

    def close(self) -> None:
        """Hang up; idempotent."""
        self._stop()
        if not self._done.done():
            self._done.cancel()
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _stop(self) -> None:
        self.pause()
        self._watch_writing(False)
        self._timer.cancel()
        self._wake_writer()

    def _expire(self, deadline_s: float) -> None:
        self.fail(SandboxLost(f"{self._doing}: no answer from its init within {deadline_s:g} s"))

    # -- out

    def send(self, data: bytes) -> None:
        """Queue `data` after all that was queued before; `drain` bounds the queue."""
        if self._done.done():
            return
        self._unsent += data
        if not self._writing:
            self._push()

    async def drain(self) -> None:
        """Wait while much is queued, or until the operation is over."""
        while len(self._unsent) > _UNSENT_BYTES and not self._done.done():
            if self._drained is None:
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    def _push(self) -> None:
        assert self._sock is not None
        try:
            while self._unsent or self._more():
                sent = self._sock.send(self._unsent)
                del self._unsent[:sent]
        except BlockingIOError:
            self._watch_writing(True)
        except OSError:
            # The init takes no more. Why, its last frame or the end of the stream will tell.
            self._unsent.clear()
            self._source = iter(())
            self._watch_writing(False)
        else:
            self._watch_writing(False)
        if len(self._unsent) <= _UNSENT_BYTES:
            self._wake_writer()

    def _more(self) -> bool:
        for piece in self._source:
            self._unsent += piece
            if len(self._unsent) >= _UNSENT_BYTES:
                break
        return bool(self._unsent)

    def _wake_writer(self) -> None:
        if self._drained is not None:
            self._drained.set_result(None)
            self._drained = None

    def _watch_writing(self, wanted: bool) -> None:
        if wanted is self._writing or self._sock is None:
            return
        self._writing = wanted
        if wanted:
            self._loop.add_writer(self._sock.fileno(), self._push)
        else:
            self._loop.remove_writer(self._sock.fileno())

    # -- in

    def pause(self) -> None:
        """Take no more frames: the init then stops reading this process's pipes."""
        if self._reading and self._sock is not None:
            self._loop.remove_reader(self._sock.fileno())
        self._reading = False

    def resume(self) -> None:
        if not self._reading and self._sock is not None and not self._done.done():
            self._loop.add_reader(self._sock.fileno(), self._readable)
            self._reading = True

    def _readable(self) -> None:
        try:
            data = self._receive()
        except BlockingIOError:
            return
        except OSError as exc:
            self.fail(SandboxLost(f"{self._doing}: {exc.strerror}"))
            return
        if self.descriptors and len(self.descriptors) > 1:
            self.fail(SandboxError(f"{self._doing}: init passed more descriptors than one"))
            return
        if not data:
            self.fail(SandboxLost(f"{self._doing}: its init hung up before the end"))
            return
        try:
            for kind, payload in self._decoder.feed(data):
                if self._on_frame(kind, payload):
                    self._done.set_result(None)
                    self._stop()
                    return
        except RolloutError as exc:
            self.fail(type(exc)(f"{self._doing}: {exc}"))
        except FileNotFoundError as exc:
            self.fail(exc)

    def _receive(self) -> bytes:
        assert self._sock is not None
        if self.descriptors is None:
            return self._sock.recv(READ_BYTES)
        # Room for exactly one: the kernel closes what does not fit.
        room = socket.CMSG_LEN(array.array("i").itemsize)
        data, ancillary, _, _ = self._sock.recvmsg(READ_BYTES, room, socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                whole = len(content) - len(content) % 4
                self.descriptors.extend(array.array("i", content[:whole]))
        return data


def _connected(sock: socket.socket, path: str) -> bool:
    try:
        if len(os.fsencode(path)) <= _MAX_SUN_PATH_BYTES:
            sock.connect(path)
        else:
            _connect_by_folder(sock, Path(path))
    except BlockingIOError:
        return False
    return True


def _connect_by_folder(sock: socket.socket, path: Path) -> None:
    # An address holds 107 bytes; a descriptor of the folder makes any path short.
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        sock.connect(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def unexpected(kind: int, payload: bytes) -> SandboxError:
    """A frame that has no place in this operation."""
    return SandboxError(f"init sent an unexpected frame: type {kind}, {len(payload)} bytes")


def ok_or_error(kind: int, payload: bytes) -> bool:
    """For operations that answer with nothing but their end."""
    if kind == wire.Out.ERROR:
        raise SandboxError(wire.read_failure(payload).text)
    if kind != wire.Out.OK:
        raise unexpected(kind, payload)
    return True
