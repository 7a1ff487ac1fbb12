"""Runs a plan with worker processes on this machine, the coordinator in this one's event loop."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import count

from rollout.errors import ConfigError, RolloutError
from rollout.executor.base import Progress, RunPlan
from rollout.executor.coordinator import RunCoordinator
from rollout.executor.local_worker import EXIT_CONFIG, EXIT_DRAINED
from rollout.executor.process import WorkerProcess
from rollout.gateway.policy import Policy
from rollout.types import RolloutSpec

PROGRESS_S = 0.5

RESTARTS = 3
"""Of each worker, in all of one start."""

END_GRACE_S = 30.0
"""For workers to close what they have, before they are killed."""


class LocalExecutor:
    """Implements `executor.base.Executor`; needs nothing but this machine."""

    dashboard_url: str | None = None
    dashboard_hint: str = ""

    def __init__(self) -> None:
        self._coordinator: RunCoordinator | None = None
        self._draining = False
        self._stopping = False

    async def run(self, plan: RunPlan) -> AsyncIterator[Progress]:
        async with AsyncExitStack() as stack:
            coordinator = self._coordinator = await RunCoordinator.begin(plan)
            stack.push_async_callback(coordinator.close)
            self._pass_on_wishes()
            crew = _Crew(plan, coordinator)
            stack.push_async_callback(crew.end)
            crew.start()
            while not await coordinator.wait_ended(PROGRESS_S):
                yield coordinator.progress()
            crew.raise_if_useless()
        yield coordinator.progress()

    async def extend(self, specs: Sequence[RolloutSpec]) -> None:
        await self._begun.extend(specs)

    async def seal(self) -> None:
        self._begun.seal()

    async def set_policy(self, policy: Policy) -> None:
        self._begun.set_policy(policy)

    async def wait_committed(self, count: int, timeout_s: float) -> int:
        return await self._begun.wait_committed(count, timeout_s)

    def first_hand(self, path: str) -> None:
        """Nothing: processes of one machine share no store of objects but the dataset's."""
        return

    @property
    def _begun(self) -> RunCoordinator:
        if self._coordinator is None:
            raise RolloutError("the run has not begun yet")
        return self._coordinator

    def drain(self) -> None:
        self._draining = True
        self._pass_on_wishes()

    def stop(self) -> None:
        self._stopping = True
        self._pass_on_wishes()

    def _pass_on_wishes(self) -> None:
        """^C may come before there is a coordinator to hear it."""
        if self._coordinator is not None:
            if self._draining:
                self._coordinator.drain()
            if self._stopping:
                self._coordinator.stop()


class _Crew:
    """The worker processes of one run: started, replaced when they die, ended."""

    def __init__(self, plan: RunPlan, coordinator: RunCoordinator) -> None:
        self._plan = replace(plan, specs=())
        self._coordinator = coordinator
        self._numbers = count()
        self._processes: set[WorkerProcess] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        wanted = self._wanted
        size = wanted if self._plan.growing else min(wanted, self._coordinator.open)
        size = 0 if self._coordinator.ended else size
        self._tasks = [asyncio.create_task(self._keep(1 / size)) for _ in range(size)]
        for task in self._tasks:
            task.add_done_callback(self._one_is_over)

    @property
    def _wanted(self) -> int:
        conf = self._plan.executor
        return conf.workers or max(1, len(os.sched_getaffinity(0)) // conf.cpus_per_worker)

    async def _keep(self, share: float) -> None:
        """One worker after the other, until the run ends or restarting does not help."""
        for _ in range(1 + RESTARTS):
            name = f"w{next(self._numbers):04d}"
            worker = WorkerProcess(name, share, self._coordinator, self._plan)
            self._processes.add(worker)
            try:
                code = await worker.run()
            finally:
                self._processes.discard(worker)
            why = f"ended with code {code}" if code >= 0 else f"was killed by signal {-code}"
            why += f": {worker.last_words}" if worker.last_words else ""
            self._coordinator.worker_lost(name, why)
            if code == EXIT_DRAINED:
                self._coordinator.note(f"worker {name} was told to end; another takes its place")
            if code in (0, EXIT_CONFIG) or self._coordinator.ended:
                return

    def _one_is_over(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self._coordinator.note(f"a worker could not be kept: {error}")
        if all(task.done() for task in self._tasks):
            self._coordinator.abandon()

    def raise_if_useless(self) -> None:
        """That no worker could even begin is nothing to find in a table of results."""
        look = self._coordinator.look()
        if look.stopping and not look.leased and look.last_error:
            raise ConfigError(f"no worker could start: {look.last_error}")

    async def end(self) -> None:
        """Every process gone; those that were stopped, or do not end in time, not in order."""
        if not self._coordinator.ended:
            self._coordinator.stop()
        if self._coordinator.look().stopping:
            for worker in self._processes:
                worker.stop()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=END_GRACE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
