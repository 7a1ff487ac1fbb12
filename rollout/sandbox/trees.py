"""Which trees may pass between a sandbox and the host: by value, and only after these checks."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

from rollout.errors import TreeRefused
from rollout.sandbox import wire
from rollout.types import Tree, TreeEntry

MAX_NAME_BYTES = 255
MAX_DEPTH = 128
MAX_NAMES_BYTES = 32 << 20
"""Of all names and targets of one tree that comes out of a sandbox."""
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
    _check_parents(kinds)
    for entry in tree.entries:
        if entry.kind == "link":
            _check_target(entry, kinds)


def leaving_links(tree: Tree) -> list[str]:
    """Paths of the links that would make `check_tree` refuse the tree."""
    kinds = {entry.path: entry.kind for entry in tree.entries}
    found = []
    for entry in tree.entries:
        if entry.kind == "link":
            try:
                _check_target(entry, kinds)
            except TreeRefused:
                found.append(entry.path)
    return found


def check_path(path: str) -> None:
    """Raise TreeRefused unless `path` is relative and plain: no empty part, no `.`, no `..`."""
    # A hundred thousand hostile names at a time: each rule is one search and not one a part.
    if path.startswith("/"):
        raise TreeRefused(f"{path[:200]!r} is absolute")
    walled = f"/{path}/"
    if "\0" in path or "//" in walled or "/./" in walled or "/../" in walled:
        raise TreeRefused(f"{path[:200]!r} is no plain relative path")
    levels = path.count("/") + 1
    if levels > MAX_DEPTH:
        raise TreeRefused(f"a path of {levels} levels; {MAX_DEPTH} are allowed: {path[:80]!r}…")
    encoded = _encoded(path)
    if len(encoded) >= wire.MAX_PATH_BYTES or (
        len(encoded) > MAX_NAME_BYTES and max(map(len, encoded.split(b"/"))) > MAX_NAME_BYTES
    ):
        raise TreeRefused(f"a name too long: {path[:80]!r}…")


def _encoded(name: str) -> bytes:
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as exc:
        raise TreeRefused(f"{name[:80]!r} cannot be written in UTF-8") from exc


def _check_parents(kinds: dict[str, str]) -> None:
    for above, path in pairwise(sorted(kinds, key=_by_folder)):
        if kinds[above] != "dir" and path.startswith(f"{above}/"):
            raise TreeRefused(f"{path!r} lies below {above!r}, which is a {kinds[above]}")


def _check_target(entry: TreeEntry, kinds: dict[str, str]) -> None:
    if not entry.target or "\0" in entry.target or entry.target.startswith("/"):
        raise TreeRefused(f"{entry.path!r} is a link to {entry.target[:200]!r}")
    if len(_encoded(entry.target)) >= wire.MAX_PATH_BYTES:
        raise TreeRefused(f"{entry.path!r} is a link with a target too long")
    parts = [part for part in entry.target.split("/") if part not in ("", ".")]
    if len(parts) > MAX_DEPTH:
        raise TreeRefused(f"{entry.path!r} is a link with a target of {len(parts)} levels")
    if ".." in parts:
        _check_way_back(entry, parts, kinds)


def _check_way_back(entry: TreeEntry, parts: list[str], kinds: dict[str, str]) -> None:
    # Every name passed on the way, from the top; the link's own parents are folders by now.
    at = [""]
    for parent in entry.path.split("/")[:-1]:
        at.append(f"{at[-1]}/{parent}")
    by_link = False
    for part in parts:
        if part != "..":
            at.append(f"{at[-1]}/{part}")
            by_link = by_link or kinds.get(at[-1][1:]) == "link"
        elif len(at) == 1 or by_link:
            # Back out of a link, or of anything behind one, is somewhere else than its name says.
            raise TreeRefused(
                f"{entry.path!r} is a link that leaves its tree: {entry.target[:200]!r}"
            )
        else:
            at.pop()


class TreeReader:
    """Takes the entries and content that an init sends and makes a checked Tree of them."""

    def __init__(self, *, limit_bytes: int, limit_entries: int) -> None:
        self._limit_bytes = limit_bytes
        self._limit_entries = limit_entries
        self._heads: list[wire.EntryHead] = []
        # Joined as they come: frames of a byte each would cost fifty times what they hold.
        self._data: list[bytearray] = []
        self._bytes = self._names_bytes = 0

    @property
    def entries(self) -> int:
        return len(self._heads)

    def entry(self, head: wire.EntryHead) -> None:
        if len(self._heads) >= self._limit_entries:
            raise TreeRefused(f"more than {self._limit_entries} names in a tree")
        if head.kind == "other":
            raise TreeRefused(f"{_text(head.path[:200])!r} is a device, a fifo or a socket")
        self._names_bytes += len(head.path) + len(head.target)
        if self._names_bytes > MAX_NAMES_BYTES:
            raise TreeRefused(f"names of more than {MAX_NAMES_BYTES >> 20} MiB in a tree")
        self._heads.append(head)
        self._data.append(bytearray())

    def data(self, piece: bytes) -> None:
        if not self._heads or self._heads[-1].kind != "file" or not piece:
            raise TreeRefused("content that belongs to no file")
        self._bytes += len(piece)
        if self._bytes > self._limit_bytes:
            raise TreeRefused(f"more than {self._limit_bytes} bytes in a tree")
        self._data[-1] += piece

    def tree(self) -> Tree:
        tree = Tree(
            tuple(
                TreeEntry(
                    path=_text(head.path),
                    kind=head.kind,
                    mode=head.mode & _PERMISSIONS,
                    data=bytes(content),
                    target=_text(head.target),
                )
                for head, content in zip(self._heads, self._data, strict=True)
            )
        )
        check_tree(tree)
        return tree


def tree_frames(tree: Tree) -> Iterable[bytes]:
    """A checked tree as frames for an init, folders before what is in them."""
    return _frames(sorted(tree.entries, key=lambda entry: _by_folder(entry.path)))


def _by_folder(path: str) -> str:
    """A key that sorts what lies below a name right behind it: NUL is below all else."""
    return path.replace("/", "\0")


def _frames(entries: list[TreeEntry]) -> Iterator[bytes]:
    for entry in entries:
        path, target = (_bytes(text) for text in (entry.path, entry.target))
        yield wire.entry(wire.EntryHead(entry.kind, entry.mode, path, target))
        yield from wire.frames(wire.In.DATA, entry.data)
    yield wire.frame(wire.In.END)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
