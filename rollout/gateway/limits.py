"""What one worker may use of an endpoint: its part of what the whole run may.

The coordinator tells each worker its part with every heartbeat, and hears there what the worker
may be using. So nobody is asked before a call, and together they keep to what was set; only where
there are more workers than calls allowed, each makes one at a time all the same.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from rollout.config import ModelConf
from rollout.gateway.base import ModelCall, ModelReply, Upstream

WINDOW_S = 10.0
"""Of unused tokens per minute at most so many seconds' worth are saved up."""


class Allowance:
    """Calls wait here, first come, first served."""

    def __init__(
        self,
        *,
        max_concurrent: int | None,
        tokens_per_minute: int | None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Of the whole run; None: without a limit. No call goes before `divide`."""
        self._max_concurrent, self._tokens_per_minute = max_concurrent, tokens_per_minute
        self._clock_s = clock_s
        self._part, self._crowded = 0.0, False
        self._running = 0
        self._turnstile = asyncio.Lock()
        self._news = asyncio.Event()
        self._tokens = math.inf if tokens_per_minute is None else 0.0
        """Below 0: used ahead of time, for what a call takes is known when it is answered."""
        self._at_s = clock_s()

    @property
    def using(self) -> float:
        """The part, of 1, that is in use or may be at any moment."""
        most = self._max_concurrent
        # Where each may make one call whatever its part, calls say nothing of parts.
        running = 0.0 if most is None or self._crowded else self._running / most
        return max(self._part, running)

    def divide(self, part: float, workers: int) -> None:
        """`part`, of 1, is for this one of so many workers."""
        self._refill()
        self._part = part
        self._crowded = self._max_concurrent is not None and workers > self._max_concurrent
        self._tokens = min(self._tokens, self._most_tokens)
        self._news.set()

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """A call runs meanwhile."""
        async with self._turnstile:
            while (wait_s := self._wait_s()) > 0:
                self._news.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if math.isinf(wait_s) else wait_s):
                        await self._news.wait()
            self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._news.set()

    def used(self, tokens: int) -> None:
        """Those of a call that was answered."""
        self._refill()
        self._tokens -= tokens

    def _wait_s(self) -> float:
        """Until something may have changed; 0: the next call may go."""
        if self._running >= self._most_running:
            return math.inf
        self._refill()
        if self._tokens > 0:
            return 0.0
        return max(0.001, -self._tokens / self._tokens_a_second) if self._part > 0 else math.inf

    @property
    def _most_running(self) -> float:
        if self._max_concurrent is None:
            return math.inf
        fair = math.floor(self._max_concurrent * self._part + 1e-9)  # of 6 a third is not 1.99
        return max(1, fair) if self._crowded else fair

    @property
    def _tokens_a_second(self) -> float:
        if self._tokens_per_minute is None:
            return math.inf
        return self._tokens_per_minute / 60 * self._part

    @property
    def _most_tokens(self) -> float:
        return self._tokens_a_second * WINDOW_S

    def _refill(self) -> None:
        now_s = self._clock_s()
        if self._tokens_per_minute is not None:
            gained = (now_s - self._at_s) * self._tokens_a_second
            self._tokens = min(self._tokens + gained, self._most_tokens)
        self._at_s = now_s


class LimitedUpstream:
    """An upstream whose calls wait for their turn."""

    def __init__(self, upstream: Upstream, allowance: Allowance) -> None:
        self._upstream, self._allowance = upstream, allowance

    async def __aenter__(self) -> "LimitedUpstream":
        await self._upstream.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._upstream.__aexit__(*error)

    async def complete(self, call: ModelCall, session_id: str) -> ModelReply:
        async with self._allowance.call():
            reply = await self._upstream.complete(call, session_id)
        self._allowance.used(reply.usage.prompt_tokens + reply.usage.completion_tokens)
        return reply

    def forget(self, session_id: str) -> None:
        self._upstream.forget(session_id)


class Allowances:
    """Of all endpoints of a worker: arms that ask the same one wait in the same line."""

    def __init__(self) -> None:
        self._of: dict[tuple[object, ...], Allowance] = {}
        self._part, self._workers = 0.0, 1

    @property
    def using(self) -> float:
        """Of the one that has most in use; safe from another thread."""
        used = [allowance.using for allowance in tuple(self._of.values())]
        return max(used, default=self._part)

    def divide(self, part: float, workers: int) -> None:
        self._part, self._workers = part, workers
        for allowance in self._of.values():
            allowance.divide(part, workers)

    def limited(self, upstream: Upstream, conf: ModelConf) -> Upstream:
        """`upstream` itself where its config sets no limit."""
        limits = (conf.max_concurrent, conf.tokens_per_minute)
        if limits == (None, None):
            return upstream
        # Without `urls` it is Anthropic's one address; of other kinds the name tells where.
        unnamed = [] if conf.kind == "anthropic" else [conf.name]
        where = sorted(conf.urls) or unnamed
        key = (conf.kind, *where, *limits)
        if key not in self._of:
            self._of[key] = Allowance(
                max_concurrent=conf.max_concurrent, tokens_per_minute=conf.tokens_per_minute
            )
            self._of[key].divide(self._part, self._workers)
        return LimitedUpstream(upstream, self._of[key])
