"""What is done inside a sandbox, for every engine whose sandboxes have an init."""

import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from weakref import WeakSet

from rollout.sandbox.base import (
    FILE_LIMIT_BYTES,
    OUTPUT_LIMIT_BYTES,
    TREE_LIMIT_BYTES,
    TREE_LIMIT_ENTRIES,
    ExecResult,
    Process,
    SandboxSpec,
)
from rollout.sandbox.client import InitClient
from rollout.types import Tree

DEFAULT_ENV = (("LANG", "C.UTF-8"),)
"""PATH, HOME and USER are init's to say, who knows the user."""


class Inside(ABC):
    """The part of a sandbox that talks to its init; see `base.Sandbox`."""

    def __init__(self, spec: SandboxSpec, socket_path: str) -> None:
        self._spec = spec
        self._client = InitClient(socket_path)
        self._env = dict((*DEFAULT_ENV, *spec.image.env, *spec.env))
        self._cwd = spec.workdir or spec.image.workdir
        self._user = spec.user or spec.image.user
        self._lent: WeakSet[socket.socket] = WeakSet()
        self._ports_ended = False

    @property
    def spec(self) -> SandboxSpec:
        return self._spec

    @abstractmethod
    def _inside(self) -> AbstractAsyncContextManager[None]:
        """Around each call: refuses it where init cannot answer, else as `_telling`."""

    @abstractmethod
    def _telling(self) -> AbstractAsyncContextManager[None]:
        """Around what goes on after a call: says of an error how the sandbox ended."""

    # ---------------------------------------------------------------- processes and ports

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
        async with self._inside():
            return await self._client.exec(
                argv,
                stdin=stdin,
                env={**self._env, **(env or {})},
                cwd=cwd or self._cwd,
                user=user or self._user,
                timeout_s=timeout_s,
                output_limit_bytes=output_limit_bytes,
            )

    async def kill_all(self) -> None:
        async with self._inside():
            await self._client.kill_all()

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
    ) -> Process:
        async with self._inside():
            return await self._client.start(
                argv,
                env={**self._env, **(env or {})},
                cwd=cwd or self._cwd,
                user=user or self._user,
                pty=pty,
                rows=rows,
                cols=cols,
                timeout_s=timeout_s,
                output_limit_bytes=output_limit_bytes,
                telling=self._telling,
            )

    async def listen(self, port: int) -> socket.socket:
        async with self._inside():
            return self._lend(await self._client.listen(port))

    async def connect(self, port: int) -> socket.socket:
        async with self._inside():
            return self._lend(await self._client.connect(port))

    def _lend(self, sock: socket.socket) -> socket.socket:
        self._lent.add(sock)
        if self._ports_ended:
            self._end_ports()
        return sock

    def _end_ports(self) -> None:
        """Wake whoever accepts or reads. Closing is theirs: a number that is free is used again."""
        self._ports_ended = True
        for sock in list(self._lent):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    # ---------------------------------------------------------------- files

    async def read_file(self, path: str, *, limit_bytes: int = FILE_LIMIT_BYTES) -> bytes:
        async with self._inside():
            return await self._client.read_file(path, limit_bytes=limit_bytes)

    async def write_file(
        self, path: str, data: bytes, *, mode: int = 0o644, user: str = ""
    ) -> None:
        async with self._inside():
            await self._client.write_file(path, data, mode=mode, user=user)

    async def put_tree(self, tree: Tree, dest: str, *, owner: str = "") -> None:
        async with self._inside():
            await self._client.put_tree(tree, dest, owner=owner)

    async def get_tree(
        self,
        path: str,
        *,
        limit_bytes: int = TREE_LIMIT_BYTES,
        limit_entries: int = TREE_LIMIT_ENTRIES,
    ) -> Tree:
        async with self._inside():
            return await self._client.get_tree(
                path, limit_bytes=limit_bytes, limit_entries=limit_entries
            )

    async def remove(self, path: str) -> None:
        async with self._inside():
            await self._client.remove(path)
