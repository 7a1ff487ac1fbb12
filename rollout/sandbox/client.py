"""The asyncio client of one init: every way into a sandbox. Each call has its own connection.

`env`, `cwd` and `user` come already resolved: what is not said here is the init's own default. Each
call has a deadline of the host's own, so that a frozen or hostile init costs that and no more.
"""

import asyncio
import errno
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TypeVar

from rollout.aio import Deadline
from rollout.errors import SandboxError, TreeRefused
from rollout.sandbox import wire
from rollout.sandbox.base import (
    FILE_LIMIT_BYTES,
    OUTPUT_LIMIT_BYTES,
    TREE_LIMIT_BYTES,
    TREE_LIMIT_ENTRIES,
    ExecResult,
)
from rollout.sandbox.connections import Connections
from rollout.sandbox.link import Link, ok_or_error, unexpected
from rollout.sandbox.ports import established, take_socket
from rollout.sandbox.process import Process, run_process, timeout_ms
from rollout.sandbox.trees import TreeReader, check_tree, tree_frames
from rollout.types import Tree

T = TypeVar("T")

FILE_TIMEOUT_S = 120.0
"""Default deadline of one file operation."""
SHORT_TIMEOUT_S = 10.0
"""Default deadline of what takes no time by itself."""
_MANY_ENTRIES = 2000
_TOO_MUCH = frozenset({errno.EFBIG, errno.E2BIG, errno.ELOOP, errno.ENAMETOOLONG})


