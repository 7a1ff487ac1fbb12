"""How much of a machine there is, and how fast it may be asked for more."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from rollout.aio import Deadline
from rollout.config import PoolConf
from rollout.sandbox.base import SandboxSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """An amount of machine: what there is, or what one sandbox asks for."""

    cpu: float = 0.0
    memory_mb: float = 0.0
    disk_mb: float = 0.0
    pids: float = 0.0

    @classmethod
    def of_machine(cls, root_dir: str, share: float = 1.0) -> "Capacity":
        """This machine's cores, memory, free disk below `root_dir` and pids, times `share`."""
        folder = next(p for p in [Path(root_dir), *Path(root_dir).parents] if p.exists())
        disk = os.statvfs(folder)
        memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return cls(
            cpu=len(os.sched_getaffinity(0)) * share,
            memory_mb=memory_bytes / 2**20 * share,
            disk_mb=disk.f_bavail * disk.f_frsize / 2**20 * share,
            pids=float(Path("/proc/sys/kernel/pid_max").read_text()) * share,
        )

    @classmethod
    def wanted_by(cls, spec: SandboxSpec) -> "Capacity":
        """What a sandbox counts for; a limit that is not set counts nothing."""
        asked = spec.resources
        return cls(
            cpu=asked.cpu or 0.0,
            memory_mb=asked.memory_mb or 0.0,
            disk_mb=asked.disk_mb or 0.0,
            pids=asked.pids or 0.0,
        )

    def overcommitted(self, conf: PoolConf) -> "Capacity":
        return Capacity(
            cpu=self.cpu * conf.overcommit_cpu,
            memory_mb=self.memory_mb * conf.overcommit_memory,
            disk_mb=self.disk_mb * conf.overcommit_disk,
            pids=self.pids * conf.overcommit_pids,
        )

    def plus(self, other: "Capacity", sign: int = 1) -> "Capacity":
        return Capacity(
            cpu=self.cpu + sign * other.cpu,
            memory_mb=self.memory_mb + sign * other.memory_mb,
            disk_mb=self.disk_mb + sign * other.disk_mb,
            pids=self.pids + sign * other.pids,
        )

    def within(self, limit: "Capacity") -> str:
        """Empty if this fits into `limit`, else which part does not and by how much."""
        for name in ("cpu", "memory_mb", "disk_mb", "pids"):
            mine, most = getattr(self, name), getattr(limit, name)
            if mine > most + 1e-6:
                return f"{name} {mine:g} of {most:g}"
        return ""


class Ramp:
    """How many creates may run at once: one at first, one more with each success, half after a
    failure; after too many failures in a row none for a while, then one as a probe."""

    def __init__(self, conf: PoolConf) -> None:
        self._conf = conf
        self._allowed = 1
        self._busy = 0
        self._failures = 0
        self._closed_until = Deadline(0.0)
        self._freed = asyncio.Condition()

    @property
    def resting(self) -> bool:
        return not self._closed_until.passed

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        async with self._freed:
            await self._freed.wait_for(lambda: self._busy < self._allowed)
            self._busy += 1
        try:
            await asyncio.sleep(self._closed_until.left_s)
            yield
            self._failures = 0
            self._allowed = min(self._allowed + 1, self._conf.creates_at_once)
        except Exception:
            self._failures += 1
            self._allowed = max(1, self._allowed // 2)
            if self._failures >= self._conf.breaker_failures:
                self._closed_until = Deadline.after(self._conf.breaker_pause_s)
            raise
        finally:
            self._busy -= 1
            async with self._freed:
                self._freed.notify_all()
