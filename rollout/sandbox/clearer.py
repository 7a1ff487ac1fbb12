"""Removing what ended sandboxes leave: files and control groups, in a process of its own.

Removing is as much work as making. In this process it would hold up those who make; there it uses
another core, and nobody waits for it unless it falls behind.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from rollout.sandbox.init.build import binary
from rollout.sandbox.lines import LineProcess

WAITING = 64
"""Removals under way beyond which those who end sandboxes wait."""
BEHIND_WAIT_S = 5.0
"""How long they wait then."""

log = logging.getLogger(__name__)


class Clearer:
    """One process that works in an owner's folder (see init/clear.c)."""

    def __init__(self, folder: Path, on_end: Callable[[], None]) -> None:
        """`on_end` is called when it has ended, as it was told to or not."""
        self._folder = folder
        self._process = LineProcess("the clearer", self._hear, on_end)
        self._waiting: dict[str, tuple[str, asyncio.Future[None]]] = {}
        self._count = 0

    @property
    def alive(self) -> bool:
        return self._process.alive

    @property
    def is_behind(self) -> bool:
        """Whether something is still to be removed."""
        return bool(self._waiting)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def start(self) -> None:
        """Also again, if it has died: what it had not done is asked of the new one."""
        await self._process.close()
        await self._process.start((await asyncio.to_thread(binary), "clear", self._folder))
        for line, _ in self._waiting.values():
            self._process.send(line)

    def clear(
        self,
        cgroups: Sequence[Path],
        trees: Sequence[Path],
        subvolumes: Sequence[Path] = (),
        *,
        batch: Path | None = None,
    ) -> "asyncio.Future[None]":
        """Remove all of it, each if it is there; done when it is tried. What stays is logged, and
        is the next sweep's, since it lies below its owner. `batch`: see `memory_groups.Batches`."""
        self._count += 1
        number = str(self._count)
        fields = [
            *(f"tree={path}" for path in trees),
            *(f"subvolume={path}" for path in subvolumes),
        ]
        # Last, for what memory is charged for goes with the files.
        fields += [f"cgroup={path}" for path in cgroups]
        fields += [f"batch={batch}"] if batch is not None else []
        line = "\t".join((number, *fields))
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (line, done)
        if self.alive:
            self._process.send(line)
        return done

    async def keep_up(self) -> None:
        """Wait, for a bounded time, where removing has fallen behind ending."""
        if len(self._waiting) > WAITING:
            _, oldest = next(iter(self._waiting.values()))
            await asyncio.wait({oldest}, timeout=BEHIND_WAIT_S)

    async def close(self, timeout_s: float) -> None:
        """Wait for what is under way, up to `timeout_s`, and end; idempotent."""
        if self._waiting and self.alive:
            await asyncio.wait([done for _, done in self._waiting.values()], timeout=timeout_s)
        await self._process.close()

    def _hear(self, line: str) -> None:
        number, _, text = line.partition("\t")
        if text:
            log.warning("left for the next sweep: %s", text)
        _, done = self._waiting.pop(number, ("", None))
        if done is not None and not done.done():
            done.set_result(None)