class InitClient:
    """The init behind one socket. Between calls it holds no descriptor but one in `connections`."""

    __slots__ = ("_connections", "_path")

    def __init__(self, socket_path: str, connections: Connections | None = None) -> None:
        """`connections` keeps one for the next exec; None: each makes its own."""
        self._path = socket_path
        self._connections = Connections(most=0) if connections is None else connections

    # -- processes

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
        """Run one process to its end, as `base.Sandbox.exec`; 2 s past `timeout_s`: SandboxLost."""
        return await run_process(
            self._path,
            self._connections,
            argv,
            stdin=stdin,
            env=env or {},
            cwd=cwd,
            user=user,
            timeout_s=timeout_s,
            output_limit_bytes=output_limit_bytes,
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
        telling: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> Process:
        """Start a process to talk to; its group is killed at `timeout_s`. `None`: no output cap."""
        flags = wire.ExecFlag.ANNOUNCE | wire.ExecFlag.STDIN
        request = wire.exec_request(
            argv,
            env=env or {},
            cwd=cwd,
            user=user,
            timeout_ms=timeout_ms(timeout_s),
            output_limit_bytes=wire.NO_LIMIT if output_limit_bytes is None else output_limit_bytes,
            flags=flags | wire.ExecFlag.PTY if pty else flags,
            rows=rows,
            cols=cols,
        )
        process = Process(
            f"start {argv[0]!r}",
            timeout_s=timeout_s,
            output_limit_bytes=output_limit_bytes,
            telling=telling,
        )
        await process.begin(self._path, request)
        return process

    async def kill_all(self, *, timeout_s: float = SHORT_TIMEOUT_S) -> None:
        """End every process but init; returns when all are gone."""
        await self._plain("kill all", wire.plain_request(wire.Op.KILL_ALL), (), timeout_s)

    async def ping(self, timeout_s: float = SHORT_TIMEOUT_S) -> None:
        """Return once init has answered, or raise SandboxLost."""
        await self._plain("ping", wire.plain_request(wire.Op.PING), (), timeout_s)

    # -- files

    async def read_file(
        self, path: str, *, limit_bytes: int = FILE_LIMIT_BYTES, timeout_s: float = FILE_TIMEOUT_S
    ) -> bytes:
        """A whole regular file; FileNotFoundError if none, SandboxError if longer or no file."""
        content = bytearray()

        def on_frame(kind: int, payload: bytes) -> bool:
            nonlocal content
            if kind == wire.Out.OK:
                return True
            if kind == wire.Out.ERROR:
                raise _found_nothing(path, payload)
            if kind != wire.Out.DATA or not payload:
                raise unexpected(kind, payload)
            content += payload
            if len(content) > limit_bytes:
                raise SandboxError(f"more than the {limit_bytes} bytes allowed")
            return False

        request = wire.file_request(wire.Op.READ_FILE, path, limit_bytes=limit_bytes)
        async with Link(f"read {path}", on_frame, deadline_s=timeout_s) as link:
            await link.start(self._path, request)
            await link.finished()
        return bytes(content)

    async def write_file(
        self,
        path: str,
        data: bytes,
        *,
        mode: int = 0o644,
        user: str = "",
        timeout_s: float = FILE_TIMEOUT_S,
    ) -> None:
        """Write a whole file, making missing folders; owned by `user`, else root."""
        request = wire.file_request(wire.Op.WRITE_FILE, path, owner=user, mode=mode)
        await self._plain(f"write {path}", request, _content(data), timeout_s)

    async def put_tree(
        self, tree: Tree, dest: str, *, owner: str = "", timeout_s: float = FILE_TIMEOUT_S
    ) -> None:
        """Lay `tree` over the folder `dest`, made if missing; `owner` is `user[:group]`."""

        def checked() -> Iterable[bytes]:
            check_tree(tree)
            return tree_frames(tree)

        request = wire.file_request(wire.Op.UNPACK_TREE, dest, owner=owner)
        source = await _aside(len(tree.entries), checked)
        await self._plain(f"put tree at {dest}", request, source, timeout_s)

    async def get_tree(
        self,
        path: str,
        *,
        limit_bytes: int = TREE_LIMIT_BYTES,
        limit_entries: int = TREE_LIMIT_ENTRIES,
        timeout_s: float = FILE_TIMEOUT_S,
    ) -> Tree:
        """A folder or file as a checked tree; FileNotFoundError, TreeRefused as in `base`."""
        reader = TreeReader(limit_bytes=limit_bytes, limit_entries=limit_entries)

        def on_frame(kind: int, payload: bytes) -> bool:
            if kind == wire.Out.ENTRY:
                reader.entry(wire.read_entry(payload))
            elif kind == wire.Out.DATA:
                reader.data(payload)
            elif kind == wire.Out.ERROR:
                raise _found_nothing(path, payload)
            elif kind != wire.Out.OK:
                raise unexpected(kind, payload)
            return kind == wire.Out.OK

        request = wire.file_request(
            wire.Op.PACK_TREE, path, limit_bytes=limit_bytes, limit_entries=limit_entries
        )
        async with Link(f"get tree {path}", on_frame, deadline_s=timeout_s) as link:
            await link.start(self._path, request)
            await link.finished()
        return await _aside(reader.entries, reader.tree)

    async def remove(self, path: str, *, timeout_s: float = FILE_TIMEOUT_S) -> None:
        """Remove a file or a folder with all below it, following no link; fine if missing."""
        request = wire.file_request(wire.Op.REMOVE, path)
        await self._plain(f"remove {path}", request, (), timeout_s)

    # -- ports

    async def listen(self, port: int, *, timeout_s: float = SHORT_TIMEOUT_S) -> socket.socket:
        """A socket that listens on the sandbox's 127.0.0.1:`port`; accept on it from here."""
        return await take_socket(
            self._path,
            f"listen on {port}",
            wire.port_request(wire.Op.LISTEN, port),
            listening=True,
            timeout_s=timeout_s,
        )

    async def connect(self, port: int, *, timeout_s: float = SHORT_TIMEOUT_S) -> socket.socket:
        """A socket connected to the sandbox's 127.0.0.1:`port`."""
        doing = f"connect to {port}"
        deadline = Deadline.after(timeout_s)
        request = wire.port_request(wire.Op.CONNECT, port)
        sock = await take_socket(self._path, doing, request, listening=False, timeout_s=timeout_s)
        await established(sock, doing, deadline.left_s)
        return sock

    async def _plain(
        self, doing: str, request: bytes, source: Iterable[bytes], timeout_s: float
    ) -> None:
        async with Link(doing, ok_or_error, deadline_s=timeout_s) as link:
            await link.start(self._path, request, source)
            await link.finished()


async def _aside(entries: int, work: Callable[[], T]) -> T:
    """What takes long for many entries is done in a thread: a loop has others to serve."""
    return work() if entries < _MANY_ENTRIES else await asyncio.to_thread(work)


def _found_nothing(path: str, payload: bytes) -> Exception:
    failure = wire.read_failure(payload)
    if failure.errno in (errno.ENOENT, errno.ENOTDIR):
        return FileNotFoundError(errno.ENOENT, failure.text, path)
    if failure.errno in _TOO_MUCH:
        return TreeRefused(failure.text)
    return SandboxError(failure.text)


def _content(data: bytes) -> Iterable[bytes]:
    yield from wire.frames(wire.In.DATA, data)
    yield wire.frame(wire.In.END)
