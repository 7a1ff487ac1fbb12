"""A small world outside: names, and one real server on 127.0.0.1 behind all public addresses.

The proxy under test keeps its own rules. Only where it would connect is noted here, and led to the
server, since rules never let anybody reach a loopback.
"""

import asyncio
import socket
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from rollout.egress.log import EgressLog
from rollout.egress.proxy import Proxy
from rollout.egress.reach import USUAL, Limits, Streams
from rollout.egress.rules import Rules

Handler = Callable[[StreamReader, StreamWriter], Awaitable[None]]
PUBLIC = "93.184.216.34"
OTHER = "93.184.216.35"


class Outside:
    """Name servers, and what was asked of them and of the network."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.names: dict[str, list[Sequence[str]]] = {}
        """To the answers they give, one after the other, the last for ever."""
        self.asked: list[str] = []
        self.dialed: list[tuple[str, int]] = []
        self.dead: set[str] = set()
        """Addresses where nobody answers."""
        self.hangs: set[str] = set()
        """Names that are looked up for ever."""

    async def resolve(self, name: str) -> Sequence[str]:
        self.asked.append(name)
        if name in self.hangs:
            await asyncio.Event().wait()
        answers = self.names.get(name)
        if answers is None:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return answers.pop(0) if len(answers) > 1 else answers[0]

    async def dial(self, address: str, port: int) -> Streams:
        self.dialed.append((address, port))
        if address in self.dead:
            raise ConnectionRefusedError(111, "Connection refused")
        return await asyncio.open_connection("127.0.0.1", self._port)


class Line:
    """A proxy that is served on a port of this machine, and callers of it."""

    def __init__(self, outside: Outside, sock: socket.socket) -> None:
        self.outside = outside
        self.sock = sock
        self.port: int = sock.getsockname()[1]
        self.events: list[tuple[str, str]] = []
        self._writers: list[StreamWriter] = []

    async def open(self) -> Streams:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        return reader, writer

    async def ask(self, data: bytes) -> bytes:
        """All that comes back for it."""
        reader, writer = await self.open()
        writer.write(data)
        answer = await reader.read()
        writer.close()
        return answer

    async def get(self, uri: str, *headers: str, method: str = "GET", body: bytes = b"") -> bytes:
        host = uri.removeprefix("http://").partition("/")[0]
        lines = [f"{method} {uri} HTTP/1.1", f"Host: {host}", *headers, "", ""]
        return await self.ask("\r\n".join(lines).encode() + body)

    async def tunnel(self, target: str) -> tuple[bytes, Streams]:
        """What the proxy says to it, and the connection."""
        reader, writer = await self.open()
        writer.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        return await reader.readuntil(b"\r\n\r\n"), (reader, writer)

    async def hang_up(self) -> None:
        for writer in self._writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def server_of(handler: Handler) -> AsyncIterator[int]:
    """A server on 127.0.0.1 at the port given out; its connections are closed with the block."""
    open_: dict[StreamWriter, asyncio.Task[None]] = {}

    async def handle(reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_[writer] = task
        with suppress(OSError, asyncio.IncompleteReadError):
            await handler(reader, writer)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer, task in open_.items():
            writer.transport.abort()
            await asyncio.wait({task})
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def line(
    handler: Handler,
    *hosts: str,
    network: str = "allowlist",
    limits: Limits = USUAL,
) -> AsyncIterator[Line]:
    async with server_of(handler) as port, _line(Outside(port), hosts, network, limits) as made:
        yield made


@asynccontextmanager
async def _line(
    outside: Outside, hosts: Sequence[str], network: str, limits: Limits
) -> AsyncIterator[Line]:
    outside.names["a.org"] = [[PUBLIC]]
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    made = Line(outside, sock)
    proxy = Proxy(
        Rules(network, hosts or (["a.org"] if network == "allowlist" else [])),
        EgressLog(lambda kind, detail: made.events.append((kind, detail))),
        resolve=outside.resolve,
        dial=outside.dial,
        limits=limits,
    )
    try:
        async with proxy.serving(sock):
            yield made
    finally:
        await made.hang_up()


async def hello(reader: StreamReader, writer: StreamWriter) -> None:
    """Answers any request that has no body."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
    writer.close()


async def echo(reader: StreamReader, writer: StreamWriter) -> None:
    """Says what it hears, to the end."""
    while piece := await reader.read(65536):
        writer.write(piece)
        await writer.drain()
    writer.close()


class Listener:
    """Notes all that it is sent, and answers at the end of a request's head."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.connections = 0
        self.ended = asyncio.Event()

    async def __call__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.connections += 1
        while piece := await reader.read(65536):
            self.heard += piece
            if self.heard.endswith(b"!"):  # of the bodies in the tests
                writer.write(b"HTTP/1.1 200 OK\r\n\r\nthanks")
                writer.write_eof()
        self.ended.set()
        writer.close()
