"""The forward proxy of one sandbox: HTTP and CONNECT, on a socket that listens inside it.

    read the head ▶ ask the rules ▶ look the name up, once ▶ ask the rules of each address
    ▶ connect to the very address that was asked for ▶ pass bytes on ▶ write it down

What calls is hostile: heads, connections, lookups and waiting are bounded, and whoever is slow
holds up one connection of its own sandbox and nothing else.
"""

import asyncio
import errno
import logging
import socket
from asyncio import StreamReader
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus

from rollout.egress.head import CONNECT, BadRequest, Request, read_head
from rollout.egress.log import EgressLog, Passed
from rollout.egress.reach import USUAL, Dial, Failure, Limits, Reach, Refusal, Resolve, Streams
from rollout.egress.relay import PIECE_BYTES, exchange, tunnel
from rollout.egress.rules import Rules

SHORT_OF = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
PAUSE_S = 1.0
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
LINGER_S = 1.0
"""For an answer to be taken by a caller that still talks; closing at once would drop it."""

log = logging.getLogger(__name__)


class Proxy:
    """Lets one sandbox out as `rules` say."""

    def __init__(
        self,
        rules: Rules,
        told: EgressLog,
        *,
        resolve: Resolve,
        dial: Dial,
        limits: Limits = USUAL,
    ) -> None:
        self._log = told
        self._limits = limits
        self._reach = Reach(rules, resolve=resolve, dial=dial, limits=limits)
        self._slots = asyncio.Semaphore(limits.connections)
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serving(self, sock: socket.socket) -> AsyncIterator[None]:
        """Answer on `sock`, which listens, while the block runs; then every connection is closed
        and the log complete. The socket is closed as well."""
        accepting = asyncio.create_task(self._accept(sock))
        try:
            yield
        finally:
            accepting.cancel()
            await asyncio.wait({accepting})
            sock.close()
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._reach.close()
            self._log.close()

    # ---------------------------------------------------------------- connections

    async def _accept(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._slots.acquire()
            try:
                peer, _ = await loop.sock_accept(sock)
            except OSError as exc:
                self._slots.release()
                if exc.errno in (errno.EINVAL, errno.EBADF):
                    return  # the sandbox is gone
                if exc.errno in SHORT_OF:
                    log.warning("egress: %s", exc)
                    await asyncio.sleep(PAUSE_S)
                continue
            task = asyncio.create_task(self._serve(peer))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._slots.release()

    async def _serve(self, peer: socket.socket) -> None:
        inner = await asyncio.open_connection(sock=peer, limit=self._limits.head_bytes)
        try:
            async with asyncio.timeout(self._limits.total_s):
                await self._answer(inner)
        except (TimeoutError, OSError):
            pass  # what there was to tell is told
        except Exception:
            log.exception("egress: a connection failed")
        finally:
            inner[1].transport.abort()

    async def _answer(self, inner: Streams) -> None:
        request: Request | None = None
        try:
            request = await self._head(inner[0])
            address, outer = await self._reach.connected(request)
        except BadRequest as exc:
            self._log.refused("a request that cannot be passed on", str(exc))
            await _say(inner, exc.status, str(exc))
        except Refusal as exc:
            assert request is not None
            self._log.refused(request, exc.why)
            await _say(inner, 403, f"{request.host}:{request.port} is not reached: {exc}")
        except Failure as exc:
            assert request is not None
            self._log.failed(request, str(exc))
            await _say(inner, exc.status, f"{request.host}:{request.port}: {exc}")
        except EOFError:
            pass  # it hung up, and asked nothing
        else:
            await self._pass(request, address, inner, outer)

    async def _head(self, reader: StreamReader) -> Request:
        """EOFError where nothing was asked."""
        limits = self._limits
        try:
            async with asyncio.timeout(limits.head_s):
                data = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            raise BadRequest(f"its head has more than {limits.head_bytes} bytes", 431) from None
        except asyncio.IncompleteReadError as exc:
            if exc.partial:
                raise BadRequest("its head ends too soon") from None
            raise
        except TimeoutError:
            raise BadRequest(f"its head took longer than {limits.head_s:g} s", 408) from None
        return read_head(data)

    # ---------------------------------------------------------------- passing on

    async def _pass(self, request: Request, address: str, inner: Streams, outer: Streams) -> None:
        passed, end = Passed(), _End("cut off")
        try:
            end = await self._passed(request, inner, outer, passed)
        finally:
            outer[1].transport.abort()
            self._log.allowed(request, address, passed, end.why)
        if end.status and not passed.received and request.method != CONNECT:
            await _say(inner, end.status, end.why)
        else:
            await _finish(inner)

    async def _passed(
        self, request: Request, inner: Streams, outer: Streams, passed: Passed
    ) -> "_End":
        loop, idle_s = asyncio.get_running_loop(), self._limits.idle_s
        for _, writer in (inner, outer):
            writer.transport.set_write_buffer_limits(0)  # what is slow to read is not read ahead
        try:
            async with asyncio.timeout(idle_s) as clock:

                def sent(count: int) -> None:
                    passed.sent += count
                    alive()

                def received(count: int) -> None:
                    passed.received += count
                    alive()

                def alive() -> None:
                    if not clock.expired():
                        clock.reschedule(loop.time() + idle_s)

                if request.method == CONNECT:
                    inner[1].write(ESTABLISHED)
                    await tunnel(inner, outer, sent, received)
                    return _End()
                await exchange(request, inner, outer, sent, received)
                return _End() if passed.received else _End("it hung up without an answer", 502)
        except BadRequest as exc:
            return _End(str(exc), exc.status)
        except OSError as exc:
            if clock.expired():
                return _End(f"nothing moved for {idle_s:g} s", 504)
            return _End(exc.strerror or str(exc), 502)


@dataclass(frozen=True, slots=True)
class _End:
    """Of what was passed on; empty where all of it was."""

    why: str = ""
    status: int = 0
    """The answer where the server gave none. In a tunnel there is none to give."""


async def _say(streams: Streams, status: int, text: str) -> None:
    """An answer of our own, and the end."""
    body = f"egress proxy: {text}\n".encode(errors="replace")
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: text/plain\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    streams[1].write(head.encode() + body)
    await _finish(streams)


async def _finish(streams: Streams) -> None:
    """Tell a caller that there is no more; what it still says goes nowhere."""
    reader, writer = streams
    with suppress(OSError):  # it may have closed first
        async with asyncio.timeout(LINGER_S):
            writer.write_eof()
            while await reader.read(PIECE_BYTES):
                pass
