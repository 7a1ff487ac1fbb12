"""Many layers made one: chains grow by a layer with each fork of a fork, and overlays have an end.

The kernel says what a chain shows: a sandbox is made on it in which nothing but our init runs, and
what it shows is compared with the base, at the names that the layers touch and nowhere else. A
folder that hides or has moved what lies below it, by whatever means, is copied whole and stands for
itself, so no rule of the overlay's needs to be known here but two: a device 0:0 is a name taken
away, and a folder marked opaque has nothing below it.
"""

import errno
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

OPAQUE, REDIRECT = "trusted.overlay.opaque", "trusted.overlay.redirect"
CHUNK_BYTES = 1 << 24


def merge(
    view: Path, layers: Sequence[Path], base: Path, target: Path, *, skip: frozenset[str]
) -> None:
    """Make `target` the one layer that on `base` shows what `view` does. Blocks.

    `view` is the root of an overlay of `layers` on `base`; nobody may write to any of them
    meanwhile. `skip`: names below the root where another file system lies over the overlay. OSError
    where something cannot be copied; RecursionError where folders are nested too deep.
    """
    target.mkdir(mode=0o755)
    _Merge(view, base, target, skip).folder("", list(layers))


@contextmanager
def root_of(pid: int) -> Iterator[Path]:
    """The root of a process as a folder of the host. Make sure afterwards that it still lives:
    else its number was another's, or what was mounted below its root is gone."""
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Path(f"/proc/self/fd/{root}")
    finally:
        os.close(root)


class _Merge:
    def __init__(self, view: Path, base: Path, target: Path, skip: frozenset[str]) -> None:
        self._view = view
        self._base = base
        self._target = target
        self._skip = skip
        self._copied: dict[tuple[int, int], Path] = {}
        """Files of several names, by inode."""

    def folder(self, name: str, layers: list[Path]) -> None:
        """All below a folder that `layers` and the base have, each plainly."""
        touched = sorted({entry.name for layer in layers for entry in os.scandir(layer)})
        for child in touched:
            path = f"{name}/{child}" if name else child
            if path not in self._skip:
                self._child(path, [layer / child for layer in layers])

    def _child(self, name: str, layers: list[Path]) -> None:
        seen, below = _look(self._view / name), _look(self._base / name)
        target = self._target / name
        if seen is None:
            if below is not None:
                os.mknod(target, stat.S_IFCHR, os.makedev(0, 0))
            return
        there = [layer for layer in layers if _look(layer) is not None]
        if _is_folder(seen) and _is_folder(below) and all(_is_plain(layer) for layer in there):
            target.mkdir()
            self.folder(name, there)
            self._settle(name, seen)
        else:
            self._copy(name, seen)
            if _is_folder(seen):
                os.setxattr(target, OPAQUE, b"y")

    def _copy(self, name: str, seen: os.stat_result) -> None:
        source, target = self._view / name, self._target / name
        first = self._copied.get((seen.st_dev, seen.st_ino))
        if first is not None:
            os.link(first, target, follow_symlinks=False)
            return
        if stat.S_ISDIR(seen.st_mode):
            target.mkdir()
            for child in sorted(source.iterdir()):
                self._copy(f"{name}/{child.name}", child.lstat())
        elif stat.S_ISLNK(seen.st_mode):
            target.symlink_to(source.readlink())
        elif stat.S_ISREG(seen.st_mode):
            _copy_content(source, target, seen.st_size)
        else:
            os.mknod(target, seen.st_mode, seen.st_rdev)
        if seen.st_nlink > 1 and not stat.S_ISDIR(seen.st_mode):
            self._copied[seen.st_dev, seen.st_ino] = target
        self._settle(name, seen)

    def _settle(self, name: str, seen: os.stat_result) -> None:
        """Owner, mode, times and attributes, in the order in which none undoes another."""
        target = self._target / name
        os.chown(target, seen.st_uid, seen.st_gid, follow_symlinks=False)
        shutil.copystat(self._view / name, target, follow_symlinks=False)


def _look(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_folder(status: os.stat_result | None) -> bool:
    return status is not None and stat.S_ISDIR(status.st_mode)


def _is_plain(path: Path) -> bool:
    """Whether it only adds to the folder of its name below it."""
    if not _is_folder(_look(path)):
        return False
    marks = os.listxattr(path, follow_symlinks=False)
    return OPAQUE not in marks and REDIRECT not in marks


def _copy_content(source: Path, target: Path, size_bytes: int) -> None:
    """With its holes, so that a file that only says that it is large takes no more than it has."""
    source_fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        target_fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(target_fd, size_bytes)
            _copy_data(source_fd, target_fd, size_bytes)
        finally:
            os.close(target_fd)
    finally:
        os.close(source_fd)


def _copy_data(source: int, target: int, size_bytes: int) -> None:
    end = 0
    while end < size_bytes:
        try:
            begin = os.lseek(source, end, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # a hole up to the end
                return
            raise
        end = os.lseek(source, begin, os.SEEK_HOLE)
        _copy_range(source, target, begin, end)


def _copy_range(source: int, target: int, begin: int, end: int) -> None:
    os.lseek(target, begin, os.SEEK_SET)
    while begin < end:
        sent = os.sendfile(target, source, begin, min(CHUNK_BYTES, end - begin))
        if sent == 0:
            return
        begin += sent
