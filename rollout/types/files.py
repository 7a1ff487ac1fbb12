"""Small folders by value."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import PurePosixPath

from rollout.types.digests import digest_of


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One name of a tree. `path` is relative, POSIX, without `.` or `..`."""

    path: str
    kind: str
    """`file`, `dir` or `link`."""
    mode: int = 0o644
    data: bytes = b""
    target: str = ""
    """Where a link points, as written."""


@dataclass(frozen=True)
class Tree:
    """A small folder by value: how files travel to workers and out of sandboxes."""

    entries: tuple[TreeEntry, ...] = ()

    @classmethod
    def of(cls, files: Mapping[str, bytes | str], mode: int = 0o644) -> "Tree":
        """A tree of plain files, for tests and generated tasks."""
        return cls(
            tuple(
                TreeEntry(path, "file", mode, data.encode() if isinstance(data, str) else data)
                for path, data in sorted(files.items())
            )
        )

    @property
    def size_bytes(self) -> int:
        return sum(len(entry.data) for entry in self.entries)

    @cached_property
    def digest(self) -> str:
        return digest_of(self.entries)

    def without(self, patterns: Iterable[str]) -> "Tree":
        """Leave out what a glob in `patterns` matches, by path or by last name."""
        globs = tuple(patterns)
        kept = (e for e in self.entries if not any(_matches(e.path, glob) for glob in globs))
        return Tree(tuple(kept))

    def files(self) -> dict[str, bytes]:
        """Path to content of the regular files."""
        return {entry.path: entry.data for entry in self.entries if entry.kind == "file"}


def _matches(path: str, glob: str) -> bool:
    """Whether `glob` names the path, its last part, or a folder above it."""
    parents = [path, *(str(parent) for parent in PurePosixPath(path).parents)][:-1]
    return any(fnmatchcase(p, glob) or fnmatchcase(p.rsplit("/", 1)[-1], glob) for p in parents)
