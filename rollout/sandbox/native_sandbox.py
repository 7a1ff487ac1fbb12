"""One live sandbox of the native engine."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Protocol

from rollout.aio import shielded
from rollout.errors import OutOfMemory, SandboxError, SandboxLost
from rollout.sandbox.alerts import Alerts
from rollout.sandbox.base import Image, ResourceAlert, Sandbox, SandboxSpec
from rollout.sandbox.cgroups import CgroupPlan
from rollout.sandbox.controllers import MIB
from rollout.sandbox.freezer import Freezer
from rollout.sandbox.inside import Inside
from rollout.sandbox.launcher import Launched, describe_status

EPITAPH_WAIT_S = 1.0


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
        self._reasons: dict[str, str] = {}
        self._ended_for = ""
        """Why the watcher ended it, if it did."""
        self._own_fault = False
        self._alerts = Alerts(plan.limits, self.disk_usage)

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
            self._note_limits()
            kind = OutOfMemory if self.out_of_memory else SandboxLost
            raise kind(f"sandbox {self._name}: {exc}{self._epitaph()}") from exc

    def _epitaph(self) -> str:
        if not self._launched.ended.done():
            return ""
        how = self._ended_for or describe_status(self._launched.ended.result())
        hits = [f"{limit}: {why}" for limit, why in self._reasons.items() if why != how]
        return f" ({'; '.join([how, *hits])})"

    # ---------------------------------------------------------------- the whole of it

    async def limits_hit(self) -> tuple[str, ...]:
        """Those of memory and pids that were run into so far; disk if it is full now."""
        return tuple(await self.limit_reasons())

    @property
    def out_of_memory(self) -> bool:
        ended = self._launched.ended
        if not ended.done() or self._ended_for:
            return ended.done() and self._own_fault
        if self._closing is None:
            self._note_limits()
        return ended.result() == signal.SIGKILL and "memory" in self._reasons

    async def limit_reasons(self) -> Mapping[str, str]:
        if self._closing is None:
            self._alerts.look()
            self._note_limits()
        return self._reasons

    def _note_limits(self) -> None:
        found = {limit.name: why for limit in self._plan.limits if (why := limit.reason())}
        if self._own_fault:
            found["memory"] = self._ended_for
        if self._disk_full():
            used, allowed = self.disk_usage() or (0, 0)
            found["disk"] = f"was full; {used // MIB} of {allowed // MIB} MiB are used now"
        self._reasons = found

    @property
    def alerts(self) -> tuple[ResourceAlert, ...]:
        return self._alerts.told

    def disk_usage(self) -> tuple[int, int] | None:
        """Bytes used and allowed; None where disk is not limited."""
        if "disk" not in self.limits_enforced:
            return None
        try:
            space = os.statvfs(self._scratch)
        except OSError:
            return None
        used = (space.f_blocks - space.f_bfree) * space.f_frsize
        return used, space.f_blocks * space.f_frsize

    def _disk_full(self) -> bool:
        if "disk" not in self.limits_enforced:
            return False
        try:
            space = os.statvfs(self._scratch)
        except OSError:
            return False
        return space.f_bavail == 0 or space.f_favail == 0

    # ---------------------------------------------------------------- what the watcher asks

    @property
    def memory_mb(self) -> int | None:
        return self._spec.resources.memory_mb

    @property
    def usage_alerts(self) -> Alerts | None:
        return self._alerts if self.limits_enforced else None

    def held_bytes(self, *, closer: bool = False) -> int:
        return self._plan.held_bytes(self._tmpfs_bytes(), closer=closer)

    def _tmpfs_bytes(self) -> int:
        if self._launched.scratch is None:
            return 0
        try:
            space = os.statvfs(self._launched.scratch)
        except OSError:
            return 0
        return (space.f_blocks - space.f_bfree) * space.f_frsize

    def end_for_memory(self, reason: str, *, own_fault: bool) -> None:
        """End it as it is; its next call tells why."""
        if self._closing is None and not self._launched.ended.done():
            self._ended_for, self._own_fault = reason, own_fault
            self._plan.kill()

    # ---------------------------------------------------------------- its files as an image

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
        frozen = nullcontext() if self.out_of_memory else self._freezer.frozen()
        async with self._telling(), frozen:
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
