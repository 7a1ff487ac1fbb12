"""What a base holds, told cheaply: a fingerprint, how many names and how many bytes.

Of a folder the fingerprint covers names, modes, owners, sizes, times of change and the targets of
links; not the bytes of files, which would have to be read, and no extended attributes. Of an
archive it covers the bytes.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rollout.errors import ConfigError
from rollout.sandbox.bases import OCI, ROOTFS_LINKED, Base

IDS = 65_536
"""A sandbox has the ids below this one."""
COVERED = frozenset({"dev", "proc", "sys"})
"""Below the root, each sandbox mounts its own here: what a rootfs has there is left out."""

_CHUNK_BYTES = 1 << 20
_KINDS = {
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """A folder as it was found."""

    digest: str
    names: int
    size_bytes: int
    """Of its files, each counted once however many names it has."""
    sample: str
    """The path of one of its regular files, or nothing."""


def source_digest(base: Base) -> str:
    """The fingerprint of what a rootfs is made of, as it is now. Blocks: it may take seconds.

    ConfigError if it is missing, unreadable, or holds what no sandbox may have.
    """
    path = Path(base.path)
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
        if kind == stat.S_IFDIR and base.kind == OCI:
            return _index_digest(path)
        if kind == stat.S_IFDIR:
            return survey_rootfs(path).digest
        if kind == stat.S_IFREG and base.kind == ROOTFS_LINKED:
            raise ConfigError(f"base {base}: only a folder can be linked; use rootfs:{base.path}")
        if kind == stat.S_IFREG:
            with path.open("rb") as archive:
                return hashlib.file_digest(archive, "sha256").hexdigest()
    except OSError as exc:
        raise ConfigError(
            f"base {base}: {exc.filename or base.path}: {exc.strerror}; it must be there where a "
            "run is planned and on each machine that runs it"
        ) from exc
    raise ConfigError(f"base {base}: {base.path} is neither a folder nor a tar archive")


def _index_digest(folder: Path) -> str:
    """Of what names all else in an image's folder by its digest."""
    for name in ("index.json", "manifest.json"):
        if (folder / name).is_file():
            return hashlib.sha256((folder / name).read_bytes()).hexdigest()
    raise ConfigError(f"base oci:{folder}: it has no index.json, so it is no OCI layout")


def survey_rootfs(folder: Path) -> Survey:
    """ConfigError names the first entry that a rootfs may not have. OSError where unreadable."""
    return _survey(folder, refuse=True)


def survey_host(folder: Path) -> Survey:
    """Of a folder that is as the host has it, and is shown as it is."""
    return _survey(folder, refuse=False)


def _survey(folder: Path, *, refuse: bool) -> Survey:
    digest, names, size, sample = hashlib.sha256(), 0, 0, ""
    counted: set[int] = set()
    for entry, name in _walk(folder, COVERED if refuse else frozenset()):
        status = entry.stat(follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if refuse:
            _refuse(folder, name, status)
        names += 1
        told = [name, f"{status.st_mode:o} {status.st_uid} {status.st_gid} {status.st_mtime_ns}"]
        if kind == stat.S_IFLNK:
            told.append(str(Path(entry.path).readlink()))
        elif kind == stat.S_IFREG:
            told.append(str(status.st_size))
            sample = sample or entry.path
            if status.st_nlink == 1 or status.st_ino not in counted:
                size += status.st_size
            if status.st_nlink > 1:
                counted.add(status.st_ino)
        # No name and no target can hold the NULs between them.
        digest.update(os.fsencode("\0".join(told)) + b"\0\0")
    return Survey(digest=digest.hexdigest(), names=names, size_bytes=size, sample=sample)


def _walk(folder: Path, left_out: frozenset[str]) -> Iterator[tuple["os.DirEntry[str]", str]]:
    """Entries and their names below `folder`, in one order everywhere; one file system only."""
    device = folder.stat().st_dev
    todo = [str(folder)]
    top = len(todo[0].rstrip("/")) + 1
    while todo:
        with os.scandir(todo.pop()) as found:
            entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
        for entry in entries:
            name = entry.path[top:]
            if name in left_out:
                continue
            yield entry, name
            if entry.is_dir(follow_symlinks=False) and (
                entry.stat(follow_symlinks=False).st_dev == device
            ):
                todo.append(entry.path)


def _refuse(folder: Path, name: str, status: os.stat_result) -> None:
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    if kind:
        raise ConfigError(f"rootfs {folder}: {name!r} is {kind}; only /dev may hold such")
    if status.st_uid >= IDS or status.st_gid >= IDS:
        raise ConfigError(
            f"rootfs {folder}: {name!r} belongs to {status.st_uid}:{status.st_gid}; a sandbox has "
            f"the ids 0 to {IDS - 1}"
        )
