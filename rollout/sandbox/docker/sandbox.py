"""One live sandbox of the Docker engine."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress

from rollout.aio import shielded
from rollout.errors import SandboxError, SandboxLost
from rollout.sandbox.alerts import Alerts
from rollout.sandbox.base import Image, ResourceAlert, Sandbox, SandboxSpec
from rollout.sandbox.connections import Connections
from rollout.sandbox.controllers import MIB
from rollout.sandbox.docker.container import PUT_BY_DOCKER
from rollout.sandbox.docker.limits import Groups
from rollout.sandbox.docker.means import HowItEnded, Means
from rollout.sandbox.docker.stillness import Stillness
from rollout.sandbox.inside import Inside

KILLED = 128 + signal.SIGKILL


class DockerSandbox(Inside):
    """Talks to its init; the engine that made it lends it the means to end."""

    def __init__(
        self,
        name: str,
        spec: SandboxSpec,
        *,
        init: "InitProcess",
        socket_path: str,
        connections: Connections,
        groups: Groups,
        limits_disk: bool,
        means: Means,
        fork: Callable[[Sandbox, int], Awaitable[list[Sandbox]]],
    ) -> None:
        super().__init__(spec, socket_path, connections)
        self._name = name
        self._init = init
        self._groups = groups
        self._limits = groups.limits(spec.resources)
        self._limits_disk = limits_disk and spec.resources.disk_mb is not None
        self._means = means
        self._fork = fork
        self._stillness = Stillness(means.pause, means.unpause)
        self._reasons: dict[str, str] = {}
        self._disk_was_full = False
        self._how: HowItEnded | None = None
        self._learning: asyncio.Task[None] | None = None
        self._ended_for = ""
        self._own_fault = False
        self._alerts = Alerts(self._limits, self.disk_usage)
        init.ended.add_done_callback(self._at_end)

    @property
    def id(self) -> str:
        return self._name

    @property
    def init_pid(self) -> int:
        """Of its init, as the host sees it."""
        return self._init.pid

    @property
    def limits_enforced(self) -> tuple[str, ...]:
        held = tuple(limit.told for limit in self._limits)
        return (*held, "disk") if self._limits_disk else held

    # ---------------------------------------------------------------- how it is

    @property
    def _ended(self) -> "asyncio.Future[None]":
        return self._init.ended

    @property
    def _is_suspended(self) -> bool:
        return self._stillness.suspended

    async def _inquire(self) -> str:
        if self._learning is not None:
            await asyncio.shield(self._learning)
        self._note_limits()
        if not self._init.ended.done():
            return ""
        how = self._ended_for or (
            f"its init ended with code {self._how.exit_code}" if self._how else "its init has ended"
        )
        hits = [f"{limit}: {why}" for limit, why in self._reasons.items() if why != how]
        return f" ({'; '.join([how, *hits])})"

    def _at_end(self, _: "asyncio.Future[None]") -> None:
        """Its control groups go a moment after it, so they are read at once."""
        self._note_limits()
        if self._closing is None:
            self._learning = asyncio.ensure_future(self._learn())

    async def _learn(self) -> None:
        with suppress(SandboxError):
            self._how = await self._means.how_it_ended()

    # ---------------------------------------------------------------- the whole of it

    async def limits_hit(self) -> tuple[str, ...]:
        return tuple(await self.limit_reasons())

    @property
    def out_of_memory(self) -> bool:
        if not self._init.ended.done() or self._ended_for:
            return self._init.ended.done() and self._own_fault
        killed = self._how is None or self._how.exit_code == KILLED
        return killed and "memory" in self._reasons

    async def limit_reasons(self) -> Mapping[str, str]:
        if self._closing is None:
            self._alerts.look()
            self._note_limits()
        if self._learning is not None:
            await asyncio.shield(self._learning)
            self._note_limits()
        return self._reasons

    def _note_limits(self) -> None:
        """What was counted stays noted when the control groups are gone."""
        for limit in self._limits:
            if why := limit.reason():
                self._reasons[limit.name] = why
        if self._own_fault:
            self._reasons["memory"] = self._ended_for
        elif self._how is not None and self._how.out_of_memory and self.memory_mb is not None:
            self._reasons.setdefault("memory", f"killed at the limit of {self.memory_mb} MiB")
        self._note_disk()
        if self._disk_was_full:
            used, allowed = self.disk_usage() or (0, 0)
            text = f"was full; {used / MIB:.0f} of {allowed / MIB:.0f} MiB are used now"
            self._reasons["disk"] = text

    @property
    def alerts(self) -> tuple[ResourceAlert, ...]:
        return self._alerts.told

    def _note_disk(self) -> None:
        if self._limits_disk and not self._disk_was_full and (held := self.disk_usage()):
            self._disk_was_full = held[0] + MIB > held[1]

    def disk_usage(self) -> tuple[int, int] | None:
        """(bytes used, bytes allowed) of its disk; None if no limit holds or it has ended."""
        if not self._limits_disk or self._init.ended.done():
            return None
        try:
            space = os.statvfs(f"/proc/{self._init.pid}/root")
        except OSError:
            return None
        allowed = (self._spec.resources.disk_mb or 0) * MIB
        return allowed - min(allowed, space.f_bfree * space.f_frsize), allowed

    # ---------------------------------------------------------------- what the watcher asks

    @property
    def memory_mb(self) -> int | None:
        return self._spec.resources.memory_mb

    @property
    def usage_alerts(self) -> Alerts | None:
        return self._alerts if self.limits_enforced else None

    def held_bytes(self, *, closer: bool = False) -> int:
        return self._groups.held_bytes()

    def end_for_memory(self, reason: str, *, own_fault: bool) -> None:
        """End it as it is; its next call tells why."""
        if self._closing is None and not self._init.ended.done():
            self._ended_for, self._own_fault = reason, own_fault
            self._init.kill()

    # ---------------------------------------------------------------- its files as an image

    async def snapshot(self) -> Image:
        self._check_open()
        async with self._telling():
            if self._init.ended.done():
                raise SandboxLost("it has ended")
            async with self._stillness.still():
                return await self._means.keep(self._spec.image, self.absent())

    def absent(self) -> tuple[str, ...]:
        """Files that Docker puts into every container and that this one has no more."""
        return self._init.lacks("etc", PUT_BY_DOCKER)

    async def fork(self, count: int) -> list[Sandbox]:
        return await self._fork(self, count)

    async def suspend(self) -> None:
        self._check_open()
        async with self._telling():
            await self._stillness.suspend()

    async def resume(self) -> None:
        self._check_open()
        async with self._telling():
            await self._stillness.resume()

    async def end_as_image(self) -> Image:
        self._check_open()
        absent: tuple[str, ...] = ()
        try:
            async with self._telling(), AsyncExitStack() as holding:
                if not self.out_of_memory:
                    if self._init.ended.done():
                        raise SandboxLost("it has ended")
                    # Held still first: nobody inside may see another die and write about it.
                    await holding.enter_async_context(self._stillness.still())
                    self._note_limits()
                    absent = self.absent()
                    self._stillness.ended()
                    await self._means.kill()
                    await self._init.ended
                return await self._means.keep(self._spec.image, absent)
        finally:
            await shielded(self.close())

    async def close(self) -> None:
        if self._closing is None:
            self._note_limits()
            self._stillness.ended()
            self._closing = asyncio.ensure_future(self._end())
            self._end_ports()
        await asyncio.shield(self._closing)

    async def _end(self) -> None:
        if self._learning is not None:
            await self._learning
        await self._means.end()
        self._init.close()


class InitProcess:
    """A container's PID 1, as the host sees it: whether it lives, without asking the daemon."""

    def __init__(self, pid: int) -> None:
        """OSError if it has gone already."""
        self.pid = pid
        self._loop = asyncio.get_running_loop()
        self._handle = os.pidfd_open(pid)
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._handle, self._gone)

    def kill(self) -> None:
        with suppress(OSError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def lacks(self, folder: str, names: Sequence[str]) -> tuple[str, ...]:
        """Which of these its root folder's `folder` has not; nothing where that cannot be told.

        Whoever lives there may have made a link of anything: none is followed.
        """
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        held: list[int] = []
        try:
            held.append(os.open(f"/proc/{self.pid}/root", flags & ~os.O_NOFOLLOW))
            held.append(os.open(folder, flags, dir_fd=held[0]))
            return tuple(f"/{folder}/{name}" for name in names if not _is_in(held[1], name))
        except OSError:
            return ()
        finally:
            for handle in held:
                os.close(handle)

    def close(self) -> None:
        """It ends, if it has not; idempotent."""
        self._gone()

    def _gone(self) -> None:
        if self._handle >= 0:
            self._loop.remove_reader(self._handle)
            os.close(self._handle)
            self._handle = -1
        if not self.ended.done():
            self.ended.set_result(None)


def _is_in(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
