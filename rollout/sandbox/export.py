"""What a sandbox wrote, as a tar file: the layer above its image, to be kept after the sandbox.

    root/…  usr/…    the upper folders of its two overlays, parents before what is in them
    0:0 devices      whiteouts, as the overlay wrote them
    pax records      long names; `trusted.overlay.opaque` and `.redirect`, `user.*`, capabilities

Owners are told as ids inside the sandbox, so the layer may be restored in any range of uids.
Left out: /dev, sockets, times below a second, access control lists. The names are whatever the
sandbox made of them: nothing is opened but by its own name in a folder that is held open.
"""

import asyncio
import os
import stat
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from gzip import GzipFile
from pathlib import Path

from rollout.aio import Deadline, shielded
from rollout.errors import SandboxError, TreeRefused
from rollout.sandbox.owner import RANGE

PARTS = ("root", "usr")
LIMIT_ENTRIES = 500_000
MAX_DEPTH = 128
MAX_PATH_BYTES = 4_095
XATTR = b"SCHILY.xattr."
OPAQUE, REDIRECT = "trusted.overlay.opaque", "trusted.overlay.redirect"
CAPABILITY = "security.capability"
CAPABILITY_BYTES = 24
"""Of revision 3, which ends with the first uid of the user namespace it is good for."""
BLOCK_BYTES = tarfile.BLOCKSIZE

_LEVEL = 1
_SHORT_NAME_BYTES = 98
_CHUNK_BYTES = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MTIME_MAX_S = 8**11 - 1


async def export_layer(
    folders: Mapping[str, Path],
    uid_base: int,
    target: Path,
    *,
    limit_bytes: int,
    timeout_s: float,
) -> None:
    """Write the layer whose `root` and `usr` are in `folders` to the new file `target`.

    Nobody may write to the layer meanwhile. TreeRefused for more than `limit_bytes` of content or
    LIMIT_ENTRIES names, for devices, and past `timeout_s`; then, and when it is cancelled, there
    is no file.
    """
    if "root" not in folders:
        raise SandboxError("cannot keep the end state: its layer is gone")
    deadline, canceled = Deadline.after(timeout_s), threading.Event()

    def over() -> bool:
        return canceled.is_set() or deadline.passed

    work = asyncio.ensure_future(
        asyncio.to_thread(_export, folders, uid_base, target, limit_bytes, over)
    )
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        canceled.set()
        await shielded(_undone(work, target))
        raise


async def _undone(work: "asyncio.Future[None]", target: Path) -> None:
    await asyncio.wait({work})
    if work.exception() is None:
        await asyncio.to_thread(target.unlink)


def _export(
    folders: Mapping[str, Path],
    uid_base: int,
    target: Path,
    limit_bytes: int,
    over: Callable[[], bool],
) -> None:
    try:
        with target.open("xb") as file, GzipFile("", "wb", _LEVEL, file, mtime=0) as packed:
            writer = _Writer(packed, uid_base, limit_bytes, over)
            for part in PARTS:
                if part in folders:
                    writer.write_part(part, folders[part])
            packed.write(bytes(2 * BLOCK_BYTES))
    except BaseException as exc:
        target.unlink(missing_ok=True)
        if isinstance(exc, OSError):
            raise SandboxError(f"cannot keep the end state: {exc.strerror or exc}") from exc
        raise


@dataclass(frozen=True, slots=True)
class _Place:
    """A name in a folder that is held open."""

    folder: int
    name: bytes
    path: bytes
    """As the archive has it."""


