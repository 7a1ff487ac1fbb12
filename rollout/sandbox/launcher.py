"""The asyncio side of the launcher: one process, a line each way for each request.

The protocol is told in init/launch.c. When the launcher dies, so do all its sandboxes.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rollout.errors import SandboxError, SandboxLost
from rollout.sandbox.init.build import binary
from rollout.sandbox.lines import END_TIMEOUT_S, LineProcess

START_TIMEOUT_S = 30.0

T = TypeVar("T")

log = logging.getLogger(__name__)


class NoVolume(SandboxError):
    """This machine cannot have a volume; the text says what it lacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """A sandbox whose init is up."""

    pid: int
    """Of its init, as the host sees it."""
    scratch: Path | None
    """Where the host finds its tmpfs, if it has one."""
    ended: "asyncio.Future[int | None]"
    """Its wait status; None if the launcher died and took it along."""


class Launcher:
    """One launcher process that works in `folder` (see init/mounts.c for what stands there)."""

    def __init__(
        self,
        folder: Path,
        keep_mounted: Sequence[Path],
        dropped: Callable[[str, str], None] = lambda name, why: None,
    ) -> None:
        """`dropped` is told of each room that will never be used, and why it could not be made, if
        that is the reason."""
        self._folder = folder
        self._dropped = dropped
        self._keep_mounted = keep_mounted
        self._process = LineProcess("the launcher", self._hear, self._all_lost)
        self._ready: asyncio.Future[str] | None = None
        self._mounting: asyncio.Future[Path] | None = None
        self._creating: dict[str, asyncio.Future[tuple[int, int]]] = {}
        self._living: dict[str, asyncio.Future[int | None]] = {}
        self._asked: set[str] = set()
        """Those of them that were told to end."""
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        """Who waits for the end of one; each may give up without touching `_living`."""
        self._holding: dict[str, asyncio.Future[None]] = {}

    @property
    def alive(self) -> bool:
        return self._process.alive

    @property
    def pid(self) -> int:
        return self._process.pid

    async def start(self) -> None:
        """SandboxError with what the launcher could not do."""
        program = await asyncio.to_thread(binary)
        self._ready = asyncio.get_running_loop().create_future()
        await self._process.start((program, "launch", self._folder, *self._keep_mounted))
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                first = await self._ready
        except TimeoutError:
            first = f"no answer within {START_TIMEOUT_S:g} s"
        self._ready = None
        if first != "ready":
            await self._process.close()
            raise SandboxError(f"the launcher cannot start: {first.split(chr(9))[-1]}")

    async def create(self, sandbox: str, fields: Sequence[tuple[str, str]]) -> Launched:
        """Returns once the init is up. On cancellation the sandbox may be there: `kill` it."""
        request = "\t".join(("create", sandbox, *(f"{key}={value}" for key, value in fields)))
        if "\n" in request or request.count("\t") != len(fields) + 1:
            raise SandboxError(f"sandbox {sandbox}: a path holds a tab or a newline: {fields!r}")
        created = asyncio.get_running_loop().create_future()
        ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._creating[sandbox] = created
        self._living[sandbox] = ended
        self._process.send(request)
        pid, scratch = await created
        path = Path(f"/proc/{self.pid}/fd/{scratch}") if scratch >= 0 else None
        return Launched(pid=pid, scratch=path, ended=ended)

    def order(self, room: str, fields: Sequence[tuple[str, str]]) -> None:
        """Make a room ahead (see init/rooms.c), for a `create` with the field `room`."""
        self._process.send("\t".join(("room", room, *(f"{key}={value}" for key, value in fields))))

    def drop(self, room: str) -> None:
        """Have it no more, and then say so by `dropped`."""
        self._process.send(f"drop\t{room}")

    async def mount_volume(self, image: Path) -> Path:
        """Mount a btrfs image in place of the one before; where the host finds its top folder."""
        self._mounting = asyncio.get_running_loop().create_future()
        self._process.send(f"volume\t{image}")
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                return await self._mounting
        except TimeoutError as exc:
            raise SandboxError(f"{image} was not mounted in {START_TIMEOUT_S:g} s") from exc

    def drop_volume(self) -> None:
        """Have none; what stands on it keeps it until it ends."""
        if self.alive:
            self._process.send("volume\t-")

    async def kill(self, sandbox: str, *, unmount: bool = False) -> None:
        """Returns once its init and all below it are gone; fine if they are already.

        Its mounts go a moment later, unless `unmount` waits for them: its files may then be moved.
        """
        if sandbox not in self._living:
            return
        if unmount:
            self._process.send(f"unmount\t{sandbox}")
        elif sandbox not in self._asked:
            self._process.send(f"kill\t{sandbox}")
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(sandbox, []).append(gone)
        async with asyncio.timeout(END_TIMEOUT_S):
            await gone

    def ask_to_end(self, sandbox: str) -> None:
        """Kill it, for a `kill` that is to wait for its end."""
        if self.alive and sandbox in self._living:
            self._process.send(f"kill\t{sandbox}")
            self._asked.add(sandbox)

    def hold(self, sandbox: str, still: bool) -> "asyncio.Future[None]":
        """Stop all of its processes, or let them go on; done once they have been signaled."""
        signaled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._holding[sandbox] = signaled
        self._process.send(f"{'stop' if still else 'continue'}\t{sandbox}")
        return signaled

    def forget(self, sandbox: str) -> None:
        """Let the scratch of an ended sandbox go."""
        if self.alive:
            self._process.send(f"forget\t{sandbox}")

    async def close(self) -> None:
        """End the launcher and all its sandboxes; idempotent."""
        await self._process.close()

    def _hear(self, line: str) -> None:
        if self._ready is not None:
            _settle(self._ready, line)
            return
        match line.split("\t"):
            case ["ok", sandbox, pid, scratch]:
                _settle(self._creating.pop(sandbox), (int(pid), int(scratch)))
            case ["volume", fd, text] if self._mounting is not None:
                if text and not self._mounting.done():
                    self._mounting.set_exception(NoVolume(text))
                else:
                    _settle(self._mounting, Path(f"/proc/{self.pid}/fd/{fd}"))
            case ["exited", sandbox, status]:
                self._ended(sandbox, int(status))
            case ["dropped", room, why]:
                self._dropped(room, why)
            case ["signaled", sandbox, trouble]:
                if trouble:
                    log.warning("sandbox %s: %s", sandbox, trouble)
                if signaled := self._holding.pop(sandbox, None):
                    _settle(signaled, None)
            case ["error", sandbox, text] if sandbox in self._creating:
                created = self._creating.pop(sandbox)
                self._ended(sandbox, None)
                if not created.done():
                    created.set_exception(
                        SandboxError(f"sandbox {sandbox} could not be made: {text}")
                    )
            case _:
                log.warning("the launcher said %r, which is no reply to anything", line)

    def _all_lost(self) -> None:
        if self._ready is not None:
            _settle(self._ready, "it ended at once")
        if self._mounting is not None and not self._mounting.done():
            self._mounting.set_exception(SandboxLost("the launcher has died"))
        for sandbox, created in self._creating.items():
            if not created.done():
                created.set_exception(SandboxLost(f"sandbox {sandbox}: the launcher has died"))
        for sandbox in list(self._living):
            self._ended(sandbox, None)
        self._creating.clear()

    def _ended(self, sandbox: str, status: int | None) -> None:
        _settle(self._living.pop(sandbox), status)
        self._asked.discard(sandbox)
        for gone in self._waiting.pop(sandbox, ()):
            _settle(gone, None)


def _settle(future: "asyncio.Future[T]", value: T) -> None:
    """Unless the one who waited has given up."""
    if not future.done():
        future.set_result(value)


def describe_status(status: int | None) -> str:
    """How an init ended, in words."""
    if status is None:
        return "the launcher died and took it along"
    if os.WIFSIGNALED(status):
        return f"its init was killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"its init ended with code {os.waitstatus_to_exitcode(status)}"
