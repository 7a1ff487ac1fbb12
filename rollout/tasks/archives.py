"""Archives that ADD unpacks: tar, plain or compressed. Hostile ones are refused, not followed."""

import posixpath
import tarfile
from collections.abc import Iterator
from pathlib import Path

from rollout.errors import ConfigError
from rollout.tasks.trees import Budget
from rollout.types import Tree, TreeEntry


def read_archive(file: Path, budget: Budget) -> Tree | None:
    """What the archive holds, owned by root when put; `None` when the file is no archive.

    ConfigError for absolute names, `..`, links that leave the archive, devices, and past the
    budget, which counts unpacked bytes.
    """
    if not tarfile.is_tarfile(file):
        return None
    try:
        with tarfile.open(file, "r:*") as archive:
            entries = {entry.path: entry for entry in _entries(archive, file.name, budget)}
    except (tarfile.TarError, EOFError, OSError) as exc:
        raise ConfigError(f"ADD cannot unpack {file.name!r}: {exc}") from exc
    return Tree(tuple(entries[path] for path in sorted(entries)))


def _entries(archive: tarfile.TarFile, name: str, budget: Budget) -> Iterator[TreeEntry]:
    for member in archive:
        path = _inside(name, member.name, member.name)
        if path == ".":
            continue
        budget.take(f"{name}: {path}", member.size if member.isfile() else 0)
        if member.isdir():
            yield TreeEntry(path, "dir", member.mode & 0o777 or 0o755)
        elif member.issym():
            end = posixpath.join(posixpath.dirname(path), member.linkname)
            _inside(name, member.name, end)
            yield TreeEntry(path, "link", 0o777, target=member.linkname)
        elif member.isfile() or member.islnk():
            yield TreeEntry(path, "file", member.mode & 0o777, _content(archive, member, name))
        else:
            raise ConfigError(f"{name!r} holds {member.name!r}, no file, folder or link")


def _inside(archive: str, member: str, path: str) -> str:
    plain = posixpath.normpath(path)
    if path.startswith("/") or plain == ".." or plain.startswith("../"):
        raise ConfigError(f"{archive!r} holds {member!r}, which leads out of the archive")
    return plain


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> bytes:
    try:
        data = archive.extractfile(member)
    except KeyError:
        data = None
    if data is None:
        raise ConfigError(f"{name!r} holds {member.name!r}, a link to nothing in the archive")
    return data.read()
