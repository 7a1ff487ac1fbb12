"""Which trees may pass between a sandbox and the host: by value, and only after these checks."""

import posixpath
from collections.abc import Iterable

from rollout.errors import TreeRefused
from rollout.sandbox import wire
from rollout.types import Tree, TreeEntry

MAX_NAME_BYTES = 255
MAX_DEPTH = 128
_PERMISSIONS = 0o777


def check_tree(tree: Tree) -> None:
    """Raise TreeRefused unless every name is plain and single, and every link stays inside."""
    kinds: dict[str, str] = {}
    for entry in tree.entries:
        check_path(entry.path)
        if entry.path in kinds:
            raise TreeRefused(f"{entry.path!r} stands twice in a tree")
        if entry.kind not in ("file", "dir", "link"):
            raise TreeRefused(f"{entry.path!r} is neither file, folder nor link")
        kinds[entry.path] = entry.kind
    for entry in tree.entries:
        _check_parents(entry.path, kinds)
        if entry.kind == "link":
            _check_target(entry, kinds)


def check_path(path: str) -> None:
    """Raise TreeRefused unless `path` is relative and plain: no empty part, no `.`, no `..`."""
    parts = path.split("/")
    if path.startswith("/"):
        raise TreeRefused(f"{path!r} is absolute")
    if "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise TreeRefused(f"{path!r} is no plain relative path")
    if len(parts) > MAX_DEPTH:
        raise TreeRefused(f"a path of {len(parts)} levels; {MAX_DEPTH} are allowed: {path[:80]!r}…")
    if _size(path) >= wire.MAX_PATH_BYTES or any(_size(part) > MAX_NAME_BYTES for part in parts):
        raise TreeRefused(f"a name too long: {path[:80]!r}…")


def _size(name: str) -> int:
    try:
        return len(name.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError as exc:
        raise TreeRefused(f"{name[:80]!r} cannot be written in UTF-8") from exc


def _check_parents(path: str, kinds: dict[str, str]) -> None:
    parent = posixpath.dirname(path)
    while parent:
        if kinds.get(parent, "dir") != "dir":
            raise TreeRefused(f"{path!r} lies below {parent!r}, which is a {kinds[parent]}")
        parent = posixpath.dirname(parent)


def _check_target(entry: TreeEntry, kinds: dict[str, str]) -> None:
    if not entry.target or "\0" in entry.target or entry.target.startswith("/"):
        raise TreeRefused(f"{entry.path!r} is a link to {entry.target[:200]!r}")
    if _size(entry.target) >= wire.MAX_PATH_BYTES:
        raise TreeRefused(f"{entry.path!r} is a link with a target too long")
    at = entry.path.split("/")[:-1]
    for part in entry.target.split("/"):
        if part in ("", "."):
            continue
        if part != "..":
            at.append(part)
        elif not at or kinds.get("/".join(at)) == "link":
            # Back out of a link is somewhere else than its name says.
            raise TreeRefused(f"{entry.path!r} is a link that leaves its tree: {entry.target!r}")
        else:
            at.pop()


class TreeReader:
    """Takes the entries and content that an init sends and makes a checked Tree of them."""

    def __init__(self, *, limit_bytes: int, limit_entries: int) -> None:
        self._limit_bytes = limit_bytes
        self._limit_entries = limit_entries
        self._heads: list[wire.EntryHead] = []
        self._data: list[list[bytes]] = []
        self._bytes = 0

    def entry(self, head: wire.EntryHead) -> None:
        if len(self._heads) >= self._limit_entries:
            raise TreeRefused(f"more than {self._limit_entries} names in a tree")
        if head.kind == "other":
            raise TreeRefused(f"{_text(head.path[:200])!r} is a device, a fifo or a socket")
        self._heads.append(head)
        self._data.append([])

    def data(self, piece: bytes) -> None:
        if not self._heads or self._heads[-1].kind != "file" or not piece:
            raise TreeRefused("content that belongs to no file")
        self._bytes += len(piece)
        if self._bytes > self._limit_bytes:
            raise TreeRefused(f"more than {self._limit_bytes} bytes in a tree")
        self._data[-1].append(piece)

    def tree(self) -> Tree:
        tree = Tree(
            tuple(
                TreeEntry(
                    path=_text(head.path),
                    kind=head.kind,
                    mode=head.mode & _PERMISSIONS,
                    data=b"".join(pieces),
                    target=_text(head.target),
                )
                for head, pieces in zip(self._heads, self._data, strict=True)
            )
        )
        check_tree(tree)
        return tree


def tree_frames(tree: Tree) -> Iterable[bytes]:
    """A checked tree as frames for an init, folders before what is in them."""
    for entry in sorted(tree.entries, key=lambda entry: entry.path.split("/")):
        path, target = (_bytes(text) for text in (entry.path, entry.target))
        yield wire.entry(wire.EntryHead(entry.kind, entry.mode, path, target))
        yield from wire.frames(wire.In.DATA, entry.data)
    yield wire.frame(wire.In.END)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
