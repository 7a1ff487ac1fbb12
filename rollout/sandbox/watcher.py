"""The last line against sandboxes that take the whole machine's memory.

Where each has a control group of its own, none can take more than its limit, but all of them
together can, for limits may be given out more than once. So the watcher looks at what the machine
has left. Below the reserve it ends the largest sandbox that is over its own limit, which is that
sandbox's doing; below half of it the largest at all, which is ours. A hog takes gigabytes a second
and may be faster: then the kernel chooses, and it takes processes of sandboxes before any other.
"""

import asyncio
import fcntl
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rollout.sandbox.alerts import Alerts, keep_looking
from rollout.sandbox.controllers import MIB, read_text

LOOK_S = 1.0
NEAR_LOOK_S = 0.1
NEAR = 4
"""With less than this many reserves left it looks more often."""
SETTLE_S = 0.5
"""How long the kernel is given to take back what an ended sandbox held."""
SCAN_SHARE = 0.1
"""Of the time, at most, goes into scans while memory stays low and there is nobody to end."""
CLOSER_LOOK = 8
"""Largest sandboxes whose shared pages are told apart."""
CLOSER_LOOK_TIMEOUT_S = 2.0
THREADS = 2
"""Its own, for a watcher may not wait for the work that it is to save the machine from."""
LEAST_MB = 16
"""Ending a sandbox that holds less helps nobody."""
TURN = Path("/run/rollout/watcher.lock")
"""Who ends a sandbox for the machine's sake: one worker of the machine at a time."""

log = logging.getLogger(__name__)


class Watched(Protocol):
    """A sandbox, as the watcher sees it."""

    @property
    def id(self) -> str: ...

    @property
    def memory_mb(self) -> int | None:
        """Its limit."""

    @property
    def usage_alerts(self) -> Alerts | None:
        """None where nothing of it is limited."""

    def held_bytes(self, *, closer: bool = False) -> int:
        """Memory that would be free without it. Blocks: microseconds, or with `closer`, which
        counts shared pages once, milliseconds and for as long as its processes are stuck."""

    def end_for_memory(self, reason: str, *, own_fault: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Held:
    box: Watched
    bytes: int

    @property
    def is_over(self) -> bool:
        limit_mb = self.box.memory_mb
        return limit_mb is not None and self.bytes > limit_mb * MIB


def choose(held: Sequence[Held], *, left_mb: int, reserve_mb: int) -> Held | None:
    """Whom to end, if anybody."""
    worth = [one for one in held if one.bytes >= LEAST_MB * MIB]
    over = [one for one in worth if one.is_over]
    candidates = over or (worth if left_mb < reserve_mb / 2 else [])
    return max(candidates, key=lambda one: one.bytes, default=None)


class Watcher:
    """One for each engine; belongs to its event loop."""

    def __init__(
        self,
        live: Callable[[], Sequence[Watched]],
        *,
        reserve_mb: int,
        meminfo: Path = Path("/proc/meminfo"),
    ) -> None:
        self._live = live
        self._reserve_mb = reserve_mb
        self._meminfo = meminfo
        self._threads: ThreadPoolExecutor | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="rollout-watch")
        guard, look = self._guard(), keep_looking(self._limited, self._threads)
        self._tasks = [asyncio.create_task(guard), asyncio.create_task(look)]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _limited(self) -> list[Alerts]:
        return [alerts for box in self._live() if (alerts := box.usage_alerts) is not None]

    # ---------------------------------------------------------------- memory of the machine

    async def _guard(self) -> None:
        while True:
            pause_s = LOOK_S
            try:
                left_mb = self._left_mb()
                if left_mb < self._reserve_mb:
                    pause_s = await self._relieve(left_mb)
                elif left_mb < NEAR * self._reserve_mb:
                    pause_s = NEAR_LOOK_S
            except (OSError, ValueError) as exc:
                log.warning("the machine's memory cannot be watched: %s", exc)
            await asyncio.sleep(pause_s)

    def _left_mb(self) -> int:
        for line in read_text(self._meminfo).splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) // 1024
        raise ValueError(f"{self._meminfo} has no MemAvailable")

    async def _relieve(self, left_mb: int) -> float:
        """End a sandbox if that helps; how long to wait until the next look."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        held = await self._scan(list(self._live()))
        chosen = choose(held, left_mb=left_mb, reserve_mb=self._reserve_mb)
        if chosen is None:
            return max(NEAR_LOOK_S, (loop.time() - begun) / SCAN_SHARE)
        turn = None
        if not chosen.is_over and (turn := _take_turn()) is None:
            return SETTLE_S
        try:
            self._end(chosen, left_mb)
            await asyncio.sleep(SETTLE_S)
        finally:
            if turn is not None:
                os.close(turn)
        return 0.0

    async def _scan(self, boxes: Sequence[Watched]) -> list[Held]:
        loop = asyncio.get_running_loop()
        held = await loop.run_in_executor(self._threads, _weigh, boxes)
        held.sort(key=lambda one: -one.bytes)
        largest = [one.box for one in held[:CLOSER_LOOK] if one.bytes >= LEAST_MB * MIB]
        closer = loop.run_in_executor(self._threads, _weigh_closer, largest)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSER_LOOK_TIMEOUT_S):
                return await closer + held[len(largest) :]
        return held

    def _end(self, chosen: Held, left_mb: int) -> None:
        limit_mb, mb = chosen.box.memory_mb, chosen.bytes // MIB
        reason = (
            f"ended by the watcher: the machine had {left_mb} MiB left "
            f"(engine.memory_reserve_mb={self._reserve_mb}); it held {mb} MiB"
            f"{f' of its {limit_mb} MiB' if limit_mb is not None else ' and has no limit'}"
        )
        log.warning("sandbox %s: %s", chosen.box.id, reason)
        chosen.box.end_for_memory(reason, own_fault=chosen.is_over)


def _weigh(boxes: Sequence[Watched]) -> list[Held]:
    return [Held(box, box.held_bytes()) for box in boxes]


def _weigh_closer(boxes: Sequence[Watched]) -> list[Held]:
    return [Held(box, box.held_bytes(closer=True)) for box in boxes]


def _take_turn() -> int | None:
    TURN.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(TURN, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle
