"""One sandbox of the in-process engine."""

import asyncio
import errno
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

from rollout.aio import shielded
from rollout.errors import SandboxError, SandboxLost, TreeRefused
from rollout.sandbox import wire
from rollout.sandbox.base import (
    FILE_LIMIT_BYTES,
    OUTPUT_LIMIT_BYTES,
    TREE_LIMIT_BYTES,
    TREE_LIMIT_ENTRIES,
    ExecResult,
    Image,
    ResourceAlert,
    Sandbox,
    SandboxSpec,
)
from rollout.sandbox.memory import execute
from rollout.sandbox.memory.base_image import PROGRAMS
from rollout.sandbox.memory.files import (
    ROOT,
    SEARCH,
    File,
    FileSystem,
    Folder,
    Link,
    Node,
    Who,
    error,
)
from rollout.sandbox.memory.live import LiveProcess
from rollout.sandbox.memory.process import Machine, Process, describe, to_text
from rollout.sandbox.memory.streams import Sink, Source, Stream
from rollout.sandbox.memory.users import find_user, home_of
from rollout.sandbox.trees import check_tree
from rollout.types import Tree, TreeEntry

LIMITS = frozenset({"pids", "disk"})
"""What is counted exactly here. Memory and CPU are those of this Python process."""

_PERMISSIONS = 0o777


