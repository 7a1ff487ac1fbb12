"""Groups of rollouts for a trainer that runs meanwhile.

    async with RolloutSource(["+experiment=rft", "sampler=uniform", "online.batch=8"]) as source:
        async for groups in source.batches():
            ...                                    # train on them, serve the new weights
            await source.update_policy(version)

It is a run like any other, in its own dataset, whose plan grows: what a trainer gets are rows that
are committed, and whoever looks at the run sees the same. A trainer that dies comes back with its
checkpoint's `state_dict()`, and sees nothing twice.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

from rollout import build, plugins
from rollout.build import Job
from rollout.checks import nearest
from rollout.compose import compose, composed_of
from rollout.config import RunConf
from rollout.dataset.reader import RolloutDataset, open_dataset
from rollout.dataset.tail import Place
from rollout.errors import ConfigError, RolloutError
from rollout.executor.base import Progress
from rollout.gateway.policy import Policy
from rollout.online.feed import Bookmark, Feed
from rollout.online.growing import GrowingRun, ended
from rollout.online.intake import Intake
from rollout.online.ledger import GroupLedger
from rollout.online.taken import Taken, history_of, is_stale
from rollout.samplers.base import History, Sampler
from rollout.types import Group

STATE_VERSION = 1
QUIET_S = 30.0
"""A trainer that waits so long for what only it can let begin is told."""

log = logging.getLogger(__name__)


class RolloutSource:
    """Use as `async with`. One trainer at a time may drive a run: a second one takes it over."""

    def __init__(
        self,
        config: RunConf | Sequence[str],
        *,
        config_dir: str | None = None,
        taking_is_training: bool = False,
    ) -> None:
        """
        config: a run's, of one arm; `samples` is the size of its groups. `online.batch` and
            `online.max_staleness` bound what is on its way, `sampler` draws tasks.
        config_dir: a folder with more options of `conf/`.
        taking_is_training: a training step is `online.batch` groups taken, and not a new policy
            version: for trainers that take as many as they can use, and drop some. They hold the
            run back by taking no more.
        """
        self._config, self._config_dir = config, config_dir
        self._taking_is_training = taking_is_training
        self._stack = AsyncExitStack()
        self._restored: Mapping[str, Any] | None = None
        self._is_open = False
        self._job: Job
        self._run: GrowingRun
        self._dataset: RolloutDataset
        self._intake: Intake
        self._bookmark: Bookmark
        self._ledger: GroupLedger
        self._history: History
        self._sampler: Sampler | None = None
        self._version: int | None = None
        self._exhausted = False
        """Whether the sampler has nothing more."""
        self._changed = asyncio.Event()
        """More may begin."""
        self.taken = Taken()

    # ---------------------------------------------------------------- opening and closing

    async def __aenter__(self) -> Self:
        """Workers are started. ConfigError for a config that cannot be run."""
        self._is_open = True
        async with self._stack:
            await self._open()
            self._stack = self._stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """What still runs is given up, unless all that was asked for has come."""
        await self._stack.aclose()

    async def _open(self) -> None:
        if isinstance(self._config, RunConf):
            composed = composed_of(self._config)
        else:
            composed = await asyncio.to_thread(compose, self._config, self._config_dir)
        self._job = await asyncio.to_thread(build.prepare, composed, growing=True)
        self._stack.callback(self._job.store.close)
        conf, plan = self._job.conf, self._job.plan
        self._run = GrowingRun(self._job)
        online = conf.online
        self._ledger = GroupLedger(
            self._run.group_id,
            batch=online.batch,
            max_staleness=online.max_staleness,
            taking_is_training=self._taking_is_training,
        )
        if conf.sampler:
            self._sampler = plugins.make(plugins.plugin_of(conf.sampler))
        await asyncio.to_thread(build.record_start, self._job)
        self._stack.push_async_callback(self._end_run)
        await self._run.begin()
        self._dataset = await asyncio.to_thread(
            open_dataset,
            plan.run_uri,
            endpoint_url=conf.store.endpoint_url,
            region=conf.store.region,
        )
        self._stack.callback(self._dataset.close)
        self._restore()
        self._history = await asyncio.to_thread(self._read_history)
        cursor = self._bookmark.state_dict()["cursor"]
        feed = Feed(self._dataset, cursor, self._run.executor.first_hand)
        await self._stack.enter_async_context(feed)
        listening = asyncio.create_task(self._run.listen(feed.wake))
        self._stack.push_async_callback(ended, listening)
        self._intake = Intake(self._run, self._ledger, self._bookmark, feed)
        self._stack.push_async_callback(self._intake.close)
        if self._version is not None:
            await self._run.executor.set_policy(Policy(version=self._version, urls=self._urls))
        await self._release()

    async def _end_run(self) -> None:
        await self._run.end(in_order=self._ledger.idle)

    def _restore(self) -> None:
        """From a checkpoint, or after all that the run holds already."""
        if self._restored is None:
            self._urls: tuple[str, ...] = ()
            self._bookmark = Bookmark(str(Place(self._dataset.state.seq)))
            return
        state = self._restored
        self._bookmark = Bookmark.of(state)
        self._ledger.load_state_dict(state)
        self._version, self._urls = state["policy_version"], tuple(state["policy_urls"])

    def _read_history(self) -> History:
        asked = [(each.task_id, self._run.group_id(each)) for each in self._ledger.open]
        return history_of(self._dataset, self._run.digests, asked)

    # ---------------------------------------------------------------- what a trainer calls

    @property
    def tasks(self) -> tuple[str, ...]:
        """Ids, in the order of the config."""
        return tuple(self._run.digests)

    @property
    def conf(self) -> RunConf:
        """As it was composed."""
        return self._job.conf

    @property
    def instructions(self) -> dict[str, str]:
        """Of each task, by its id."""
        return {task.id: task.instruction for task in self._job.plan.tasks}

    @property
    def uri(self) -> str:
        """Of the dataset: `open_dataset(source.uri)` reads the same rows, now or later."""
        return self._job.plan.run_uri

    @property
    def progress(self) -> Progress | None:
        """The run's latest look at itself."""
        return self._run.progress

    @property
    def version(self) -> int | None:
        """Of the trainer's weights, as it told last."""
        return self._version

    async def submit(self, task_ids: str | Iterable[str], n: int | None = None) -> tuple[str, ...]:
        """Ask for a group of each task, `n` or `samples` rollouts strong; their `group_id`s.

        They run as soon as admission allows. ConfigError for a task that the config has not.
        """
        asked = [task_ids] if isinstance(task_ids, str) else list(task_ids)
        for task_id in asked:
            if task_id not in self._run.digests:
                hint = nearest(task_id, self.tasks) or f"; there are {len(self._run.digests)}"
                raise ConfigError(f"{task_id!r} is no task of this source{hint}")
        names = tuple(self._submit(task_id, n) for task_id in asked)
        await self._release()
        return names

    async def update_policy(self, version: int, endpoint: str | Sequence[str] = ()) -> None:
        """Say that these weights are served from now on, where it may be elsewhere.

        Call it once the endpoint has them. A version before the first group is the one that
        training begins with; each other is a training step, and lets `online.batch` more groups
        begin.
        """
        if self._version is not None and version <= self._version:
            raise RolloutError(
                f"policy version {version} is not above {self._version}; to go back to an earlier "
                "one, open a source with that checkpoint's state"
            )
        if self._version is not None or self._ledger.accepted:
            self._ledger.weights_changed()
        self._version = version
        self._urls = ((endpoint,) if isinstance(endpoint, str) else tuple(endpoint)) or self._urls
        await self._run.executor.set_policy(Policy(version=version, urls=self._urls))
        await self._release()

    async def groups(
        self,
        *,
        max_staleness: int | None = None,
        accept: Callable[[Group], bool] = lambda group: True,
    ) -> AsyncIterator[Group]:
        """Each group when its last member is committed, failed members included.

        Ends when all that was submitted has come and the sampler, if there is one, has no more.

        max_staleness: groups with a token of weights that are further than so many versions behind
            are dropped; None: `online.max_staleness`. Versions above the trainer's own are of a
            life that it has no memory of, and dropped too.
        accept: others are dropped, such as those without any difference in reward.
        """
        most = self._job.conf.online.max_staleness if max_staleness is None else max_staleness
        while (group := await self._next(most, accept)) is not None:
            yield group

    async def batches(
        self,
        size: int | None = None,
        *,
        max_staleness: int | None = None,
        accept: Callable[[Group], bool] = lambda group: True,
    ) -> AsyncIterator[list[Group]]:
        """`size`, or `online.batch`, groups at a time; the last one may be smaller."""
        size = size or self._job.conf.online.batch
        if size is None:
            raise ConfigError("online.batch: must be given for batches, online.batch=8")
        batch: list[Group] = []
        async for group in self.groups(max_staleness=max_staleness, accept=accept):
            batch.append(group)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch

    async def take(self, count: int | None = None) -> list[Group]:
        """The next `count`, or `online.batch`, groups; fewer only where no more are to come."""
        async for batch in self.batches(count):
            return batch
        return []

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON data for the trainer's checkpoint: what it was given counts as trained on."""
        return {
            "version": STATE_VERSION,
            "policy_version": self._version,
            "policy_urls": list(self._urls),
            **self._bookmark.state_dict(),
            **self._ledger.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; before the source is opened. What was on its way then runs
        again, unless it is in the dataset by now."""
        if self._is_open:
            raise RolloutError("load_state_dict: the source is open already; call it before")
        if state.get("version") != STATE_VERSION:
            raise RolloutError(
                f"this is no state of a source, or of another version: {state.get('version')!r}"
            )
        self._restored = dict(state)

    # ---------------------------------------------------------------- what comes

    async def _next(self, most: int, accept: Callable[[Group], bool]) -> Group | None:
        began_s = time.monotonic()
        try:
            while (group := await self._arrived()) is not None:
                stale = is_stale(group, self._version, most)
                accepted = not stale and accept(group)
                self._settle(group, accepted=accepted)
                self.taken.count(group, self._version, stale=stale, accepted=accepted)
                await self._release()
                if accepted:
                    return group
            return None
        finally:
            self.taken.waited_s += time.monotonic() - began_s

    async def _arrived(self) -> Group | None:
        """The next group that was asked for; None when none is to come."""
        while not self._ledger.running:
            if not self._ledger.queued and (self._sampler is None or self._exhausted):
                return None
            await self._room()
        return await self._intake.next()

    async def _room(self) -> None:
        """Until the trainer has trained on what it took, which may be in another task."""
        self._changed.clear()
        try:
            await asyncio.wait_for(self._changed.wait(), QUIET_S)
        except TimeoutError:
            log.warning(
                "%s: %d groups were taken at step %d, and online.batch=%s with "
                "online.max_staleness=%d lets none begin before the next update_policy",
                self._job.conf.name,
                self._ledger.accepted,
                self._ledger.step,
                self._job.conf.online.batch,
                self._job.conf.online.max_staleness,
            )

    def _settle(self, group: Group, *, accepted: bool) -> None:
        for row in group.trajectories:
            self._history.add(group.task_id, row.reward if row.trainable else None)
        self._ledger.settle(group.group_id, accepted=accepted)

    # ---------------------------------------------------------------- what goes out

    def _submit(self, task_id: str, n: int | None) -> str:
        size = n or self._job.conf.samples
        if self._restored is None:
            while self._run.is_there(task_id, self._ledger.next_round(task_id), size):
                self._ledger.skip_round(task_id)
        wanted = self._ledger.submit(task_id, size)
        self._history.draw(task_id)
        return self._run.group_id(wanted)

    async def _release(self) -> None:
        """Fill up from the sampler, and give what may run to the coordinator."""
        self._exhausted = False
        while self._sampler is not None and (self._ledger.room or 0) > 0:
            drawn = sum(map(self._history.drawn, self.tasks))
            rng = random.Random(f"{self._job.conf.name}-{drawn}")
            task_id = self._sampler.choose(self._history, rng)
            if task_id is None:
                self._exhausted = True
                break
            self._submit(task_id, None)
        await self._run.extend(self._ledger.release())
        self._changed.set()
