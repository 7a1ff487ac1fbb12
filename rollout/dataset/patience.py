"""How long a store that fails is asked again before rows are given up."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from rollout.errors import Fenced, StoreError

T = TypeVar("T")

RETRY_S = 120.0
PAUSE_S = 0.1
"""Before the second try; doubled with each further one, with jitter, up to the longest."""
LONGEST_PAUSE_S = 5.0


async def patiently(doing: str, call: Callable[[], Awaitable[T]], retry_s: float = RETRY_S) -> T:
    """Try again with growing pauses until `retry_s` is over; being fenced is final."""
    give_up_s, pause_s, tries = time.monotonic() + retry_s, PAUSE_S, 0
    while True:
        tries += 1
        try:
            return await call()
        except Fenced:
            raise
        except StoreError as exc:
            if time.monotonic() + pause_s > give_up_s:
                raise StoreError(f"{doing}: gave up after {tries} tries: {exc}") from exc
        await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
