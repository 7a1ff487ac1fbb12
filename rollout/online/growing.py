"""The run behind a source: a plan that grows, on whichever executor its config names."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rollout import build
from rollout.build import Job
from rollout.errors import RolloutError
from rollout.executor.base import Progress
from rollout.online.ledger import Wanted
from rollout.types import RolloutSpec, group_id, trajectory_id

LISTEN_S = 2.0


class GrowingRun:
    """Begun, extended, listened to, ended."""

    def __init__(self, job: Job) -> None:
        """`job`: prepared as growing, with one arm."""
        self._name, self._plan = job.conf.name, job.plan
        [self._arm] = job.plan.arms
        self._accepted = job.state.accepted
        self._driving: asyncio.Task[None] | None = None
        self.digests = {task.id: task.digest for task in job.plan.tasks}
        """Of each task, in the order of the config."""
        self.digests |= {task.id: task.digest for _, task in job.plan.variants}
        self.executor = build.executor_of(job.conf)
        self.progress: Progress | None = None
        """Its latest look at itself."""

    @property
    def driving(self) -> "asyncio.Task[None]":
        """Done once the run is over."""
        assert self._driving is not None
        return self._driving

    async def begin(self) -> None:
        """On its way in a task of its own; what keeps it from starting is raised here."""
        begun = asyncio.Event()

        async def drive() -> None:
            async for progress in self.executor.run(self._plan):
                self.progress = progress
                begun.set()

        self._driving = asyncio.create_task(drive())
        waiting = asyncio.create_task(begun.wait())
        await asyncio.wait({waiting, self._driving}, return_when=asyncio.FIRST_COMPLETED)
        await ended(waiting)
        self.raise_if_over()

    async def end(self, *, in_order: bool) -> None:
        """Nothing more will come; what still runs is given up, unless there is nothing (then
        `in_order`, and the run counts as finished)."""
        if self._driving is None:
            return
        if not self._driving.done():
            with suppress(RolloutError):
                if in_order:
                    await self.executor.seal()
                else:
                    self.executor.stop()
        await asyncio.gather(self._driving, return_exceptions=True)

    async def listen(self, wake: Callable[[], None]) -> None:
        """Call `wake` as soon as rows are committed, until the run is over."""
        committed = 0
        with suppress(RolloutError):
            while not self.driving.done():
                committed = await self.executor.wait_committed(committed, LISTEN_S)
                wake()
        wake()

    def raise_if_over(self) -> None:
        """What ended the run, as the trainer's error."""
        if not self.driving.done():
            return
        self.driving.result()
        progress = self.progress
        told = [progress.paused, *progress.notes[-1:]] if progress is not None else []
        why = next(filter(None, told), "nobody told why")
        raise RolloutError(f"run {self._name} has ended: {why}")

    # ---------------------------------------------------------------- what it is to do

    def group_id(self, wanted: Wanted) -> str:
        digest = self.digests[wanted.task_id]
        return group_id(self._name, self._arm.digest, digest, wanted.round)

    async def extend(self, wanted: list[Wanted]) -> None:
        """Have these groups run, in this order."""
        specs = [spec for each in wanted for spec in self._specs(each)]
        if specs:
            self.raise_if_over()
            await self.executor.extend(specs)

    def is_there(self, task_id: str, round: int, size: int) -> bool:
        """Whether this round of a task has rows of an earlier life of the run."""
        ids = (self._trajectory_id(task_id, sample, round) for sample in range(size))
        return any(name in self._accepted for name in ids)

    def _specs(self, wanted: Wanted) -> list[RolloutSpec]:
        group = self.group_id(wanted)
        return [
            RolloutSpec(
                trajectory_id=self._trajectory_id(wanted.task_id, sample, wanted.round),
                group_id=group,
                arm=self._arm.name,
                task_id=wanted.task_id,
                sample=sample,
                group_size=wanted.size,
            )
            for sample in range(wanted.size)
        ]

    def _trajectory_id(self, task_id: str, sample: int, round: int) -> str:
        digest = self.digests[task_id]
        return trajectory_id(self._name, self._arm.digest, digest, sample, round)


async def ended(task: asyncio.Task[Any]) -> None:
    """Cancelled, and gone."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
