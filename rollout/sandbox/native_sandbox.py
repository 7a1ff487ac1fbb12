"""One live sandbox of the native engine."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from rollout.aio import shielded
from rollout.errors import SandboxError, SandboxLost
from rollout.sandbox.base import Image, Sandbox, SandboxSpec
from rollout.sandbox.cgroups import CgroupPlan
from rollout.sandbox.freezer import Freezer
from rollout.sandbox.inside import Inside
from rollout.sandbox.launcher import Launched, describe_status

EPITAPH_WAIT_S = 0.2


class KeepLayer(Protocol):
    """The engine's way to make a layer out of a sandbox's scratch folder."""

    async def __call__(self, source: Path, uid: int, below: Image, *, copy: bool) -> Image: ...


class NativeSandbox(Inside):
    """Talks to its init; the engine that made it lends it the means to end."""

    def __init__(
        self,
        name: str,
        spec: SandboxSpec,
        *,
        uid: int,
        plan: CgroupPlan,
        launched: Launched,
        socket_path: str,
        scratch: Path,
        kill: Callable[[], Awaitable[None]],
        end: Callable[[], Awaitable[None]],
        keep_layer: KeepLayer,
        fork: Callable[[Sandbox, int], Awaitable[list[Sandbox]]],
    ) -> None:
        super().__init__(spec, socket_path)
        self._name = name
        self._uid = uid
        self._plan = plan
        self._launched = launched
        self._scratch = scratch
        self._kill = kill
        self._end = end
        self._keep_layer = keep_layer
        self._fork = fork
        self._freezer = Freezer(plan, launched.ended)
        self._closing: asyncio.Future[None] | None = None
        self._hits: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return self._name

    @property
    def uid_base(self) -> int:
        """First host uid of the range all its processes and files are in."""
        return self._uid

    @property
    def init_pid(self) -> int:
        """Of its init, as the host sees it."""
        return self._launched.pid

    @property
    def limits_enforced(self) -> tuple[str, ...]:
        disk = self._launched.scratch is not None and self._spec.resources.disk_mb is not None
        return (*self._plan.enforced, "disk") if disk else self._plan.enforced

    # ---------------------------------------------------------------- around each call

    @asynccontextmanager
    async def _inside(self) -> AsyncIterator[None]:
        """For what needs its init: refused at once where that cannot answer."""
        self._check_open()
        if self._freezer.suspended:
            raise SandboxError(f"sandbox {self._name} is suspended: call resume() first")
        async with self._telling():
            yield

    def _check_open(self) -> None:
        if self._closing is not None:
            raise SandboxLost(f"sandbox {self._name}: it was closed")

    @asynccontextmanager
    async def _telling(self) -> AsyncIterator[None]:
        """Say how the sandbox ended, where it is the sandbox that ended and not the one call."""
        try:
            yield
        except SandboxError as exc:
            if not isinstance(exc, SandboxLost) and not self._launched.ended.done():
                raise
            # Its sockets break a moment before the launcher tells how it ended.
            await asyncio.wait({self._launched.ended}, timeout=EPITAPH_WAIT_S)
            if self._freezer.suspended and not self._launched.ended.done():
                raise SandboxError(f"sandbox {self._name} is suspended: {exc}") from exc
            raise SandboxLost(f"sandbox {self._name}: {exc}{self._epitaph()}") from exc

    def _epitaph(self) -> str:
        if not self._launched.ended.done():
            return ""
        hits = ", ".join(self._plan.limits_hit())
        how = describe_status(self._launched.ended.result())
        return f" ({how}{f'; limits it ran into: {hits}' if hits else ''})"

    # ---------------------------------------------------------------- the whole of it

    async def limits_hit(self) -> tuple[str, ...]:
        """Those of memory and pids that were run into so far; disk if it is full now."""
        if self._closing is None:
            self._note_limits()
        return self._hits

    def _note_limits(self) -> None:
        self._hits = self._plan.limits_hit() + (("disk",) if self._disk_full() else ())

    def _disk_full(self) -> bool:
        if "disk" not in self.limits_enforced:
            return False
        try:
            space = os.statvfs(self._scratch)
        except OSError:
            return False
        return space.f_bavail == 0 or space.f_favail == 0

    async def snapshot(self) -> Image:
        self._check_open()
        async with self._telling(), self._freezer.frozen():
            return await self._keep_layer(self._scratch, self._uid, self._spec.image, copy=True)

    async def fork(self, count: int) -> list[Sandbox]:
        return await self._fork(self, count)

    async def suspend(self) -> None:
        self._check_open()
        async with self._telling():
            await self._freezer.suspend()

    async def resume(self) -> None:
        self._check_open()
        async with self._telling():
            self._freezer.resume()

    async def end_as_image(self) -> Image:
        self._check_open()
        # Frozen first: nobody inside may see another die and write about it.
        async with self._telling(), self._freezer.frozen():
            await self._kill()
            self._note_limits()
        try:
            return await self._keep_layer(self._scratch, self._uid, self._spec.image, copy=False)
        finally:
            await shielded(self.close())

    async def close(self) -> None:
        if self._closing is None:
            self._note_limits()
            self._closing = asyncio.ensure_future(self._end())
            self._end_ports()
        await asyncio.shield(self._closing)
