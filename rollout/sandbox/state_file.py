"""A kept end state as it is read: entry by entry, each checked, trusting nothing.

The file may come from anybody's bucket, so only what `export.py` writes is taken: its kinds, its
names, its records, all of them bounded. A file that unpacks to more than it may is cut off.
"""

import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from gzip import GzipFile

from rollout.errors import TreeRefused
from rollout.sandbox.export import (
    BLOCK_BYTES,
    CAPABILITY,
    CAPABILITY_BYTES,
    LIMIT_ENTRIES,
    MAX_DEPTH,
    MAX_PATH_BYTES,
    OPAQUE,
    PARTS,
    REDIRECT,
    XATTR,
)
from rollout.sandbox.owner import RANGE

RECORDS_LIMIT_BYTES = 256 << 10
"""Of the pax records of one entry."""
CHUNK_BYTES = 1 << 20
_NAME_BYTES = 255
_KINDS = frozenset(
    {
        tarfile.REGTYPE,
        tarfile.LNKTYPE,
        tarfile.SYMTYPE,
        tarfile.CHRTYPE,
        tarfile.DIRTYPE,
        tarfile.FIFOTYPE,
    }
)

Parts = tuple[bytes, ...]
"""Of a name: never empty, never `.` or `..`."""


class Stream:
    """Reads of a known length out of a file that may be a bomb."""

    def __init__(self, file: GzipFile, limit_bytes: int) -> None:
        self._file = file
        self._left = limit_bytes

    def read(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise TreeRefused("the kept state is larger than it may be")
        pieces = []
        while size:
            piece = self._file.read(min(size, CHUNK_BYTES))
            if not piece:
                raise TreeRefused("the kept state ends too early")
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def finish(self) -> None:
        """Nothing but zeros may follow; only here the file's own checksum is looked at."""
        if any(self._file.read(CHUNK_BYTES)) or self._file.read(1):
            raise TreeRefused("the kept state goes on after its end")


@dataclass(frozen=True, slots=True)
class Entry:
    kind: bytes
    path: Parts
    link: bytes
    mode: int
    uid: int
    gid: int
    mtime_s: int
    size: int
    marks: Mapping[str, bytes]
    stream: Stream

    def content(self) -> Iterator[bytes]:
        left = self.size
        while left:
            piece = self.stream.read(min(left, CHUNK_BYTES))
            left -= len(piece)
            yield piece
        self.stream.read(-self.size % BLOCK_BYTES)


def read_entries(stream: Stream) -> Iterator[Entry]:
    """Each entry up to the end mark; its content must be read before the next."""
    records: dict[bytes, bytes] = {}
    for _ in range(2 * LIMIT_ENTRIES):
        block = stream.read(BLOCK_BYTES)
        if not any(block):
            stream.finish()
            return
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        if info.type == tarfile.XHDTYPE and not records:
            records = _read_records(stream, info.size)
            continue
        yield _entry(info, records, stream)
        records = {}
    raise TreeRefused(f"the kept state has more than {LIMIT_ENTRIES} names")


def _read_records(stream: Stream, size: int) -> dict[bytes, bytes]:
    if not 0 < size <= RECORDS_LIMIT_BYTES:
        raise TreeRefused(f"{size} bytes of records for one name")
    body = stream.read(size)
    stream.read(-size % BLOCK_BYTES)
    records = {}
    while body:
        digits = body[:8].partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = body[len(digits) + 1 : length].partition(b"=")
        if not key or not equals or value[-1:] != b"\n":
            raise TreeRefused("a record that is none")
        records[key] = value[:-1]
        body = body[length:]
    return records


def _entry(info: tarfile.TarInfo, records: dict[bytes, bytes], stream: Stream) -> Entry:
    path = records.pop(b"path", os.fsencode(info.name))
    link = records.pop(b"linkpath", os.fsencode(info.linkname))
    if info.type not in _KINDS:
        raise TreeRefused(f"{path!r}: no such kind of file is ever kept ({info.type!r})")
    if info.type == tarfile.CHRTYPE and (info.devmajor, info.devminor) != (0, 0):
        raise TreeRefused(f"{path!r} is a device")
    if not (0 <= info.uid < RANGE and 0 <= info.gid < RANGE and 0 <= info.mode <= 0o7777):
        raise TreeRefused(f"{path!r}: owner or mode out of range")
    if info.size < 0 or (info.size and info.type != tarfile.REGTYPE) or info.mtime < 0:
        raise TreeRefused(f"{path!r}: size or time out of range")
    return Entry(
        kind=info.type,
        path=check_name(path),
        link=link,
        mode=info.mode,
        uid=info.uid,
        gid=info.gid,
        mtime_s=int(info.mtime),
        size=info.size,
        marks=dict(_mark(info.type, key, value) for key, value in records.items()),
        stream=stream,
    )


def check_name(path: bytes) -> Parts:
    """The parts of a plain name below `root` or `usr`; /dev is never kept."""
    parts = tuple(path.split(b"/"))
    plain = all(0 < len(part) <= _NAME_BYTES and part not in (b".", b"..") for part in parts)
    if not plain or b"\0" in path or len(path) > MAX_PATH_BYTES or len(parts) > MAX_DEPTH + 1:
        raise TreeRefused(f"{path[:200]!r} is no plain name")
    if os.fsdecode(parts[0]) not in PARTS or parts[:2] == (b"root", b"dev"):
        raise TreeRefused(f"{path[:200]!r} is outside of what is kept")
    return parts


def _mark(kind: bytes, key: bytes, value: bytes) -> tuple[str, bytes]:
    name = os.fsdecode(key.removeprefix(XATTR)) if key.startswith(XATTR) else ""
    folder, file = kind == tarfile.DIRTYPE, kind == tarfile.REGTYPE
    fine = (
        (name == OPAQUE and folder and value == b"y")
        or (name == REDIRECT and folder and _is_redirect(value))
        or (name == CAPABILITY and file and len(value) == CAPABILITY_BYTES and value[3] == 3)
        or (name.startswith("user.") and (folder or file))
    )
    if not fine:
        raise TreeRefused(f"the record {key[:200]!r} is none of those that are kept")
    return name, value


def _is_redirect(value: bytes) -> bool:
    """One name, or an absolute one of the overlay: what the kernel writes."""
    absolute = value.startswith(b"/")
    parts = (value[1:] if absolute else value).split(b"/")
    plain = all(0 < len(part) <= _NAME_BYTES and part not in (b".", b"..") for part in parts)
    return plain and b"\0" not in value and (absolute or len(parts) == 1)
