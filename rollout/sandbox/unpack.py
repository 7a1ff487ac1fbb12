"""A program of its own: unpack the tar archive on standard input into an empty folder.

    python -I -X utf8 unpack.py FOLDER LIMIT_BYTES LIMIT_ENTRIES [small | layer SHA256]

`layer`: of an image, whose names `.wh.…` take away what lies below; they become whiteouts and
opaque folders of an overlay, and the archive, once decompressed, must have that SHA-256. `small`:
no file of more than SMALL_BYTES.

An archive is anybody's. It is read in a process of its own, which can be ended and whose memory is
limited, and which makes FOLDER its root before it reads the first name. On top of that each name is
checked, and no link is followed. Stdlib only, so that it needs nothing but this file. What is wrong
is told on standard output in one line, with exit code 1.

Kept: owners, modes, times, links. Not kept: extended attributes, of which file capabilities would
stop a program from starting in a sandbox that has fewer, and what lies in /dev, /proc and /sys.
"""

import bz2
import ctypes
import hashlib
import io
import lzma
import os
import resource
import signal
import stat
import sys
import tarfile
import zlib
from gzip import GzipFile
from typing import IO, Any, Protocol, cast

try:
    from compression import zstd  # type: ignore[import-not-found, unused-ignore]
except ImportError:  # before Python 3.14
    zstd = None

IDS = 65_536
COVERED = ("dev", "proc", "sys")
CHUNK_BYTES = 1 << 20
HEADER_BYTES = 1 << 16
"""Long names and other headers of one entry; tarfile reads each into memory whole."""
MEMORY_BYTES = 1 << 30
MAX_DEPTH = 128
MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 4096
LATEST_S = 1 << 33
SMALL_BYTES = 4 << 20
WHITEOUT = ".wh."
WHITEOUT_OPAQUE = ".wh..wh..opq"
OPAQUE = "trusted.overlay.opaque"
PR_SET_PDEATHSIG = 1
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Refused(Exception):
    """The archive breaks a rule."""


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class Stream:
    """Decompressed bytes, forward only and limited; all that tarfile may do with them."""

    def __init__(self, file: Readable, limit_bytes: int, *, hashed: bool = False) -> None:
        self._file = file
        self._at = 0
        self._limit_bytes = limit_bytes
        self.last = b""
        self.sha256 = hashlib.sha256() if hashed else None
        """Of all that was read."""

    def tell(self) -> int:
        return self._at

    def seek(self, position: int, whence: int = 0) -> int:
        if whence or position < self._at:
            raise Refused("its headers point backwards")
        while self._at < position and self._read(min(CHUNK_BYTES, position - self._at)):
            pass
        return self._at

    def read(self, size: int = -1) -> bytes:
        """For tarfile, which reads headers alone."""
        if not 0 <= size <= HEADER_BYTES:
            raise Refused(f"a header of {size} bytes; {HEADER_BYTES} are allowed")
        self.last = self._read(size)
        return self.last

    def content(self, size: int) -> bytes:
        return self._read(min(size, CHUNK_BYTES))

    def drain(self) -> None:
        while self._read(CHUNK_BYTES):
            pass

    def _read(self, size: int) -> bytes:
        piece = self._file.read(size)
        self._at += len(piece)
        if self.sha256 is not None:
            self.sha256.update(piece)
        if self._at > self._limit_bytes:
            raise Refused(f"it holds more than {self._limit_bytes} bytes")
        return piece


def decompressed(file: IO[bytes]) -> Readable:
    """By the first bytes, whatever the file is called."""
    magic = file.read(6)
    file.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        return GzipFile(fileobj=file, mode="rb")
    if magic.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(file)
    if magic.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        if zstd is None:
            raise Refused("zst needs Python 3.14 or newer; pack it as .tar.gz")
        opened: Readable = zstd.ZstdFile(file)
        return opened
    return file