class _Writer:
    def __init__(
        self, out: GzipFile, uid_base: int, limit_bytes: int, over: Callable[[], bool]
    ) -> None:
        self._out = out
        self._uid_base = uid_base
        self._limit_bytes = limit_bytes
        self._over = over
        self._bytes = 0
        self._entries = 0
        self._linked: dict[tuple[int, int], bytes] = {}
        """Inode to the name it was first met under, of files that have several."""

    def write_part(self, part: str, folder: Path) -> None:
        handle = os.open(folder, _FOLDER)
        try:
            self._header(tarfile.DIRTYPE, part.encode(), os.fstat(handle), self._marks(handle))
            skipped = frozenset({b"dev"}) if part == "root" else frozenset()
            self._below(handle, part.encode(), 1, skipped)
        finally:
            os.close(handle)

    def _below(
        self, folder: int, path: bytes, depth: int, skipped: frozenset[bytes] = frozenset()
    ) -> None:
        if depth > MAX_DEPTH:
            raise TreeRefused(f"folders more than {MAX_DEPTH} levels deep")
        for name in self._names(folder):
            if name in skipped:
                continue
            place = _Place(folder, name, path + b"/" + name)
            about = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISDIR(about.st_mode):
                self._folder(place, depth)
            elif stat.S_ISREG(about.st_mode):
                self._file(place, about)
            else:
                self._special(place, about)

    def _names(self, folder: int) -> list[bytes]:
        names = []
        with os.scandir(folder) as found:
            for entry in found:
                names.append(os.fsencode(entry.name))
                if self._entries + len(names) > LIMIT_ENTRIES:
                    raise TreeRefused(f"more than {LIMIT_ENTRIES} names")
        return sorted(names)

    def _folder(self, place: _Place, depth: int) -> None:
        handle = os.open(place.name, _FOLDER, dir_fd=place.folder)
        try:
            self._header(tarfile.DIRTYPE, place.path, os.fstat(handle), self._marks(handle))
            self._below(handle, place.path, depth + 1)
        finally:
            os.close(handle)

    def _file(self, place: _Place, seen: os.stat_result) -> None:
        inode = (seen.st_dev, seen.st_ino)
        if inode in self._linked:
            self._header(tarfile.LNKTYPE, place.path, seen, link=self._linked[inode])
            return
        if seen.st_nlink > 1:
            self._linked[inode] = place.path
        self._bytes += seen.st_size
        if self._bytes > self._limit_bytes:
            raise TreeRefused(f"more than {self._limit_bytes >> 20} MB (keep_limit_mb)")
        handle = os.open(place.name, _FILE, dir_fd=place.folder)
        try:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode) or about.st_size != seen.st_size:
                raise TreeRefused(f"{place.path!r} changed while it was read")
            self._header(tarfile.REGTYPE, place.path, about, self._marks(handle))
            self._content(handle, about.st_size)
        finally:
            os.close(handle)

    def _content(self, handle: int, size: int) -> None:
        left = size
        while left:
            self._check_time()
            piece = os.read(handle, min(left, _CHUNK_BYTES))
            if not piece:
                raise TreeRefused("a file shrank while it was read")
            self._out.write(piece)
            left -= len(piece)
        self._out.write(bytes(-size % BLOCK_BYTES))

    def _special(self, place: _Place, about: os.stat_result) -> None:
        if stat.S_ISLNK(about.st_mode):
            target = os.readlink(place.name, dir_fd=place.folder)
            self._header(tarfile.SYMTYPE, place.path, about, link=target)
        elif stat.S_ISFIFO(about.st_mode):
            self._header(tarfile.FIFOTYPE, place.path, about)
        elif stat.S_ISCHR(about.st_mode) and about.st_rdev == 0:
            self._header(tarfile.CHRTYPE, place.path, about)
        elif not stat.S_ISSOCK(about.st_mode):
            raise TreeRefused(f"{place.path!r} is a device")

    def _marks(self, handle: int) -> dict[bytes, bytes]:
        """The extended attributes that make a difference, as pax records."""
        found = {}
        for name in os.listxattr(handle):
            if name in (OPAQUE, REDIRECT) or name.startswith("user."):
                found[XATTR + os.fsencode(name)] = os.getxattr(handle, name)
            elif name == CAPABILITY:
                value = os.getxattr(handle, name)
                if len(value) == CAPABILITY_BYTES and value[-4:] == _uid(self._uid_base):
                    found[XATTR + CAPABILITY.encode()] = value[:-4] + _uid(0)
            elif name == "trusted.overlay.metacopy":
                raise TreeRefused("a file without its content (metacopy)")
        return found

    def _header(
        self,
        kind: bytes,
        path: bytes,
        about: os.stat_result,
        records: Mapping[bytes, bytes] | None = None,
        *,
        link: bytes = b"",
    ) -> None:
        self._check_time()
        self._entries += 1
        if self._entries > LIMIT_ENTRIES or len(path) > MAX_PATH_BYTES:
            raise TreeRefused(f"more than {LIMIT_ENTRIES} names, or one too long")
        info = tarfile.TarInfo()
        info.type = kind
        if kind != tarfile.CHRTYPE:  # Whiteouts are the kernel's own, and share one inode.
            info.mode = stat.S_IMODE(about.st_mode)
            info.uid, info.gid = self._inside(about.st_uid), self._inside(about.st_gid)
        info.mtime = min(max(0, int(about.st_mtime)), _MTIME_MAX_S)
        info.size = about.st_size if kind == tarfile.REGTYPE else 0
        more = dict(records or {})
        info.name = _short(path, b"path", more)
        info.linkname = _short(link, b"linkpath", more)
        for piece in _records(more):
            self._out.write(piece)
        self._out.write(_block(info))

    def _inside(self, host_id: int) -> int:
        if not 0 <= host_id - self._uid_base < RANGE:
            raise TreeRefused(f"a file of the host's user {host_id}")
        return host_id - self._uid_base

    def _check_time(self) -> None:
        if self._over():
            raise TreeRefused("too much to be kept in time")


def _uid(uid: int) -> bytes:
    return uid.to_bytes(4, "little")


def _short(name: bytes, record: bytes, records: dict[bytes, bytes]) -> str:
    """What the header holds of a name; the whole of a long one goes into a record."""
    if len(name) > _SHORT_NAME_BYTES:
        records[record] = name
        name = name[-_SHORT_NAME_BYTES:].lstrip(b"/")
    return os.fsdecode(name)


def _records(records: Mapping[bytes, bytes]) -> Iterator[bytes]:
    """A pax header for the entry that follows, if it needs one."""
    if not records:
        return
    body = b"".join(_record(key, value) for key, value in records.items())
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(body)
    yield _block(info) + body + bytes(-len(body) % BLOCK_BYTES)


def _record(key: bytes, value: bytes) -> bytes:
    """Its length, which counts its own digits too, key and value."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


def _block(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")
