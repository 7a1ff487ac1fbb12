"""What the engine lends one sandbox: calls of the daemon about its container."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from rollout.sandbox.base import Image
from rollout.sandbox.docker.calls import Calls
from rollout.sandbox.docker.daemon import Daemon

END_LOOKS = 20
END_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class HowItEnded:
    """As the daemon saw it."""

    exit_code: int
    out_of_memory: bool
    """Some process of it was killed for its memory limit."""


class Keep(Protocol):
    """Makes an image of the container's files, on top of the one it stands on."""

    def __call__(self, below: Image, absent: tuple[str, ...]) -> Coroutine[Any, Any, Image]: ...


class End(Protocol):
    """Removes all of it; never raises."""

    def __call__(self) -> Coroutine[Any, Any, None]: ...


@dataclass(frozen=True, slots=True)
class Means:
    daemon: Daemon
    calls: Calls
    container: str
    keep: Keep
    end: End

    async def pause(self) -> None:
        await self.calls.again(lambda: self.daemon.pause(self.container))

    async def unpause(self) -> None:
        await self.calls.again(lambda: self.daemon.unpause(self.container))

    async def kill(self) -> None:
        await self.calls.again(lambda: self.daemon.kill(self.container))

    async def how_it_ended(self) -> HowItEnded | None:
        """None if the daemon does not hear of its end within a second."""
        for _ in range(END_LOOKS):
            about = await self.calls.again(lambda: self.daemon.inspect(self.container))
            state = about["State"]
            if not state["Running"]:
                return HowItEnded(int(state["ExitCode"]), bool(state["OOMKilled"]))
            await asyncio.sleep(END_LOOK_S)
        return None
