"""Bytes between the sandbox and a server, both ways, counted, until nothing moves any more."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from rollout.egress.head import BadRequest, Request

PIECE_BYTES = 32 << 10
"""Read at once; a reader that is not taken from holds up to twice that."""
SIZE_LINE_BYTES = 1024
TRAILER_LINES = 100

Moved = Callable[[int], None]
"""Told of each piece that has been passed on."""


async def tunnel(
    inner: tuple[StreamReader, StreamWriter],
    outer: tuple[StreamReader, StreamWriter],
    sent: Moved,
    received: Moved,
) -> None:
    """Until both sides have said all; the end of one is passed on to the other."""
    async with _running(
        _pass_to_end(inner[0], outer[1], sent), _pass_to_end(outer[0], inner[1], received)
    ) as both:
        await asyncio.gather(*both)


async def exchange(
    request: Request,
    inner: tuple[StreamReader, StreamWriter],
    outer: tuple[StreamReader, StreamWriter],
    sent: Moved,
    received: Moved,
) -> None:
    """One request with its body, and the answer until the server closes, be that before the body
    is sent. What the sandbox sends behind its request goes nowhere."""
    async with _running(
        _send(request, inner[0], outer[1], sent), _pass_all(outer[0], inner[1], received)
    ) as (sending, answering):
        await asyncio.wait({sending, answering}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            await sending  # its error is the connection's, for half a request has no answer
        await answering


@asynccontextmanager
async def _running(*work: Coroutine[Any, Any, None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """All of it at once, and nothing of it after the block."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _send(request: Request, reader: StreamReader, writer: StreamWriter, sent: Moved) -> None:
    await _pass(request.onward(), writer, sent)
    if request.length is None:
        await _pass_chunks(reader, writer, sent)
    else:
        await _pass_exactly(request.length, reader, writer, sent)


async def _pass_all(reader: StreamReader, writer: StreamWriter, moved: Moved) -> None:
    while piece := await reader.read(PIECE_BYTES):
        await _pass(piece, writer, moved)


async def _pass_to_end(reader: StreamReader, writer: StreamWriter, moved: Moved) -> None:
    await _pass_all(reader, writer, moved)
    writer.write_eof()


async def _pass_exactly(
    count: int, reader: StreamReader, writer: StreamWriter, moved: Moved
) -> None:
    while count:
        piece = await reader.read(min(count, PIECE_BYTES))
        if not piece:
            raise BadRequest("the body ends too soon")
        await _pass(piece, writer, moved)
        count -= len(piece)


async def _pass_chunks(reader: StreamReader, writer: StreamWriter, moved: Moved) -> None:
    """Each written anew: extensions and trailers end here."""
    while size := _size(await _line(reader)):
        await _pass(b"%x\r\n" % size, writer, moved)
        await _pass_exactly(size, reader, writer, moved)
        if await _line(reader) != b"":
            raise BadRequest("a chunk is longer than it says")
        await _pass(b"\r\n", writer, moved)
    for _ in range(TRAILER_LINES):
        if not await _line(reader):
            return await _pass(b"0\r\n\r\n", writer, moved)
    raise BadRequest(f"more than {TRAILER_LINES} trailers")


async def _line(reader: StreamReader) -> bytes:
    try:
        line = await reader.readuntil(b"\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        raise BadRequest("the body ends in the middle of a chunk") from None
    if len(line) > SIZE_LINE_BYTES:
        raise BadRequest(f"a line between chunks has more than {SIZE_LINE_BYTES} bytes")
    return line[:-2]


def _size(line: bytes) -> int:
    digits = line.partition(b";")[0].rstrip(b" \t")
    if not 1 <= len(digits) <= 15 or digits.strip(b"0123456789abcdefABCDEF"):
        raise BadRequest("a chunk's size is no number")
    return int(digits, 16)


async def _pass(piece: bytes, writer: StreamWriter, moved: Moved) -> None:
    writer.write(piece)
    await writer.drain()
    moved(len(piece))
