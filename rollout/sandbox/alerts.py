"""Word of sandboxes that come near a limit: at 80 and at 90 percent, each told once.

Looking costs a few reads of the kernel's own files. It is done in a thread, a few sandboxes at a
time with pauses between, so that with thousands of them it is a small part of one core and the
event loop is never held up.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime

from rollout.sandbox.base import ALERT_LEVELS, ResourceAlert
from rollout.sandbox.controllers import MIB, Limit, Use

ROUND_S = 2.0
"""The least time between two looks at one sandbox."""
BATCH = 50
BATCH_PAUSE_S = 0.05
"""With the batch, a thousand sandboxes a second at most."""
CORE_SHARE = 0.05
"""Of one core, which the event loop shares: with 6,000 alive, a look at each takes 0.6 s of it."""

log = logging.getLogger(__name__)

DiskUsage = Callable[[], tuple[int, int] | None]
"""Bytes used and allowed; None where disk is not limited."""


class Alerts:
    """Of one sandbox. `look` may be called from any thread."""

    def __init__(self, limits: Sequence[Limit], disk: DiskUsage) -> None:
        self._limits = limits
        self._disk = disk
        self._levels: dict[str, int] = {}
        self._lock = threading.Lock()
        self.told: tuple[ResourceAlert, ...] = ()

    def look(self) -> None:
        """Blocks for about 20 µs a limit; the kernel's files may be gone by now."""
        with self._lock:
            for limit in self._limits:
                if self._levels.get(limit.name, 0) < max(ALERT_LEVELS):
                    self._weigh(limit.name, limit.use())
            if self._levels.get("disk", 0) < max(ALERT_LEVELS) and (held := self._disk()):
                used, allowed = held
                text = f"{used // MIB} of {allowed // MIB} MiB"
                self._weigh("disk", Use(used / max(1, allowed), text))

    def _weigh(self, resource: str, use: Use | None) -> None:
        if use is None:
            return
        level = next((level for level in ALERT_LEVELS if use.share * 100 >= level), 0)
        if level <= self._levels.get(resource, 0):
            return
        self._levels[resource] = level
        detail = f"{resource} at {use.share:.0%}: {use.text}"
        at = datetime.now(UTC)
        alert = ResourceAlert(at=at, resource=resource, level=level, detail=detail)
        self.told = (*self.told, alert)


async def keep_looking(live: Callable[[], Sequence[Alerts]], threads: Executor) -> None:
    """Look at all of `live` in turn, for ever."""
    loop = asyncio.get_running_loop()
    while True:
        begun = loop.time()
        alerts = live()
        for first in range(0, len(alerts), BATCH):
            batch = alerts[first : first + BATCH]
            spent_s = await loop.run_in_executor(threads, _look_at, batch)
            await asyncio.sleep(max(BATCH_PAUSE_S, spent_s / CORE_SHARE))
        await asyncio.sleep(max(0.0, begun + ROUND_S - loop.time()))


def _look_at(batch: Sequence[Alerts]) -> float:
    """Seconds of processor time that it took."""
    begun_s = time.thread_time()
    for alerts in batch:
        try:
            alerts.look()
        except (OSError, ValueError) as exc:
            log.warning("a sandbox's use of its limits cannot be read: %s", exc)
    return time.thread_time() - begun_s
