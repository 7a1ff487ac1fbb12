"""One operation of an init: bytes out with back-pressure, frames in, one end, one deadline.

Built on `add_reader` and not on asyncio's streams, for the time of an exec is the product: what is
here runs once or twice for each.
"""

import array
import asyncio
import socket
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

from rollout.errors import RolloutError, SandboxError, SandboxLost
from rollout.sandbox import wire
from rollout.sandbox.connections import Connection

GRACE_S = 2.0
"""How much longer than a process's own timeout the host waits for its init to say so."""
READ_BYTES = 64 << 10
"""A larger buffer would be mapped and unmapped for each answer."""
_UNSENT_BYTES = 256 << 10
_BACKLOG_PAUSE_S = 0.002


class Link:
    """One operation, named by `doing`, on a connection. Leaving it hangs up, which cancels.

    Every frame goes to `on_frame`, which says whether it was the last, or raises. Whatever goes
    wrong meanwhile is one typed error, raised by `finished`.
    """

    __slots__ = (
        "_connection",
        "_deadline_s",
        "_decoder",
        "_doing",
        "_done",
        "_drained",
        "_is_spent",
        "_loop",
        "_on_frame",
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
        self._connection: Connection | None = None
        self._source: Iterator[bytes] = iter(())
        self._unsent = bytearray()
        self._writing = self._is_spent = False
        self._deadline_s = deadline_s
        self._timer: asyncio.TimerHandle | None = None
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

    async def start(
        self,
        path: str,
        request: bytes,
        source: Iterable[bytes] = (),
        *,
        connection: Connection | None = None,
    ) -> None:
        """Send `request`, on `connection` or else on a new one to `path`.

        `source` follows it piece by piece as the init takes it.
        """
        if connection is None:
            connection = await self._connected(path)
        self._connection = connection
        self._source = iter(source)
        self._unsent += request
        self._push()
        # From here on it runs: what else there is to do is done beside it.
        if self._timer is None:
            self._start_clock()
        self.resume()

    async def _connected(self, path: str) -> Connection:
        try:
            connection = Connection(self._loop)
        except OSError as exc:
            raise SandboxError(f"{self._doing}: no socket for it: {exc.strerror}") from exc
        try:
            while not connection.connect(path):
                # A full backlog. Not `sock_connect`: for unix sockets it takes that for success.
                if self._timer is None:
                    self._start_clock()
                await asyncio.wait({self._done}, timeout=_BACKLOG_PAUSE_S)
                if self._done.done():
                    await self._done
        except OSError as exc:
            connection.close()
            raise SandboxLost(f"{self._doing}: no init at {path}: {exc.strerror}") from exc
        except BaseException:
            connection.close()
            raise
        return connection

    def _start_clock(self) -> None:
        self._timer = self._loop.call_later(self._deadline_s, self._expire)

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
            self.pause()
            self._stop()

    def close(self) -> None:
        """Hang up; idempotent."""
        self._stop()
        if not self._done.done():
            self._done.cancel()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def hand_over(self) -> Connection | None:
        """The connection, fit for another operation; None where it is not, and is hung up."""
        connection = self._connection
        if self._is_spent:
            self._connection = None
            return connection
        self.close()
        return None

    def _stop(self) -> None:
        self._watch_writing(False)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake_writer()

    def _expire(self) -> None:
        within = f"within {self._deadline_s:g} s"
        self.fail(SandboxLost(f"{self._doing}: no answer from its init {within}"))

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
        assert self._connection is not None
        try:
            while self._unsent or self._more():
                sent = self._connection.sock.send(self._unsent)
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
        if wanted is self._writing or self._connection is None:
            return
        self._writing = wanted
        if wanted:
            self._loop.add_writer(self._connection.sock.fileno(), self._push)
        else:
            self._loop.remove_writer(self._connection.sock.fileno())

    # -- in

    def pause(self) -> None:
        """Take no more frames: the init then stops reading this process's pipes."""
        if self._connection is not None:
            self._connection.unwatch()

    def resume(self) -> None:
        if self._connection is not None and not self._done.done():
            self._connection.watch(self._readable)

    def _readable(self) -> None:
        if self._done.done():
            self._is_spent = False
            self.pause()
            return
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
            found = self._decoder.feed(data)
            for at, (kind, payload) in enumerate(found, 1):
                if self._on_frame(kind, payload):
                    rest = len(found) - at + self._decoder.held_bytes + len(self._unsent)
                    self._is_spent = not rest
                    self._done.set_result(None)
                    self._stop()
                    return
        except RolloutError as exc:
            self.fail(type(exc)(f"{self._doing}: {exc}"))
        except FileNotFoundError as exc:
            self.fail(exc)

    def _receive(self) -> bytes:
        assert self._connection is not None
        if self.descriptors is None:
            return self._connection.sock.recv(READ_BYTES)
        # Room for exactly one: the kernel closes what does not fit.
        room = socket.CMSG_LEN(array.array("i").itemsize)
        data, ancillary, _, _ = self._connection.sock.recvmsg(
            READ_BYTES, room, socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                whole = len(content) - len(content) % 4
                self.descriptors.extend(array.array("i", content[:whole]))
        return data


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
