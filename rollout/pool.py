"""Warm sandboxes of one worker, and the right to have one at all.

Two rules hold whatever happens: a request gets a sandbox made to exactly its spec (the shelf is
the spec's fingerprint), and the summed demand of everything alive (claimed, warm, being made or
being ended) stays within the machine times a configured overcommit. Nothing polls: claims,
releases and new expectations wake the refill.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from rollout.aio import shielded
from rollout.capacity import Capacity as Capacity
from rollout.capacity import Ramp
from rollout.config import PoolConf
from rollout.errors import BuildError, SandboxError
from rollout.sandbox.base import Engine, Objects, Sandbox, SandboxSpec
from rollout.sandbox.launching import launch


@dataclass(slots=True)
class _Shelf:
    """Spares of one fingerprint."""

    spec: SandboxSpec
    ready: deque[Sandbox] = field(default_factory=deque)
    creating: int = 0
    expected: int = 0
    """Claims still to come, as far as the plan tells."""


class WarmPool:
    """Hands out sandboxes: a warm one where the spec has one ready, a cold one otherwise."""

    def __init__(
        self,
        engine: Engine,
        conf: PoolConf,
        capacity: Capacity,
        *,
        objects: Objects | None = None,
    ) -> None:
        self._engine = engine
        self._objects = objects
        self._conf = conf
        self._limit = capacity.overcommitted(conf)
        self._used = Capacity()
        self._live = 0
        self._shelves: dict[str, _Shelf] = {}
        self._claimed: dict[str, Sandbox] = {}
        self._closing = 0
        self._leaving: list[Capacity] = []
        self._ramp = Ramp(conf)
        self._waiting: deque[tuple[Capacity, asyncio.Future[None]]] = deque()
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def start(self) -> None:
        self._spawn(self._refill())

    async def close(self) -> None:
        """End every sandbox, claimed ones too; idempotent."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        spares = [box for shelf in self._shelves.values() for box in shelf.ready]
        self._shelves.clear()
        await asyncio.gather(*(box.close() for box in [*spares, *self._claimed.values()]))
        self._claimed.clear()

    def expect(self, wanted: Sequence[tuple[SandboxSpec, int]]) -> None:
        """What will be claimed next, most urgent first; replaces what was said before."""
        for shelf in self._shelves.values():
            shelf.expected = 0
        for spec, count in wanted:
            self._shelf(spec).expected += count
        self._wake.set()

    def counts(self) -> dict[str, float]:
        return {
            "warm": sum(len(shelf.ready) for shelf in self._shelves.values()),
            "claimed": len(self._claimed),
            "creating": sum(shelf.creating for shelf in self._shelves.values()),
            "closing": self._closing,
        }

    async def claim(self, spec: SandboxSpec, *, timeout_s: float) -> Sandbox:
        """A ready sandbox made to `spec`, for the caller to `release`.

        Waits its turn, for as long as it takes, while the machine is full; `timeout_s` is for
        the making alone. SandboxError when it can never fit or making it failed or took longer.
        """
        shelf = self._shelf(spec)
        shelf.expected = max(0, shelf.expected - 1)
        if shelf.ready:
            sandbox = shelf.ready.popleft()
        else:
            sandbox = await self._create_cold(shelf, timeout_s)
        self._claimed[sandbox.id] = sandbox
        self._wake.set()
        return sandbox

    async def release(self, sandbox: Sandbox) -> None:
        """End a claimed sandbox and give its share of the machine to whoever waits."""
        if self._claimed.pop(sandbox.id, None) is not None:
            await self._end(sandbox)

    # ---------------------------------------------------------------- making and ending

    async def _create_cold(self, shelf: _Shelf, timeout_s: float) -> Sandbox:
        await self._admit(shelf.spec)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._create(shelf)
        except TimeoutError:
            raise SandboxError(
                f"no sandbox of image {shelf.spec.image.digest[:12]} was made within "
                f"{timeout_s:g} s (timeouts.create_s); {self._live} are alive on this worker"
            ) from None

    async def _create(self, shelf: _Shelf) -> Sandbox:
        """Make one sandbox whose share of the machine is already taken."""
        shelf.creating += 1
        try:
            async with self._ramp.slot():
                sandbox = await self._engine.create(shelf.spec)
            try:
                await launch(sandbox, self._objects)
            except BaseException:
                await shielded(sandbox.close())
                raise
            return sandbox
        except BaseException:
            self._give_back(shelf.spec)
            raise
        finally:
            shelf.creating -= 1

    async def _end(self, sandbox: Sandbox, *, leaving: bool = False) -> None:
        self._closing += 1
        try:
            await shielded(sandbox.close())
        finally:
            self._closing -= 1
            if leaving:
                self._leaving.remove(Capacity.wanted_by(sandbox.spec))
            self._give_back(sandbox.spec)

    # ---------------------------------------------------------------- admission

    def _fits(self, need: Capacity, *, leaving: bool = False) -> bool:
        """Whether there is room now, or with `leaving` once the evicted spares are gone."""
        used, live = self._used.plus(need), self._live
        for freed in self._leaving if leaving else ():
            used, live = used.plus(freed, sign=-1), live - 1
        return live < self._conf.max_sandboxes and not used.within(self._limit)

    def _take(self, need: Capacity) -> None:
        self._used = self._used.plus(need)
        self._live += 1

    def _give_back(self, spec: SandboxSpec) -> None:
        self._used = self._used.plus(Capacity.wanted_by(spec), sign=-1)
        self._live -= 1
        self._admit_waiting()
        self._wake.set()

    async def _admit(self, spec: SandboxSpec) -> None:
        """Take the spec's share of the machine, in the order of asking."""
        need = Capacity.wanted_by(spec)
        if too_much := need.within(self._limit):
            raise SandboxError(
                f"a sandbox asks for {too_much} that this worker may ever give; lower the task's "
                "resources or raise pool.overcommit_*"
            )
        if not self._waiting and self._fits(need):
            self._take(need)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((need, turn))
        self._evict_spares()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(spec)
            else:
                self._waiting = deque(entry for entry in self._waiting if entry[1] is not turn)
                self._admit_waiting()
            raise

    def _admit_waiting(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            need, turn = self._waiting.popleft()
            if not turn.done():
                self._take(need)
                turn.set_result(None)
        self._evict_spares()

    def _evict_spares(self) -> None:
        """Somebody waits for room: spares give way, the least expected first, but no more of
        them than the first in line needs beyond those that are already on their way out."""
        shelves = sorted(self._shelves.values(), key=lambda shelf: shelf.expected)
        spares = [(shelf, shelf.spec) for shelf in shelves for _ in shelf.ready]
        while self._waiting and spares and not self._fits(self._waiting[0][0], leaving=True):
            shelf, spec = spares.pop(0)
            self._leaving.append(Capacity.wanted_by(spec))
            self._spawn(self._end(shelf.ready.pop(), leaving=True))

    # ---------------------------------------------------------------- warm spares

    def _shelf(self, spec: SandboxSpec) -> _Shelf:
        return self._shelves.setdefault(spec.fingerprint, _Shelf(spec))

    async def _refill(self) -> None:
        while not self._closed:
            await self._wake.wait()
            self._wake.clear()
            self._clear_shelves()
            for shelf in list(self._shelves.values()):
                while self._wants_spare(shelf):
                    self._take(Capacity.wanted_by(shelf.spec))
                    self._spawn(self._make_spare(shelf))
                    await asyncio.sleep(0)

    def _wants_spare(self, shelf: _Shelf) -> bool:
        have = len(shelf.ready) + shelf.creating
        spares = sum(len(other.ready) + other.creating for other in self._shelves.values())
        return (
            have < min(shelf.expected, self._conf.spares_per_image)
            and spares < self._conf.max_spares
            and not self._waiting
            and not self._ramp.resting
            and self._fits(Capacity.wanted_by(shelf.spec))
        )

    async def _make_spare(self, shelf: _Shelf) -> None:
        try:
            sandbox = await self._create(shelf)
        except (BuildError, SandboxError):
            return  # The ramp has counted it; whoever claims this spec meets the error itself.
        if shelf.spec.fingerprint in self._shelves:
            shelf.ready.append(sandbox)
            self._evict_spares()
        else:
            await self._end(sandbox)

    def _clear_shelves(self) -> None:
        """Spares that nobody expects any more go, and with them empty shelves."""
        for fingerprint, shelf in list(self._shelves.items()):
            while len(shelf.ready) > shelf.expected:
                self._spawn(self._end(shelf.ready.pop()))
            if not (shelf.ready or shelf.creating or shelf.expected):
                del self._shelves[fingerprint]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
