"""One live sandbox of the native engine."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

from rollout.aio import shielded
from rollout.sandbox.alerts import Alerts
from rollout.sandbox.base import Image, ResourceAlert, Sandbox, SandboxSpec
from rollout.sandbox.cgroups import CgroupPlan
from rollout.sandbox.connections import Connections
from rollout.sandbox.controllers import MIB
from rollout.sandbox.freezer import Freezer
from rollout.sandbox.inside import Inside
from rollout.sandbox.launcher import Launched, describe_status
from rollout.sandbox.scratch import Disk


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
        connections: Connections,
        scratch: Path,
        disk: Disk | None,
        kill: Callable[[], Awaitable[None]],
        end: Callable[[], Coroutine[Any, Any, None]],
        keep_layer: KeepLayer,
        fork: Callable[[Sandbox, int], Awaitable[list[Sandbox]]],
    ) -> None:
        super().__init__(spec, socket_path, connections)
        self._name = name
        self._uid = uid
        self._plan = plan
        self._launched = launched
        self._scratch = scratch
        self._disk = disk
        self._disk_was_full = False
        self._kill = kill
        self._end = end
        self._keep_layer = keep_layer
        self._fork = fork
        self._freezer = Freezer(plan, launched.ended)
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
    def scratch(self) -> Path:
        """Where the host finds the folders it writes to."""
        return self._scratch

    @property
    def limits_enforced(self) -> tuple[str, ...]:
        return self._plan.enforced if self._disk is None else (*self._plan.enforced, "disk")

    # ---------------------------------------------------------------- how it is

    @property
    def _ended(self) -> "asyncio.Future[int | None]":
        return self._launched.ended

    @property
    def _is_suspended(self) -> bool:
        return self._freezer.suspended

    async def _inquire(self) -> str:
        self._note_limits()
        if not self._launched.ended.done():
            return ""
        how = self._ended_for or describe_status(self._launched.ended.result())
        hits = [f"{limit}: {why}" for limit, why in self._reasons.items() if why != how]
        return f" ({'; '.join([how, *hits])})"

    # ---------------------------------------------------------------- the whole of it

    async def limits_hit(self) -> tuple[str, ...]:
        """Those of memory and pids as the kernel counts; disk if it was full at a look.

        The looks: after each call, at each `disk_usage`, now, and at the end.
        """
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
        self._note_disk()
        if self._disk is not None and self._disk_was_full:
            used, allowed = self._disk.usage() or (0, 0)
            found["disk"] = f"was full; {used / MIB:.0f} of {allowed / MIB:.0f} MiB are used now"
        self._reasons = found

    @property
    def alerts(self) -> tuple[ResourceAlert, ...]:
        return self._alerts.told

    def _note_disk(self) -> None:
        if self._disk is not None and not self._disk_was_full:
            self._disk_was_full = self._disk.full()

    def disk_usage(self) -> tuple[int, int] | None:
        """(bytes used, bytes allowed) of its disk; None if no limit holds or it has ended.

        What was deleted may count for some seconds more. Reads kernel memory, never the disk.
        """
        if self._disk is None or self._closing is not None:
            return None
        self._note_disk()
        return self._disk.usage()

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
            self._closing = asyncio.ensure_future(self._end())
            self._note_limits()  # while it ends; its control groups go only after that
            self._end_ports()
        await asyncio.shield(self._closing)