class Target:
    """The folder that is filled, by descriptors: nothing outside of it has a name here."""

    def __init__(self, limit_entries: int, *, layer: bool = False) -> None:
        self.layer = layer
        self._limit_entries = limit_entries
        self._entries = 0
        self._times: dict[tuple[str, ...], float] = {}
        self._parent: tuple[str, ...] = ()
        self._fd = os.open("/", FOLDER_FLAGS)

    def count(self) -> None:
        self._entries += 1
        if self._entries > self._limit_entries:
            raise Refused(f"it holds more than {self._limit_entries} names")

    def folder(self, parts: tuple[str, ...]) -> int:
        """A folder's descriptor, good until the next call; missing ones are made."""
        if parts != self._parent:
            os.close(self._fd)
            self._fd, self._parent = self._open(parts), parts
        return self._fd

    def _open(self, parts: tuple[str, ...]) -> int:
        at = os.open("/", FOLDER_FLAGS)
        for part in parts:
            try:
                below = self._enter(at, part)
            except OSError as exc:
                raise Refused(f"{part!r} above it is no folder, or a link") from exc
            finally:
                os.close(at)
            at = below
        return at

    def _enter(self, at: int, part: str) -> int:
        try:
            return os.open(part, FOLDER_FLAGS, dir_fd=at)
        except FileNotFoundError:
            self.count()
            os.mkdir(part, 0o755, dir_fd=at)
            return os.open(part, FOLDER_FLAGS, dir_fd=at)
        except NotADirectoryError:
            if not self.layer or not _is_whiteout(os.lstat(part, dir_fd=at)):
                raise
            # Taken away and made anew: nothing of the one below shows through.
            os.unlink(part, dir_fd=at)
            os.mkdir(part, 0o755, dir_fd=at)
            made = os.open(part, FOLDER_FLAGS, dir_fd=at)
            os.setxattr(made, OPAQUE, b"y")
            return made

    def take_away(self, parts: tuple[str, ...]) -> None:
        """What a name `.wh.…` of a layer says."""
        *above, name = parts
        folder, hidden = tuple(above), name.removeprefix(WHITEOUT)
        if name == WHITEOUT_OPAQUE:
            if not folder:
                raise Refused("it hides all that lies below the layer")
            os.setxattr(self.folder(folder), OPAQUE, b"y")
        elif hidden.startswith(WHITEOUT):
            return  # what aufs kept for itself
        elif hidden in ("", ".", ".."):
            raise Refused("it takes nothing away")
        else:
            at = self.folder(folder)
            try:
                found = os.lstat(hidden, dir_fd=at)
            except FileNotFoundError:
                os.mknod(hidden, stat.S_IFCHR, os.makedev(0, 0), dir_fd=at)
                return
            if stat.S_ISDIR(found.st_mode):
                os.setxattr(self.folder((*folder, hidden)), OPAQUE, b"y")

    def free_place(self, parts: tuple[str, ...]) -> tuple[int, str]:
        """The parent's descriptor and the name in it, where now nothing is."""
        at, name = self.folder(parts[:-1]), parts[-1]
        try:
            found = os.lstat(name, dir_fd=at)
        except FileNotFoundError:
            return at, name
        if stat.S_ISDIR(found.st_mode):
            raise Refused("it takes the place of a folder")
        os.unlink(name, dir_fd=at)
        return at, name

    def add_folder(self, parts: tuple[str, ...], member: tarfile.TarInfo) -> None:
        at = self.folder(parts)
        os.fchown(at, member.uid, member.gid)
        os.fchmod(at, member.mode & 0o7777)
        self._times[parts] = _time(member)

    def add_file(self, parts: tuple[str, ...], member: tarfile.TarInfo, stream: Stream) -> None:
        at, name = self.free_place(parts)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(name, flags, 0o600, dir_fd=at)
        try:
            stream.seek(member.offset_data)
            left = member.size
            while left:
                piece = stream.content(left)
                if not piece:
                    raise Refused("the archive ends in the middle of it")
                left -= len(piece)
                _write(file, piece)
            # In this order: a change of owner takes the setuid bit away.
            os.fchown(file, member.uid, member.gid)
            os.fchmod(file, member.mode & 0o7777)
            os.utime(file, (_time(member), _time(member)))
        finally:
            os.close(file)

    def add_link(self, parts: tuple[str, ...], member: tarfile.TarInfo) -> None:
        if not member.linkname or "\0" in member.linkname:
            raise Refused("it is a link to nothing")
        at, name = self.free_place(parts)
        os.symlink(member.linkname, name, dir_fd=at)
        os.chown(name, member.uid, member.gid, dir_fd=at, follow_symlinks=False)
        time = _time(member)
        os.utime(name, (time, time), dir_fd=at, follow_symlinks=False)

    def add_name(self, parts: tuple[str, ...], first: tuple[str, ...]) -> None:
        """A hard link to what the archive has brought before."""
        source = os.dup(self.folder(first[:-1]))
        try:
            found = os.lstat(first[-1], dir_fd=source)
            if not stat.S_ISREG(found.st_mode) and not stat.S_ISLNK(found.st_mode):
                raise Refused(f"it is a hard link to {'/'.join(first)!r}, which is no file")
            if parts == first:
                return
            at, name = self.free_place(parts)
            os.link(first[-1], name, src_dir_fd=source, dst_dir_fd=at, follow_symlinks=False)
        except FileNotFoundError:
            raise Refused(
                f"it is a hard link to {'/'.join(first)!r}, which the archive has not brought"
            ) from None
        finally:
            os.close(source)

    def finish(self) -> None:
        """Times of folders, which changed with each name made in them."""
        for parts, time in self._times.items():
            os.utime(self.folder(parts), (time, time))


