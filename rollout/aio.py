"""Small asyncio pieces several layers need: deadlines, and cleanup that survives cancellation."""

import asyncio
import gc
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock, made once and handed down, so stages share one budget."""

    at_s: float
    """Seconds on `time.monotonic()`."""

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        return cls(time.monotonic() + seconds)

    @property
    def left_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.at_s - time.monotonic())

    @property
    def passed(self) -> bool:
        return self.left_s == 0.0

    def sooner(self, seconds: float) -> "Deadline":
        """The nearer of this deadline and `seconds` from now."""
        return Deadline(min(self.at_s, time.monotonic() + seconds))


async def shielded(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end even if the caller is cancelled meanwhile; then let the cancel out.

    For releases only: what it runs must bound its own time.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                continue
        raise


def collect_rarely() -> None:
    """For a process whose one loop serves thousands: garbage is mostly freed by its count.

    With Python's own thresholds, a search through all that a thousand rollouts hold stops the loop
    for 20 ms and more, so often that one model call in a hundred meets it. What is loaded by now is
    left out of it for good.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
