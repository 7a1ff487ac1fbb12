"""Holding a container still: for a moment, to take its files, or until it is told to go on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from rollout.aio import shielded


class Stillness:
    """Its processes stand still while it is suspended or anybody needs them to."""

    def __init__(
        self, pause: Callable[[], Awaitable[None]], unpause: Callable[[], Awaitable[None]]
    ) -> None:
        self._pause = pause
        self._unpause = unpause
        self._moments = 0
        self._still = False
        self._over = False
        self._settling = asyncio.Lock()
        self.suspended = False

    async def suspend(self) -> None:
        """Returns once nothing runs."""
        was, self.suspended = self.suspended, True
        try:
            await shielded(self._settle())
        except BaseException:
            self.suspended = was
            raise

    async def resume(self) -> None:
        self.suspended = False
        await shielded(self._settle())

    @asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """Nothing runs in this block; afterwards it goes on, unless it is suspended."""
        self._moments += 1
        try:
            await shielded(self._settle())
            yield
        finally:
            self._moments -= 1
            await shielded(self._settle())

    def ended(self) -> None:
        """There is nothing more to hold still, and nothing to be told to go on."""
        self._over = True

    async def _settle(self) -> None:
        async with self._settling:
            wanted = self.suspended or self._moments > 0
            if wanted == self._still or self._over:
                return
            await (self._pause() if wanted else self._unpause())
            self._still = wanted