def _is_whiteout(found: os.stat_result) -> bool:
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _time(member: tarfile.TarInfo) -> float:
    time = float(member.mtime)
    return min(max(time, 0.0), float(LATEST_S)) if time == time else 0.0


def _write(file: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(file, view) :]


def parts_of(name: str) -> tuple[str, ...]:
    """The parts of a checked name; none for the root itself."""
    if name.startswith("/"):
        raise Refused(f"{name[:200]!r} is absolute")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    sizes = [len(os.fsencode(part)) for part in parts]
    if ".." in parts or "\0" in name:
        raise Refused(f"{name[:200]!r} is no plain path below the root")
    if len(parts) > MAX_DEPTH or any(size > MAX_NAME_BYTES for size in sizes):
        raise Refused(f"{name[:80]!r}… is too deep or too long")
    if sum(sizes) + len(sizes) >= MAX_PATH_BYTES:
        raise Refused(f"{name[:80]!r}… is too long")
    return parts


def add(target: Target, member: tarfile.TarInfo, stream: Stream) -> None:
    target.count()
    parts = parts_of(member.name)
    if not parts or parts[0] in COVERED:
        return
    if target.layer and parts[-1].startswith(WHITEOUT):
        target.take_away(parts)
        return
    if not (0 <= member.uid < IDS and 0 <= member.gid < IDS):
        raise Refused(
            f"it belongs to {member.uid}:{member.gid}; a sandbox has the ids 0 to {IDS - 1}"
        )
    if member.isdir():
        target.add_folder(parts, member)
    elif member.issym():
        target.add_link(parts, member)
    elif member.islnk():
        target.add_name(parts, _first_name(member.linkname))
    elif member.isdev():
        raise Refused("it is a fifo" if member.isfifo() else "it is a device")
    elif member.sparse is not None or member.type == tarfile.GNUTYPE_SPARSE:
        raise Refused("it is a sparse file; pack it without --sparse")
    elif member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and member.size >= 0:
        target.add_file(parts, member, stream)
    else:
        raise Refused(f"it is of the unknown type {member.type!r}")


def _first_name(linkname: str) -> tuple[str, ...]:
    try:
        parts = parts_of(linkname)
    except Refused as exc:
        raise Refused(f"it is a hard link out of the archive: {exc}") from exc
    if not parts:
        raise Refused("it is a hard link to the root")
    return parts


def unpack(
    file: IO[bytes], limit_bytes: int, limit_entries: int, *, small: bool = False, layer: str = ""
) -> None:
    """Into `/`, which is the folder by now. Refused names the entry and what is wrong with it."""
    stream = Stream(decompressed(file), limit_bytes, hashed=bool(layer))
    target = Target(limit_entries, layer=bool(layer))
    archive: Any = tarfile.TarFile(
        fileobj=cast(Any, stream), encoding="utf-8", errors="surrogateescape"
    )
    while (member := archive.next()) is not None:
        archive.members.clear()  # it would keep them all
        if small and (member.size > SMALL_BYTES or member.islnk()):
            continue
        try:
            add(target, member, stream)
        except Refused as exc:
            raise Refused(f"entry {member.name[:200]!r}: {exc}") from exc
        except OSError as exc:
            raise Refused(f"entry {member.name[:200]!r}: {exc.strerror}") from exc
    if any(stream.last):
        raise Refused(f"it is damaged after {stream.tell()} bytes")
    target.finish()
    if stream.sha256 is not None:
        stream.drain()
        if stream.sha256.hexdigest() != layer:
            raise Refused(f"its content is not sha256:{layer}, as the image says")


def confine(folder: str) -> None:
    """End with the parent, use little memory, and see nothing but the folder."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        sys.exit(1)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    os.umask(0)
    os.chroot(folder)
    os.chdir("/")


def main() -> int:
    folder, limit_bytes, limit_entries, *mode = sys.argv[1:]
    try:
        confine(folder)
        unpack(
            io.FileIO(0),
            int(limit_bytes),
            int(limit_entries),
            small=mode == ["small"],
            layer=mode[1] if mode[:1] == ["layer"] else "",
        )
    except Refused as exc:
        told = str(exc)
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, RecursionError) as exc:
        told = f"it is no tar archive that can be read: {exc}"
    except (OSError, ValueError, LookupError, MemoryError, ImportError) as exc:
        told = f"it cannot be unpacked: {type(exc).__name__}: {exc}"
    else:
        return 0
    sys.stdout.write(told if told.isprintable() else ascii(told)[1:-1])
    return 1


if __name__ == "__main__":
    sys.exit(main())
