"""Folders as tar archives of which there is only one for each content.

Names are sorted, times and owners are zero, modes are kept: the same folder is the same object,
whoever packs it on whatever machine.
"""

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from rollout.errors import ConfigError, TreeRefused
from rollout.sandbox.archived import PERMISSIONS
from rollout.sandbox.trees import check_tree
from rollout.types import Tree, TreeEntry

LIMIT_BYTES = 1 << 30
"""Of one object that is mounted: it is in memory while it is put into a sandbox."""
LIMIT_ENTRIES = 200_000


def pack_folder(
    folder: Path, target: BinaryIO, on_bytes: Callable[[int], None] = lambda count: None
) -> None:
    """Write the folder as a tar. ConfigError names what cannot be part of an object, and why.

    on_bytes: told the size of each file when it is written.
    """
    found = list(_walk(folder, "", _Count(folder)))
    _check(folder, found)
    with _archive(target) as archive:
        archive.addfile(_header(TreeEntry(".", "dir", stat.S_IMODE(folder.stat().st_mode)), 0))
        for entry, path in found:
            if entry.kind != "file":
                archive.addfile(_header(entry, 0))
                continue
            try:
                with path.open("rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    archive.addfile(_header(entry, size), file)
            except OSError as exc:
                raise ConfigError(f"{path}: cannot be read whole: {exc}") from exc
            on_bytes(size)


def pack_tree(tree: Tree, target: BinaryIO) -> None:
    """The same of a folder by value."""
    check_tree(tree)
    with _archive(target) as archive:
        archive.addfile(_header(TreeEntry(".", "dir", 0o755), 0))
        for entry in sorted(tree.entries, key=lambda entry: os.fsencode(entry.path).split(b"/")):
            archive.addfile(_header(entry, len(entry.data)), io.BytesIO(entry.data))


class _Count:
    """What may still be packed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.entries = self.bytes = 0

    def take(self, size: int) -> None:
        self.entries += 1
        self.bytes += size
        if self.entries > LIMIT_ENTRIES:
            raise ConfigError(f"{self._folder}: more than {LIMIT_ENTRIES} names; put a part of it")
        if self.bytes > LIMIT_BYTES:
            raise ConfigError(
                f"{self._folder}: more than {LIMIT_BYTES >> 20} MiB; put a part of it, or make it "
                "part of a rootfs"
            )


def _walk(folder: Path, prefix: str, count: _Count) -> Iterator[tuple[TreeEntry, Path]]:
    try:
        children = sorted(folder.iterdir(), key=lambda child: os.fsencode(child.name))
    except OSError as exc:
        raise ConfigError(f"{folder}: cannot be read: {exc.strerror}") from exc
    for child in children:
        name, info = prefix + child.name, child.lstat()
        mode = info.st_mode & PERMISSIONS
        if stat.S_ISLNK(info.st_mode):
            count.take(0)
            yield TreeEntry(name, "link", PERMISSIONS, target=str(child.readlink())), child
        elif stat.S_ISDIR(info.st_mode):
            count.take(0)
            yield TreeEntry(name, "dir", mode), child
            yield from _walk(child, f"{name}/", count)
        elif stat.S_ISREG(info.st_mode):
            count.take(info.st_size)
            yield TreeEntry(name, "file", mode), child
        else:
            raise ConfigError(f"{child}: is no file, folder or link; remove it first")


def _check(folder: Path, found: list[tuple[TreeEntry, Path]]) -> None:
    try:
        check_tree(Tree(tuple(entry for entry, _ in found)))
    except TreeRefused as exc:
        raise ConfigError(f"{folder}: {exc}; such a folder cannot be mounted") from exc


def _archive(target: BinaryIO) -> tarfile.TarFile:
    return tarfile.open(
        fileobj=target,
        mode="w",
        format=tarfile.GNU_FORMAT,
        encoding="utf-8",
        errors="surrogateescape",
    )


def _header(entry: TreeEntry, size: int) -> tarfile.TarInfo:
    header = tarfile.TarInfo(entry.path)
    header.mode, header.size = entry.mode & PERMISSIONS, size
    if entry.kind == "dir":
        header.type = tarfile.DIRTYPE
    elif entry.kind == "link":
        header.type, header.linkname = tarfile.SYMTYPE, entry.target
    return header