class MemorySandbox:
    """A tree and a table of processes. `keep` makes an image of a tree, `forget` ends ownership."""

    def __init__(
        self,
        sandbox_id: str,
        spec: SandboxSpec,
        root: Folder,
        *,
        keep: Callable[[Folder, Image], Image],
        forget: Callable[["MemorySandbox"], None],
        fork: Callable[[Sandbox, int], Awaitable[list[Sandbox]]],
    ) -> None:
        wanted = spec.resources
        limit_bytes = None if wanted.disk_mb is None else wanted.disk_mb << 20
        self._id = sandbox_id
        self._spec = spec
        self._files = FileSystem(root, limit_bytes)
        self._machine = Machine(self._files, PROGRAMS, wanted.pids)
        self._keep = keep
        self._forget = forget
        self._fork = fork
        self._closed = False
        self._set_env: dict[str, str] = {}

    @property
    def id(self) -> str:
        return self._id

    @property
    def spec(self) -> SandboxSpec:
        return self._spec

    @property
    def limits_enforced(self) -> tuple[str, ...]:
        asked = {"pids": self._spec.resources.pids, "disk": self._spec.resources.disk_mb}
        return tuple(name for name, amount in asked.items() if amount is not None)

    # ------------------------------------------------------------ processes

    def set_env(self, env: Mapping[str, str]) -> None:
        self._set_env = dict(env)

    async def exec(
        self,
        argv: Sequence[str | bytes],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        user: str = "",
        timeout_s: float = 60.0,
        output_limit_bytes: int = OUTPUT_LIMIT_BYTES,
    ) -> ExecResult:
        started = time.monotonic()
        out, err = Sink(output_limit_bytes), Sink(output_limit_bytes)
        process = self._spawn(argv, (Source(stdin), out, err), env, cwd, user)
        timed_out = not await self._ended(process, timeout_s)
        if timed_out:
            self._check_awake()
        self._check_open()
        assert process.exit_code is not None
        return ExecResult(
            exit_code=process.exit_code,
            stdout=out.take(),
            stderr=err.take(),
            truncated=out.truncated or err.truncated,
            timed_out=timed_out,
            duration_s=time.monotonic() - started,
        )

    async def start(
        self,
        argv: Sequence[str | bytes],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        user: str = "",
        pty: bool = False,
        rows: int = 24,
        cols: int = 80,
        timeout_s: float = 3600.0,
        output_limit_bytes: int | None = None,
    ) -> LiveProcess:
        self._check_awake()
        if pty:
            raise self._lacks("terminals", "pty=False")
        live = LiveProcess(output_limit_bytes, timeout_s=timeout_s, check=self._check_open)
        live.begin(self._spawn(argv, live.streams, env, cwd, user))
        return live

    def _spawn(
        self,
        argv: Sequence[str | bytes],
        streams: Sequence[Stream],
        env: Mapping[str, str] | None,
        cwd: str,
        user: str,
    ) -> Process:
        self._check_awake()
        # What the wire would not carry is refused here, too.
        wire.exec_request(argv, env=env or {}, cwd=cwd, user=user)
        words = [to_text(word) if isinstance(word, bytes) else word for word in argv]
        who = self._who(user or self._spec.user or self._spec.image.user)
        try:
            return self._machine.spawn(
                lambda process: execute.run(process, words),
                who=who,
                env=self._environment(who, env or {}),
                cwd=self._working_folder(cwd, who),
                fds=dict(enumerate(streams)),
            )
        except BlockingIOError as exc:
            limit = self._spec.resources.pids
            raise SandboxError(
                f"exec {words[0]!r} in {self._id}: all {limit} processes of its pids limit are in "
                "use; call kill_all first or raise resources.pids"
            ) from exc

    async def _ended(self, process: Process, timeout_s: float) -> bool:
        """Whether it ended by itself; on timeout and on cancellation its group is gone after."""
        try:
            async with asyncio.timeout(timeout_s):
                await process.wait()
        except TimeoutError:
            await shielded(self._machine.kill(self._machine.group(process.pgid)))
            await process.wait()
            return False
        except asyncio.CancelledError:
            await shielded(self._machine.kill(self._machine.group(process.pgid)))
            raise
        return True

    def _environment(self, who: Who, env: Mapping[str, str]) -> dict[str, str]:
        home = home_of(self._files, who.uid)
        own = {"PATH": execute.DEFAULT_PATH, "HOME": home}
        image, spec = dict(self._spec.image.env), dict(self._spec.env)
        return {**own, **image, **spec, **self._set_env, **env}

    def _who(self, user: str) -> Who:
        who = find_user(self._files, user)
        if who is None:
            raise SandboxError(f"sandbox {self._id} has no user {user!r} in its /etc/passwd")
        return who

    def _working_folder(self, cwd: str, who: Who) -> str:
        cwd = cwd or self._spec.workdir or self._spec.image.workdir
        try:
            place = self._files.locate(cwd, who=who)
            self._files.allow(self._files.folder(place.path), who, SEARCH, cwd)
        except OSError as exc:
            raise SandboxError(f"exec in {self._id}: cwd {describe(exc)}") from exc
        return place.path

    async def listen(self, port: int) -> socket.socket:
        self._check_awake()
        raise self._lacks("network", "another engine")

    async def connect(self, port: int) -> socket.socket:
        self._check_awake()
        raise self._lacks("network", "another engine")

    def _lacks(self, what: str, instead: str) -> SandboxError:
        return SandboxError(f"sandbox {self._id}: the memory engine has no {what}; use {instead}")

    async def kill_all(self) -> None:
        self._check_awake()
        await self._machine.kill_all()

    @property
    def alerts(self) -> tuple[ResourceAlert, ...]:
        return ()

    @property
    def out_of_memory(self) -> bool:
        return False

    async def limits_hit(self) -> tuple[str, ...]:
        return tuple(await self.limit_reasons())

    async def limit_reasons(self) -> Mapping[str, str]:
        reasons, asked = {}, self._spec.resources
        if self._machine.pids_hit:
            reasons["pids"] = f"a new process was refused at the limit of {asked.pids}"
        if self._files.limit_hit:
            reasons["disk"] = f"a write was refused at the limit of {asked.disk_mb} MiB"
        return reasons

    # ------------------------------------------------------------ files

    async def read_file(self, path: str, *, limit_bytes: int = FILE_LIMIT_BYTES) -> bytes:
        self._check_path(path)
        node = self._find(path)
        if not isinstance(node, File):
            raise SandboxError(f"read {path} in {self._id}: not a regular file")
        if len(node.data) > limit_bytes:
            raise SandboxError(
                f"read {path} in {self._id}: {len(node.data)} bytes; {limit_bytes} are allowed"
            )
        return bytes(node.data)

    async def write_file(
        self, path: str, data: bytes, *, mode: int = 0o644, user: str = ""
    ) -> None:
        self._check_path(path)
        who = self._who(user) if user else ROOT
        try:
            self._files.make_folder(path.rpartition("/")[0] or "/", parents=True)
            self._files.write_file(path, data, mode=mode & 0o7777, who=who)
        except OSError as exc:
            raise SandboxError(f"write {path} in {self._id}: {describe(exc)}") from exc

    async def put_tree(self, tree: Tree, dest: str, *, owner: str = "") -> None:
        self._check_path(dest)
        check_tree(tree)
        who = self._who(owner) if owner else ROOT
        try:
            self._lay(tree, dest.rstrip("/"), who)
        except OSError as exc:
            raise SandboxError(f"put tree at {dest} in {self._id}: {describe(exc)}") from exc

    def _lay(self, tree: Tree, dest: str, who: Who) -> None:
        existed = self._files.exists(dest or "/")
        folder = self._files.make_folder(dest or "/", parents=True)
        if not existed:
            folder.uid, folder.gid = who.uid, who.gid
        for entry in sorted(tree.entries, key=lambda entry: entry.path.split("/")):
            self._lay_entry(entry, dest, who)

    def _lay_entry(self, entry: TreeEntry, dest: str, who: Who) -> None:
        """A file, link or empty folder in the way is replaced, and never written through."""
        at = dest
        for part in entry.path.split("/")[:-1]:
            at += f"/{part}"
            self._inner_folder(at, who)
        path = f"{dest}/{entry.path}"
        if entry.kind == "dir":
            folder = self._inner_folder(path, who)
            folder.mode, folder.uid, folder.gid = entry.mode & _PERMISSIONS, who.uid, who.gid
            return
        place = self._files.locate(path, follow=False)
        if isinstance(place.node, Folder):
            self._files.remove_folder(path)
        elif place.node is not None:
            self._files.unlink(path)
        if entry.kind == "link":
            link = Link(target=entry.target, mode=0o777, uid=who.uid, gid=who.gid)
            self._files.enter(place, link)
        else:
            self._files.write_file(path, entry.data, mode=entry.mode & _PERMISSIONS, who=who)

    def _inner_folder(self, path: str, who: Who) -> Folder:
        """The folder itself: a link to one is refused, for it may lead anywhere."""
        place = self._files.locate(path, follow=False)
        if place.node is None:
            made = Folder(mode=0o755, uid=who.uid, gid=who.gid)
            self._files.enter(place, made)
            return made
        if not isinstance(place.node, Folder):
            raise error(errno.ENOTDIR, path)
        return place.node

    async def get_tree(
        self,
        path: str,
        *,
        limit_bytes: int = TREE_LIMIT_BYTES,
        limit_entries: int = TREE_LIMIT_ENTRIES,
    ) -> Tree:
        self._check_path(path)
        entries: list[TreeEntry] = []
        size_bytes = 0
        for entry in _entries(self._find(path), path):
            size_bytes += len(entry.data)
            if len(entries) >= limit_entries or size_bytes > limit_bytes:
                raise TreeRefused(
                    f"get tree {path} in {self._id}: more than {limit_entries} names or "
                    f"{limit_bytes} bytes"
                )
            entries.append(entry)
        tree = Tree(tuple(entries))
        check_tree(tree)
        return tree

    async def remove(self, path: str) -> None:
        self._check_path(path)
        try:
            self._files.remove_tree(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as exc:
            raise SandboxError(f"remove {path} in {self._id}: {describe(exc)}") from exc

    def _find(self, path: str) -> Node:
        try:
            return self._files.node(path)
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(2, os.strerror(2), path) from None
        except OSError as exc:
            raise SandboxError(f"{path} in {self._id}: {describe(exc)}") from exc

    def _check_path(self, path: str) -> None:
        self._check_awake()
        if not path.startswith("/"):
            raise SandboxError(f"{path!r} in {self._id}: not an absolute path")

    # ------------------------------------------------------------ life

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxLost(f"sandbox {self._id} was closed")

    def _check_awake(self) -> None:
        self._check_open()
        if self._machine.frozen:
            raise SandboxError(f"sandbox {self._id} is suspended: call resume() first")

    def copy_root(self) -> Folder:
        """The tree as it stands, independent of what follows."""
        return self._files.copy_root()

    async def snapshot(self) -> Image:
        self._check_open()
        return self._keep(self.copy_root(), self._spec.image)

    async def fork(self, count: int) -> list[Sandbox]:
        return await self._fork(self, count)

    async def suspend(self) -> None:
        self._check_open()
        self._machine.freeze(True)

    async def resume(self) -> None:
        self._check_open()
        self._machine.freeze(False)

    async def end_as_image(self) -> Image:
        self._check_open()
        await self._end()
        return self._keep(self.copy_root(), self._spec.image)

    async def close(self) -> None:
        await self._end()

    async def _end(self) -> None:
        self._closed = True
        await shielded(self._machine.kill_all())
        self._forget(self)


def _entries(node: Node, path: str) -> Iterator[TreeEntry]:
    """Everything in a folder, parents first; a file alone is one entry."""
    if not isinstance(node, Folder):
        yield _entry(node, path.rstrip("/").rpartition("/")[2])
        return
    pending = [(name, child) for name, child in sorted(node.children.items(), reverse=True)]
    while pending:
        name, child = pending.pop()
        yield _entry(child, name)
        if isinstance(child, Folder):
            inside = sorted(child.children.items(), reverse=True)
            pending.extend((f"{name}/{inner}", grandchild) for inner, grandchild in inside)


def _entry(node: Node, path: str) -> TreeEntry:
    mode = node.mode & _PERMISSIONS
    if isinstance(node, File):
        return TreeEntry(path, "file", mode, bytes(node.data))
    if isinstance(node, Folder):
        return TreeEntry(path, "dir", mode)
    if isinstance(node, Link):
        return TreeEntry(path, "link", mode, target=node.target)
    raise TreeRefused(f"{path!r} is a device, a fifo or a socket")
