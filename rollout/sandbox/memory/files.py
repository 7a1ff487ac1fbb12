"""A POSIX-ish file system in memory: folders, files, links, devices, modes, owners, a byte limit.

Errors are plain OSErrors with the errno a kernel would give, so programs can print them.
"""

import errno
import os
import time
from dataclasses import dataclass, field

READ, WRITE, SEARCH = 4, 2, 1
MAX_LINKS_FOLLOWED = 40
UMASK = 0o022


@dataclass(frozen=True, slots=True)
class Who:
    """On whose behalf something is done."""

    uid: int = 0
    gid: int = 0


ROOT = Who()


@dataclass(slots=True, kw_only=True)
class Node:
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: float = field(default_factory=time.time)


@dataclass(slots=True, kw_only=True)
class File(Node):
    data: bytes | bytearray = b""
    """Bytes are shared between copies of the tree; the first write makes them a bytearray."""
    pins: int = 0
    """Names and open descriptors; its bytes count against the limit until none is left."""
    counted: bool = True
    """False for a file of the image until its first write, as in an overlay."""


@dataclass(slots=True, kw_only=True)
class Folder(Node):
    children: dict[str, Node] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Link(Node):
    target: str


@dataclass(slots=True, kw_only=True)
class Special(Node):
    """`fifo`, or the device `null`, `zero`, `full`, `urandom`."""

    kind: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path leads: the folder that holds the last name, and the node if there is one."""

    parent: Folder | None
    name: str
    node: Node | None
    path: str
    """Absolute, links resolved."""


def error(number: int, path: str = "") -> OSError:
    return OSError(number, os.strerror(number), path)


class FileSystem:
    """One sandbox's tree. `limit_bytes` counts what was written since the tree was copied."""

    def __init__(self, root: Folder | None = None, limit_bytes: int | None = None) -> None:
        self.root = root or Folder(mode=0o755)
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.limit_hit = False

    # ------------------------------------------------------------ finding

    def locate(self, path: str, *, cwd: str = "/", who: Who = ROOT, follow: bool = True) -> Place:
        """Walk `path`; every folder on the way must exist and be searchable."""
        if not path:
            raise error(errno.ENOENT, path)
        parts = _parts(path if path.startswith("/") else f"{cwd}/{path}")
        follow = follow or path.endswith("/")
        chain, names, links = [self.root], list[str](), 0
        while parts:
            part = parts.pop()
            if part == "..":
                if names:
                    chain.pop()
                    names.pop()
                continue
            if part == ".":
                continue
            here = chain[-1]
            self.allow(here, who, SEARCH, path)
            node = here.children.get(part)
            if isinstance(node, Link) and (parts or follow):
                links += 1
                if links > MAX_LINKS_FOLLOWED:
                    raise error(errno.ELOOP, path)
                if node.target.startswith("/"):
                    chain, names = [self.root], []
                parts.extend(_parts(node.target))
                continue
            if not parts:
                return Place(here, part, node, "/" + "/".join([*names, part]))
            if node is None:
                raise error(errno.ENOENT, path)
            if not isinstance(node, Folder):
                raise error(errno.ENOTDIR, path)
            chain.append(node)
            names.append(part)
        parent = chain[-2] if names else None
        return Place(parent, names[-1] if names else "", chain[-1], "/" + "/".join(names))

    def node(self, path: str, *, cwd: str = "/", who: Who = ROOT, follow: bool = True) -> Node:
        found = self.locate(path, cwd=cwd, who=who, follow=follow).node
        if found is None:
            raise error(errno.ENOENT, path)
        return found

    def folder(self, path: str, *, cwd: str = "/", who: Who = ROOT) -> Folder:
        found = self.node(path, cwd=cwd, who=who)
        if not isinstance(found, Folder):
            raise error(errno.ENOTDIR, path)
        return found

    def exists(self, path: str, *, cwd: str = "/", who: Who = ROOT, follow: bool = True) -> bool:
        try:
            return self.locate(path, cwd=cwd, who=who, follow=follow).node is not None
        except OSError:
            return False

    def allow(self, node: Node, who: Who, wanted: int, path: str = "") -> None:
        """PermissionError unless the mode bits give `who` all of `wanted`; root needs none."""
        if who.uid != 0 and not permitted(node, who, wanted):
            raise error(errno.EACCES, path)

    # ------------------------------------------------------------ making

    def make_folder(
        self,
        path: str,
        *,
        cwd: str = "/",
        who: Who = ROOT,
        mode: int = 0o755,
        parents: bool = False,
    ) -> Folder:
        if parents:
            return self._make_folders(path, cwd, who, mode)
        place = self.locate(path, cwd=cwd, who=who)
        if place.node is not None:
            raise error(errno.EEXIST, path)
        made = Folder(mode=mode, uid=who.uid, gid=who.gid)
        self.enter(place, made, who)
        return made

    def _make_folders(self, path: str, cwd: str, who: Who, mode: int) -> Folder:
        absolute = path if path.startswith("/") else f"{cwd}/{path}"
        so_far = ""
        for part in reversed(_parts(absolute)):
            so_far += f"/{part}"
            place = self.locate(so_far, who=who)
            if place.node is None:
                self.enter(place, Folder(mode=mode, uid=who.uid, gid=who.gid), who)
        return self.folder(so_far or "/", who=who)

    def enter(self, place: Place, node: Node, who: Who = ROOT) -> None:
        """Give `node` the free name that `place` found."""
        assert place.parent is not None
        self.allow(place.parent, who, WRITE | SEARCH, place.path)
        place.parent.children[place.name] = node
        place.parent.mtime = time.time()
        self.pin(node)

    def open_file(
        self,
        path: str,
        *,
        cwd: str = "/",
        who: Who = ROOT,
        write: bool = False,
        create: bool = False,
        truncate: bool = False,
        mode: int = 0o644,
    ) -> Node:
        """The File or Special at `path`, checked for what is to be done with it."""
        place = self.locate(path, cwd=cwd, who=who)
        node = place.node
        if node is None:
            if not create:
                raise error(errno.ENOENT, path)
            node = File(mode=mode, uid=who.uid, gid=who.gid)
            self.enter(place, node, who)
            return node
        if isinstance(node, Folder) and write:
            raise error(errno.EISDIR, path)
        self.allow(node, who, WRITE if write else READ, path)
        if truncate and isinstance(node, File):
            self.truncate(node)
        return node

    def write_file(self, path: str, data: bytes, *, mode: int = 0o644, who: Who = ROOT) -> None:
        """Put a whole file at `path` as root would, then hand it to `who`."""
        node = self.open_file(path, write=True, create=True, truncate=True)
        if not isinstance(node, File):
            raise error(errno.EINVAL, path)
        self.write(node, 0, data)
        node.mode, node.uid, node.gid = mode, who.uid, who.gid

    # ------------------------------------------------------------ content

    def write(self, file: File, offset: int, data: bytes) -> None:
        """Write at `offset`; what fits is written before ENOSPC is raised."""
        self._copy_up(file)
        growth = max(0, offset + len(data) - len(file.data))
        fitting = data[: len(data) - (growth - self._room(growth))]
        if not isinstance(file.data, bytearray):
            file.data = bytearray(file.data)
        before = len(file.data)
        if offset > before and fitting:
            file.data.extend(bytes(offset - before))
        file.data[offset : offset + len(fitting)] = fitting
        self.used_bytes += len(file.data) - before
        file.mtime = time.time()
        if len(fitting) < len(data):
            raise error(errno.ENOSPC)

    def truncate(self, file: File) -> None:
        if file.counted:
            self.used_bytes -= len(file.data)
        file.counted = True
        file.data = b""
        file.mtime = time.time()

    def _copy_up(self, file: File) -> None:
        if file.counted:
            return
        size = len(file.data)
        if self._room(size) < size:
            raise error(errno.ENOSPC)
        file.counted = True
        self.used_bytes += size

    def _room(self, wanted: int) -> int:
        if self.limit_bytes is None or self.used_bytes + wanted <= self.limit_bytes:
            return wanted
        self.limit_hit = True
        return max(0, self.limit_bytes - self.used_bytes)

    def pin(self, node: Node) -> None:
        """Count one more name or descriptor of a file."""
        if isinstance(node, File):
            node.pins += 1

    def unpin(self, node: Node) -> None:
        """Forget one name or descriptor of a file; the last one gives its bytes back."""
        if isinstance(node, File):
            node.pins -= 1
            if node.pins == 0 and node.counted:
                self.used_bytes -= len(node.data)

    # ------------------------------------------------------------ removing and moving

    def unlink(self, path: str, *, cwd: str = "/", who: Who = ROOT) -> None:
        place = self.locate(path, cwd=cwd, who=who, follow=False)
        if place.node is None:
            raise error(errno.ENOENT, path)
        if isinstance(place.node, Folder):
            raise error(errno.EISDIR, path)
        self._detach(place, who)

    def remove_folder(self, path: str, *, cwd: str = "/", who: Who = ROOT) -> None:
        place = self.locate(path, cwd=cwd, who=who, follow=False)
        if not isinstance(place.node, Folder):
            raise error(errno.ENOENT if place.node is None else errno.ENOTDIR, path)
        if place.node.children:
            raise error(errno.ENOTEMPTY, path)
        self._detach(place, who)

    def remove_tree(self, path: str, *, cwd: str = "/", who: Who = ROOT) -> None:
        """All below `path` and itself, following no link."""
        place = self.locate(path, cwd=cwd, who=who, follow=False)
        if place.node is None:
            raise error(errno.ENOENT, path)
        if isinstance(place.node, Folder):
            for name in list(place.node.children):
                self.remove_tree(f"{place.path}/{name}", who=who)
        self._detach(place, who)

    def rename(self, source: str, target: str, *, cwd: str = "/", who: Who = ROOT) -> None:
        old = self.locate(source, cwd=cwd, who=who, follow=False)
        if old.node is None or old.parent is None:
            raise error(errno.ENOENT, source)
        new = self.locate(target, cwd=cwd, who=who, follow=False)
        if new.node is old.node:
            return
        if f"{new.path}/".startswith(f"{old.path}/"):
            raise error(errno.EINVAL, target)
        if isinstance(new.node, Folder) and (new.node.children or not isinstance(old.node, Folder)):
            raise error(errno.ENOTEMPTY if new.node.children else errno.EISDIR, target)
        self._may_remove(old, who)
        if new.node is not None:
            self._detach(new, who)
        self.enter(new, old.node, who)
        self._detach(old, who)

    def _detach(self, place: Place, who: Who) -> None:
        self._may_remove(place, who)
        assert place.parent is not None
        del place.parent.children[place.name]
        place.parent.mtime = time.time()
        if place.node is not None:
            self.unpin(place.node)

    def _may_remove(self, place: Place, who: Who) -> None:
        if place.parent is None or place.node is None:
            raise error(errno.EBUSY, place.path)
        self.allow(place.parent, who, WRITE | SEARCH, place.path)
        sticky = place.parent.mode & 0o1000
        if sticky and who.uid not in (0, place.node.uid, place.parent.uid):
            raise error(errno.EPERM, place.path)

    # ------------------------------------------------------------ copying

    def copy_root(self) -> Folder:
        """An independent tree that shares the files' bytes; hard links stay links."""
        return _copy_folder(self.root, {})


