"""Holding a sandbox still: for a moment, to copy its files, or until it is told to go on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from rollout.aio import Deadline
from rollout.errors import SandboxError, SandboxLost
from rollout.sandbox.cgroups import CgroupPlan

FREEZE_TIMEOUT_S = 10.0
_LOOK_AGAIN_S = 0.0005


class Freezer:
    """One sandbox's processes stand still while it is suspended or anybody needs them to."""

    def __init__(self, plan: CgroupPlan, ended: "asyncio.Future[int | None]") -> None:
        self._plan = plan
        self._ended = ended
        self._moments = 0
        self.suspended = False

    async def suspend(self) -> None:
        """Returns once nothing runs."""
        was, self.suspended = self.suspended, True
        try:
            await self._freeze()
        except BaseException:
            if not was:
                self.resume()
            raise

    def resume(self) -> None:
        self.suspended = False
        self._thaw()

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Nothing runs in this block; afterwards it goes on, unless it is suspended."""
        self._moments += 1
        try:
            await self._freeze()
            yield
        finally:
            self._moments -= 1
            self._thaw()

    @property
    def _wanted(self) -> bool:
        return self.suspended or self._moments > 0

    async def _freeze(self) -> None:
        """SandboxLost if it ends first. Returns too if it is resumed meanwhile."""
        self._control(lambda: self._plan.freeze(True))
        deadline = Deadline.after(FREEZE_TIMEOUT_S)
        while self._wanted and not self._plan.frozen:
            if self._ended.done():
                raise SandboxLost("it ended before it could be frozen")
            if deadline.passed:
                raise SandboxError(f"not frozen within {FREEZE_TIMEOUT_S:g} s")
            await asyncio.sleep(_LOOK_AGAIN_S)

    def _thaw(self) -> None:
        if not self._wanted and not self._ended.done():
            self._control(lambda: self._plan.freeze(False))

    def _control(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as exc:
            raise SandboxLost(f"its control group is gone: {exc}") from exc
