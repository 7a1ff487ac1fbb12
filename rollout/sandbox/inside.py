"""What is done inside a sandbox, for every engine whose sandboxes have an init."""

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any
from weakref import WeakSet

from rollout.errors import OutOfMemory, SandboxError, SandboxLost
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
from rollout.sandbox.connections import Connections
from rollout.types import Tree

DEFAULT_ENV = (("LANG", "C.UTF-8"),)
"""PATH, HOME and USER are init's to say, who knows the user."""
EPITAPH_WAIT_S = 1.0
"""A sandbox's sockets break a moment before it is told how it ended."""


class Inside(ABC):
    """The part of a sandbox that talks to its init; see `base.Sandbox`."""

    def __init__(self, spec: SandboxSpec, socket_path: str, connections: Connections) -> None:
        """`connections`: those its engine keeps for the next call."""
        self._spec = spec
        self._client = InitClient(socket_path, connections)
        self._env = dict((*DEFAULT_ENV, *spec.image.env, *spec.env))
        self._set_env: dict[str, str] = {}
        self._cwd = spec.workdir or spec.image.workdir
        self._user = spec.user or spec.image.user
        self._lent: WeakSet[socket.socket] = WeakSet()
        self._ports_ended = False
        self._closing: asyncio.Future[None] | None = None

    @property
    def spec(self) -> SandboxSpec:
        return self._spec

    # ---------------------------------------------------------------- how it is

    @property
    @abstractmethod
    def id(self) -> str: ...

    @property
    @abstractmethod
    def out_of_memory(self) -> bool: ...

    @property
    @abstractmethod
    def _ended(self) -> "asyncio.Future[Any]":
        """Done once its init is gone."""

    @property
    @abstractmethod
    def _is_suspended(self) -> bool: ...

    @abstractmethod
    async def _inquire(self) -> str:
        """How it ended, in brackets; empty if it has not."""

    @abstractmethod
    def _note_disk(self) -> None:
        """What filled its disk may be deleted by the time somebody asks: look now."""

    # ---------------------------------------------------------------- around each call

    def _inside(self) -> "Telling":
        """For what needs its init: refused at once where that cannot answer."""
        self._check_open()
        if self._is_suspended:
            raise SandboxError(f"sandbox {self.id} is suspended: call resume() first")
        return Telling(self)

    def _telling(self) -> "Telling":
        """Says of an error how the sandbox ended, where it is that and not the one call."""
        return Telling(self)

    def _check_open(self) -> None:
        if self._closing is not None:
            raise SandboxLost(f"sandbox {self.id}: it was closed")

    async def _explained(self, exc: SandboxError) -> SandboxError:
        if not isinstance(exc, SandboxLost) and not self._ended.done():
            return exc
        await asyncio.wait({self._ended}, timeout=EPITAPH_WAIT_S)
        if self._is_suspended and not self._ended.done():
            return SandboxError(f"sandbox {self.id} is suspended: {exc}")
        epitaph = await self._inquire()
        kind = OutOfMemory if self.out_of_memory else SandboxLost
        return kind(f"sandbox {self.id}: {exc}{epitaph}")

    # ---------------------------------------------------------------- processes and ports

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
        async with self._inside():
            return await self._client.exec(
                argv,
                stdin=stdin,
                env={**self._env, **self._set_env, **(env or {})},
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
                env={**self._env, **self._set_env, **(env or {})},
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


class Telling:
    """See `Inside._telling`. No generator: one is entered for each exec."""

    __slots__ = ("_sandbox",)

    def __init__(self, sandbox: Inside) -> None:
        self._sandbox = sandbox

    async def __aenter__(self) -> None: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if isinstance(error, SandboxError):
                explained = await self._sandbox._explained(error)
                if explained is not error:
                    raise explained from error
        finally:
            self._sandbox._note_disk()
