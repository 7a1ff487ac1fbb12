"""What a descriptor can stand for: a pipe, a file, a device, the ends of an exec."""

import asyncio
import errno
import os
from collections import deque

from rollout.sandbox.memory.files import File, FileSystem, Folder, Node, Special, error

CHUNK_BYTES = 65_536


class Stream:
    """Counted by the descriptors that refer to it; the last one to go closes it."""

    def __init__(self) -> None:
        self.refs = 0

    def hold(self) -> "Stream":
        self.refs += 1
        return self

    def release(self) -> None:
        self.refs -= 1
        if self.refs == 0:
            self.close()

    async def read(self, size: int = CHUNK_BYTES) -> bytes:
        """Up to `size` bytes; empty at the end."""
        raise error(errno.EBADF)

    async def write(self, data: bytes) -> None:
        raise error(errno.EBADF)

    def close(self) -> None:
        pass


class Source(Stream):
    """An exec's stdin, known beforehand."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data = data
        self._at = 0

    async def read(self, size: int = CHUNK_BYTES) -> bytes:
        chunk = self._data[self._at : self._at + size]
        self._at += len(chunk)
        return chunk


class Sink(Stream):
    """An exec's output: keeps the first `limit_bytes`, drops and flags the rest, never blocks."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__()
        self._limit_bytes = limit_bytes
        self._kept = bytearray()
        self.truncated = False

    async def write(self, data: bytes) -> None:
        room = self._limit_bytes - len(self._kept)
        self._kept += data[:room]
        self.truncated = self.truncated or len(data) > room
        await asyncio.sleep(0)

    def take(self) -> bytes:
        """What was kept; from now on everything is dropped."""
        kept, self._kept, self._limit_bytes = bytes(self._kept), bytearray(), 0
        return kept


class OpenFile(Stream):
    """A regular file at an offset."""

    def __init__(self, files: FileSystem, file: File, *, append: bool = False) -> None:
        super().__init__()
        self._files = files
        self._file = file
        self._append = append
        self._at = 0
        files.pin(file)

    async def read(self, size: int = CHUNK_BYTES) -> bytes:
        chunk = bytes(self._file.data[self._at : self._at + size])
        self._at += len(chunk)
        await asyncio.sleep(0)
        return chunk

    async def write(self, data: bytes) -> None:
        if self._append:
            self._at = len(self._file.data)
        self._files.write(self._file, self._at, data)
        self._at += len(data)
        await asyncio.sleep(0)

    def close(self) -> None:
        self._files.unpin(self._file)


class Device(Stream):
    """/dev/null, zero, full, urandom."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind

    async def read(self, size: int = CHUNK_BYTES) -> bytes:
        await asyncio.sleep(0)
        if self._kind == "null":
            return b""
        return os.urandom(size) if self._kind == "urandom" else bytes(size)

    async def write(self, data: bytes) -> None:
        await asyncio.sleep(0)
        if self._kind == "full":
            raise error(errno.ENOSPC)


class Pipe:
    """Bounded bytes between two streams."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._changed = asyncio.Event()
        self.reader_gone = False
        self.writer_gone = False

    def ends(self) -> tuple[Stream, Stream]:
        return PipeReader(self), PipeWriter(self)

    def wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def read(self, size: int) -> bytes:
        while not self._chunks:
            if self.writer_gone:
                return b""
            await self._changed.wait()
        chunk = self._chunks.popleft()
        if len(chunk) > size:
            self._chunks.appendleft(chunk[size:])
            chunk = chunk[:size]
        self._size -= len(chunk)
        self.wake()
        return chunk

    async def write(self, data: bytes) -> None:
        for at in range(0, len(data), CHUNK_BYTES):
            chunk = data[at : at + CHUNK_BYTES]
            while self._size >= CHUNK_BYTES and not self.reader_gone:
                await self._changed.wait()
            if self.reader_gone:
                raise error(errno.EPIPE)
            self._chunks.append(chunk)
            self._size += len(chunk)
            self.wake()
        await asyncio.sleep(0)


class PipeReader(Stream):
    def __init__(self, pipe: Pipe) -> None:
        super().__init__()
        self._pipe = pipe

    async def read(self, size: int = CHUNK_BYTES) -> bytes:
        return await self._pipe.read(size)

    def close(self) -> None:
        self._pipe.reader_gone = True
        self._pipe.wake()


class PipeWriter(Stream):
    def __init__(self, pipe: Pipe) -> None:
        super().__init__()
        self._pipe = pipe

    async def write(self, data: bytes) -> None:
        await self._pipe.write(data)

    def close(self) -> None:
        self._pipe.writer_gone = True
        self._pipe.wake()


def open_stream(files: FileSystem, node: Node, *, append: bool = False) -> Stream:
    """A stream on what `FileSystem.open_file` gave."""
    if isinstance(node, File):
        return OpenFile(files, node, append=append)
    if isinstance(node, Special) and node.kind != "fifo":
        return Device(node.kind)
    raise error(errno.EISDIR if isinstance(node, Folder) else errno.ENXIO)
