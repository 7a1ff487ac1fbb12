"""Removing what ended sandboxes leave: files and control groups, in a process of its own.

Removing is as much work as making. In this process it would hold up those who make; there it uses
another core, and nobody waits for it unless it falls behind.
"""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from rollout.errors import SandboxError
from rollout.sandbox.init.build import binary
from rollout.sandbox.lines import LineProcess

WAITING = 64
"""Removals under way beyond which those who end sandboxes wait."""
BEHIND_WAIT_S = 5.0
"""How long they wait then."""

log = logging.getLogger(__name__)


class Clearer:
    """One process that works in an owner's folder (see init/clear.c)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = LineProcess("the clearer", self._hear, self._all_left)
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._count = 0

    @property
    def alive(self) -> bool:
        return self._process.alive

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def behind(self) -> bool:
        return len(self._waiting) > WAITING

    async def start(self) -> None:
        await self._process.start((await asyncio.to_thread(binary), "clear", self._folder))

    def clear(self, cgroups: Sequence[Path], trees: Sequence[Path]) -> "asyncio.Future[None]":
        """Remove all of it, each if it is there; done when it is tried. What stays is logged, and
        is the next sweep's, since it lies below its owner."""
        self._count += 1
        number = str(self._count)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        fields = [*(f"cgroup={path}" for path in cgroups), *(f"tree={path}" for path in trees)]
        try:
            self._process.send("\t".join((number, *fields)))
        except SandboxError as exc:
            log.warning("left for the next sweep: %s: %s", " ".join(fields), exc)
            done.set_result(None)
        else:
            self._waiting[number] = done
        return done

    async def keep_up(self) -> None:
        """Wait, for a bounded time, where removing has fallen behind ending."""
        if self.behind:
            await asyncio.wait(
                self._waiting.values(), timeout=BEHIND_WAIT_S, return_when=asyncio.FIRST_COMPLETED
            )

    async def close(self, timeout_s: float) -> None:
        """Wait for what is under way, up to `timeout_s`, and end; idempotent."""
        if self._waiting:
            await asyncio.wait(list(self._waiting.values()), timeout=timeout_s)
        await self._process.close()

    def _hear(self, line: str) -> None:
        number, _, text = line.partition("\t")
        if text:
            log.warning("left for the next sweep: %s", text)
        done = self._waiting.pop(number, None)
        if done is not None and not done.done():
            done.set_result(None)

    def _all_left(self) -> None:
        for done in self._waiting.values():
            if not done.done():
                done.set_result(None)
        self._waiting.clear()