def permitted(node: Node, who: Who, wanted: int) -> bool:
    """What the mode bits alone say."""
    if who.uid == node.uid:
        bits = node.mode >> 6
    elif who.gid == node.gid:
        bits = node.mode >> 3
    else:
        bits = node.mode
    return bits & wanted == wanted


def _parts(path: str) -> list[str]:
    """Components, last first, so that the next one is popped from the end."""
    return [part for part in reversed(path.split("/")) if part]


def _copy_folder(folder: Folder, seen: dict[int, File]) -> Folder:
    children: dict[str, Node] = {}
    for name, node in folder.children.items():
        children[name] = _copy_node(node, seen)
    return Folder(
        mode=folder.mode, uid=folder.uid, gid=folder.gid, mtime=folder.mtime, children=children
    )


def _copy_node(node: Node, seen: dict[int, File]) -> Node:
    if isinstance(node, Folder):
        return _copy_folder(node, seen)
    if not isinstance(node, File):
        return node
    copy = seen.get(id(node))
    if copy is None:
        if isinstance(node.data, bytearray):
            node.data = bytes(node.data)
        copy = File(
            mode=node.mode,
            uid=node.uid,
            gid=node.gid,
            mtime=node.mtime,
            data=node.data,
            counted=False,
        )
        seen[id(node)] = copy
    copy.pins += 1
    return copy
