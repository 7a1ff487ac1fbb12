"""One live sandbox of the native engine."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from rollout.aio import Deadline, shielded
from rollout.errors import OutOfMemory, SandboxError, SandboxLost
from rollout.sandbox.alerts import Alerts
from rollout.sandbox.base import (
    FILE_LIMIT_BYTES,
    OUTPUT_LIMIT_BYTES,
    TREE_LIMIT_BYTES,
    TREE_LIMIT_ENTRIES,
    ExecResult,
    Image,
    ResourceAlert,
    SandboxSpec,
)
from rollout.sandbox.cgroups import CgroupPlan
from rollout.sandbox.client import InitClient
from rollout.sandbox.controllers import MIB
from rollout.sandbox.launcher import Launched, describe_status
from rollout.types import Tree

DEFAULT_ENV = (("LANG", "C.UTF-8"),)
"""PATH, HOME and USER are init's to say, who knows the user."""
FREEZE_TIMEOUT_S = 10.0
EPITAPH_WAIT_S = 1.0


class KeepLayer(Protocol):
    """The engine's way to make a layer out of a sandbox's scratch folder."""

    async def __call__(self, source: Path, uid: int, below: Image, *, copy: bool) -> Image: ...


class NativeSandbox:
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
    ) -> None:
        self._name = name
        self._spec = spec
        self._uid = uid
        self._plan = plan
        self._launched = launched
        self._client = InitClient(socket_path)
        self._scratch = scratch
        self._kill = kill
        self._end = end
        self._keep_layer = keep_layer
        self._env = dict((*DEFAULT_ENV, *spec.image.env, *spec.env))
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
    def spec(self) -> SandboxSpec:
        return self._spec

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

    # ---------------------------------------------------------------- what goes on inside

    async def exec(
        self,
        argv: Sequence[str],
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
                cwd=cwd or self._spec.workdir or self._spec.image.workdir,
                user=user or self._spec.user or self._spec.image.user,
                timeout_s=timeout_s,
                output_limit_bytes=output_limit_bytes,
            )

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

    async def kill_all(self) -> None:
        async with self._inside():
            await self._client.kill_all()

    @asynccontextmanager
    async def _inside(self) -> AsyncIterator[None]:
        """Say how the sandbox ended, where it is the sandbox that ended and not the one call."""
        if self._closing is not None:
            raise SandboxLost(f"sandbox {self._name}: it was closed")
        try:
            yield
        except SandboxError as exc:
            if not isinstance(exc, SandboxLost) and not self._launched.ended.done():
                raise
            # Its sockets break a moment before the launcher tells how it ended.
            await asyncio.wait({self._launched.ended}, timeout=EPITAPH_WAIT_S)
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
        async with self._inside():
            try:
                await self._freeze()
                return await self._keep_layer(self._scratch, self._uid, self._spec.image, copy=True)
            finally:
                self._thaw()

    async def end_as_image(self) -> Image:
        async with self._inside():
            if not self.out_of_memory:
                # Frozen first: nobody inside may see another die and write about it.
                await self._freeze()
            await self._kill()
            self._note_limits()
        try:
            return await self._keep_layer(self._scratch, self._uid, self._spec.image, copy=False)
        finally:
            await shielded(self.close())

    async def _freeze(self) -> None:
        self._control(lambda: self._plan.freeze(True))
        deadline = Deadline.after(FREEZE_TIMEOUT_S)
        while not self._plan.frozen:
            if self._launched.ended.done():
                raise SandboxLost("it ended before it could be frozen")
            if deadline.passed:
                raise SandboxError(f"not frozen within {FREEZE_TIMEOUT_S:g} s")
            await asyncio.sleep(0.0005)

    def _thaw(self) -> None:
        if not self._launched.ended.done():
            self._control(lambda: self._plan.freeze(False))

    def _control(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as exc:
            raise SandboxLost(f"its control group is gone: {exc}") from exc

    # ---------------------------------------------------------------- the end

    async def close(self) -> None:
        if self._closing is None:
            self._note_limits()
            self._closing = asyncio.ensure_future(self._end())
        await asyncio.shield(self._closing)
