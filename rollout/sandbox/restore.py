"""A kept end state back into a layer: nothing is opened through a link, nothing written over.

Every name is opened part by part in folders that are held open, whatever the file says.
"""

import errno
import os
import stat
import tarfile
import zlib
from gzip import BadGzipFile, GzipFile
from pathlib import Path

from rollout.errors import SandboxError, TreeRefused
from rollout.sandbox.export import CAPABILITY, MAX_PATH_BYTES
from rollout.sandbox.state_file import Entry, Parts, Stream, check_name, read_entries

HEADERS_LIMIT_BYTES = 1 << 30
"""Of all that is no content, unpacked."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MISFITS = frozenset({errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR})
"""What a name gives that comes twice, before its folder, or through a link."""


def restore_layer(source: Path, target: Path, uid_base: int, *, limit_bytes: int) -> None:
    """Make the layer's `root` and `usr` in the empty folder `target`. Blocks.

    TreeRefused for whatever `export_layer` does not write and for more than `limit_bytes` of
    content; what was made up to then is the caller's to remove.
    """
    try:
        with source.open("rb") as file, GzipFile(fileobj=file) as packed:
            unpacker = _Unpacker(target, uid_base, limit_bytes)
            try:
                for entry in read_entries(Stream(packed, limit_bytes + HEADERS_LIMIT_BYTES)):
                    unpacker.take(entry)
            finally:
                unpacker.close()
    except (EOFError, zlib.error, BadGzipFile, tarfile.HeaderError, ValueError) as exc:
        raise TreeRefused(f"the kept state is damaged: {exc}") from exc
    except OSError as exc:
        if exc.errno in _MISFITS:
            raise TreeRefused(f"the kept state does not fit together: {exc}") from exc
        raise SandboxError(f"cannot restore the kept state: {exc.strerror or exc}") from exc
    if not (target / "root").is_dir():
        raise TreeRefused("the kept state has no root folder")


class _Unpacker:
    def __init__(self, target: Path, uid_base: int, limit_bytes: int) -> None:
        self._top = os.open(target, _FOLDER)
        self._uid_base = uid_base
        self._bytes_left = limit_bytes
        self._open: list[tuple[bytes, int]] = []
        """The folder that was written to last, from the top down."""
        self._times_s: dict[Parts, int] = {}
        """Of folders, to be set when nothing more is made in them."""

    def close(self) -> None:
        while self._open:
            self._leave_folder()
        os.close(self._top)

    def take(self, entry: Entry) -> None:
        folder, name = self._folder(entry.path[:-1]), entry.path[-1]
        if entry.kind == tarfile.DIRTYPE:
            self._make_folder(folder, name, entry)
        elif len(entry.path) == 1:
            raise TreeRefused(f"{name!r} is no folder")
        elif entry.kind == tarfile.REGTYPE:
            self._make_file(folder, name, entry)
        elif entry.kind == tarfile.LNKTYPE:
            self._make_hard_link(folder, name, check_name(entry.link))
        else:
            self._make_special(folder, name, entry)

    def _folder(self, parts: Parts) -> int:
        """The folder's descriptor, opened part by part and through no link."""
        same = 0
        while same < min(len(parts), len(self._open)) and self._open[same][0] == parts[same]:
            same += 1
        while len(self._open) > same:
            self._leave_folder()
        for part in parts[same:]:
            above = self._open[-1][1] if self._open else self._top
            self._open.append((part, os.open(part, _FOLDER, dir_fd=above)))
        return self._open[-1][1] if self._open else self._top

    def _leave_folder(self) -> None:
        path = tuple(part for part, _ in self._open)
        handle = self._open.pop()[1]
        os.utime(handle, (self._times_s[path], self._times_s[path]))
        os.close(handle)

    def _make_folder(self, folder: int, name: bytes, entry: Entry) -> None:
        os.mkdir(name, 0o700, dir_fd=folder)
        handle = os.open(name, _FOLDER, dir_fd=folder)
        try:
            self._dress(handle, entry)
        finally:
            os.close(handle)
        self._times_s[entry.path] = entry.mtime_s

    def _make_file(self, folder: int, name: bytes, entry: Entry) -> None:
        self._bytes_left -= entry.size
        if self._bytes_left < 0:
            raise TreeRefused("the kept state is larger than it may be")
        handle = os.open(name, _NEW_FILE, 0o600, dir_fd=folder)
        try:
            for piece in entry.content():
                left = memoryview(piece)
                while left:
                    left = left[os.write(handle, left) :]
            self._dress(handle, entry)
        finally:
            os.close(handle)

    def _dress(self, handle: int, entry: Entry) -> None:
        os.fchown(handle, self._uid_base + entry.uid, self._uid_base + entry.gid)
        os.fchmod(handle, entry.mode)
        for name, value in entry.marks.items():
            if name == CAPABILITY:
                value = value[:-4] + self._uid_base.to_bytes(4, "little")
            os.setxattr(handle, name, value)
        os.utime(handle, (entry.mtime_s, entry.mtime_s))

    def _make_hard_link(self, folder: int, name: bytes, source: Parts) -> None:
        """A further name of a file of this archive, and of nothing else."""
        held = os.dup(self._top)
        try:
            for part in source[:-1]:
                below = os.open(part, _FOLDER, dir_fd=held)
                os.close(held)
                held = below
            about = os.stat(source[-1], dir_fd=held, follow_symlinks=False)
            if not stat.S_ISREG(about.st_mode):
                raise TreeRefused(f"{name!r} is a further name of what is no file")
            os.link(source[-1], name, src_dir_fd=held, dst_dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(held)

    def _make_special(self, folder: int, name: bytes, entry: Entry) -> None:
        if entry.kind == tarfile.SYMTYPE:
            if not 0 < len(entry.link) <= MAX_PATH_BYTES or b"\0" in entry.link:
                raise TreeRefused(f"{name!r} is a link to {entry.link[:200]!r}")
            os.symlink(entry.link, name, dir_fd=folder)
        elif entry.kind == tarfile.FIFOTYPE:
            os.mkfifo(name, 0o600, dir_fd=folder)
            os.chmod(name, entry.mode & 0o777, dir_fd=folder)
        else:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=folder)
            return
        uid, gid = self._uid_base + entry.uid, self._uid_base + entry.gid
        os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)
        os.utime(name, (entry.mtime_s, entry.mtime_s), dir_fd=folder, follow_symlinks=False)
