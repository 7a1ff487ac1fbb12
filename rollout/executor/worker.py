"""A worker: an engine, a warm pool and a dataset writer, and episodes as long as there are leases.

It pulls. All that it knows of the run it has from its plan, and all that happens it tells the
coordinator; the two may lose each other at any moment without a rollout being lost or doubled.
"""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

from rollout.agents.base import Agent
from rollout.aio import shielded
from rollout.capacity import Capacity
from rollout.dataset.base import CommitReply, CommitRequest, Part
from rollout.dataset.patience import patiently
from rollout.dataset.store import Store, open_store
from rollout.dataset.writer import DatasetWriter
from rollout.episode import Bench, Ended, run_episode
from rollout.errors import ConfigError, RolloutError
from rollout.executor.admission import Admission, demand_of
from rollout.executor.base import Coordinator, Heartbeat, HeartbeatReply, LeaseReply, RunPlan
from rollout.executor.engines import make_engine
from rollout.executor.long_texts import shortened
from rollout.executor.lost import lost_trajectory
from rollout.executor.meter import Meter, Unmetered, state_of
from rollout.executor.pulse import Pulse
from rollout.executor.recordings import SourceRecordings
from rollout.gateway.access import ModelService
from rollout.gateway.limits import Allowances
from rollout.gateway.policy import Policy
from rollout.gateway.upstreams.http import HttpUpstream
from rollout.gateway.upstreams.make import make_upstream
from rollout.objects.store import ObjectStore
from rollout.objects.where import open_objects
from rollout.plugins import make
from rollout.pool import WarmPool
from rollout.sandbox.base import Engine, SandboxSpec
from rollout.sandbox.made import make_spec
from rollout.scorers.base import Scorer, opened
from rollout.types import Artifact, Blueprint, Lease, RolloutSpec, Task, Trajectory, count_by

BEAT_S = 1.0
"""At most this long between two heartbeats; a fifth of the lease's time to live if less."""

OBSERVE_S = 0.5

NOT_BEGUN = frozenset({"", "queue", "claim"})
"""Phases in which nothing of an episode would be lost by giving its lease back."""


class Worker:
    """Runs until the coordinator has nothing more for it.

    `send_beat` is called from a thread of its own and blocks; `share` is this worker's part of
    the machine, since there may be several on one node.
    """

    def __init__(
        self,
        plan: RunPlan,
        name: str,
        node: str,
        coordinator: Coordinator,
        send_beat: Callable[[Heartbeat], HeartbeatReply],
        *,
        share: float = 1.0,
        meter: Meter | None = None,
        offer: Callable[[Part, Any], None] | None = None,
    ) -> None:
        """`offer`: shows a part's rows to a trainer that waits for them; see DatasetWriter."""
        self._plan = plan
        self._name = name
        self._node = node
        self._coordinator = coordinator
        self._send_beat = send_beat
        self._share = share
        self._meter = meter or Unmetered()
        self._offer = offer if plan.growing else None
        self._tasks = {task.id: task for task in plan.tasks}
        self._variants = {(arm, task.id): task for arm, task in plan.variants}
        self._arms = {arm.name: arm for arm in plan.arms}
        self._agents: dict[str, Agent] = {}
        self._scorers: dict[str, Scorer] = {}
        self._models: dict[str, ModelService] = {}
        """Arm to its model, where it has one."""
        self._policy: Policy | None = None
        """What a trainer has said last of the models' weights."""
        self._move: list[Callable[[Sequence[str]], None]] = []
        """To where they are served now."""
        self._allowances = Allowances()
        """What of each model is this worker's to use."""
        self._recordings: SourceRecordings | None = None
        self._running: dict[str, asyncio.Task[None]] = {}
        self._phases: dict[str, str] = {}
        self._returning: set[str] = set()
        """Ids stopped on our own account before they had begun."""
        self._buffered: set[str] = set()
        """Ids with a row in the writer that is not committed yet."""
        self._counts: dict[str, float] = {}
        self._alerts = 0
        """Resource alerts of ended attempts."""
        self._changed = asyncio.Event()
        self._draining = False
        self.drained = False
        """Whether it was told to end, by whoever takes its machine away."""
        self._stopped = asyncio.Event()
        self._helpers: list[asyncio.Task[None]] = []
        """What runs beside the episodes: the observer, and warming up."""
        self._objects: ObjectStore
        self._engine: Engine
        self._pool: WarmPool
        self._store: Store
        self._writer: DatasetWriter
        self._admission: Admission
        self._epoch = 0

    async def run(self) -> None:
        """Work until there is nothing left, or until told to stop. Raises what broke the worker."""
        error = ""
        try:
            async with AsyncExitStack() as stack:
                await self._open(stack)
                await self._unless_stopped()
        except Exception as exc:
            error = f"{type(exc).__name__}: {exc}"
            raise
        finally:
            with contextlib.suppress(RolloutError):
                await shielded(self._coordinator.leave(self._name, error))

    def drain(self, grace_s: float | None = None) -> None:
        """Take nothing new; for a machine that is to be taken away.

        What runs has so long, or `executor.drain_s`, to end. What has not ended by then goes back
        and is no attempt; the rest is committed.
        """
        self.drained = True
        self._begin_drain()
        after_s = self._plan.executor.drain_s if grace_s is None else grace_s
        asyncio.get_running_loop().call_later(after_s, self._return_all_but, frozenset())

    def stop(self) -> None:
        """End at once: sandboxes are ended, rows not yet committed are dropped."""
        self._stopped.set()

    # ---------------------------------------------------------------- opening and closing

    async def _open(self, stack: AsyncExitStack) -> None:
        """Everything a worker has, each closed in turn, whatever fails."""
        plan = self._plan
        self._epoch = await self._coordinator.register(self._name, self._node, os.getpid())
        self._start_pulse(stack)
        for arm in plan.arms:
            self._agents[arm.name] = make(arm.agent)
            self._scorers[arm.name] = await opened(make(arm.scorer), stack)
        if plan.source is not None:
            self._recordings = await asyncio.to_thread(SourceRecordings, plan.source)
            stack.callback(self._recordings.close)
        for arm_name, model in plan.models:
            made = make_upstream(model)
            if isinstance(made, HttpUpstream):
                self._move.append(made.move)
            limited = self._allowances.limited(made, model.conf)
            upstream = await stack.enter_async_context(limited)
            self._models[arm_name] = ModelService(
                plan=model, upstream=upstream, version=self._policy_version
            )
        self._store = await asyncio.to_thread(
            open_store, plan.run_uri, endpoint_url=plan.store.endpoint_url, region=plan.store.region
        )
        stack.callback(self._store.close)
        self._objects = await asyncio.to_thread(
            open_objects, plan.objects, plan.store, root_dir=plan.engine.root_dir
        )
        stack.callback(self._objects.close)
        owner = f"{plan.run_id}-{self._name}"
        self._engine = make_engine(plan.engine, owner, self._objects)
        stack.push_async_callback(lambda: shielded(self._engine.close()))
        await self._engine.start()
        self._check_limits()
        capacity = Capacity.of_machine(plan.engine.root_dir, self._share)
        self._pool = WarmPool(self._engine, plan.pool, capacity, objects=self._objects)
        stack.push_async_callback(lambda: shielded(self._pool.close()))
        await self._pool.start()
        most = min(plan.executor.episodes_per_worker, plan.pool.max_sandboxes)
        self._admission = Admission(capacity.overcommitted(plan.pool), most)
        self._writer = DatasetWriter(
            self._store,
            worker=self._name,
            epoch=self._epoch,
            format=plan.store.format,
            flush_bytes=int(plan.store.flush_mb * 2**20),
            flush_s=plan.store.flush_s,
            commit=self._commit,
            offer=self._offer,
        )
        stack.push_async_callback(self._end_helpers)
        self._helpers = [asyncio.create_task(self._observe())]

    def _check_limits(self) -> None:
        """Again, since the plan was made on another machine, or before the engine had started."""
        missing = sorted(set(self._plan.limits_to_hold) - self._engine.limits)
        if missing:
            raise ConfigError(
                f"engine {self._engine.name} on node {self._node} cannot enforce limits that "
                f"somebody wrote: {', '.join(missing)}; see `python -m rollout doctor` there, "
                "leave them off, or write resources.unenforceable=record"
            )

    def _start_pulse(self, stack: AsyncExitStack) -> None:
        loop = asyncio.get_running_loop()

        def deliver(reply: HeartbeatReply) -> None:
            with contextlib.suppress(RuntimeError):  # The loop is closed: nobody is left to obey.
                loop.call_soon_threadsafe(self._obey, reply)

        pulse = Pulse(
            beat=self._beat,
            send=self._send_beat,
            deliver=deliver,
            every_s=min(BEAT_S, self._plan.executor.lease_ttl_s / 5),
        )
        pulse.start()
        stack.push_async_callback(asyncio.to_thread, pulse.stop)

    async def _end_helpers(self) -> None:
        for task in self._helpers:
            task.cancel()
        await asyncio.gather(*self._helpers, return_exceptions=True)

    async def _unless_stopped(self) -> None:
        """Work; a stop cancels it, and with it every episode."""
        work = asyncio.create_task(self._work())
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, stopped):
                task.cancel()
            await asyncio.gather(work, stopped, return_exceptions=True)
        if not work.cancelled():
            work.result()

    # ---------------------------------------------------------------- the loop

    async def _work(self) -> None:
        try:
            async with asyncio.TaskGroup() as episodes:
                await self._lease_and_start(episodes)
        except BaseExceptionGroup as group:
            # Episodes fail together when what they share fails; its first error says it all.
            typed = group.subgroup(RolloutError)
            raise (_first(typed) if typed else group) from group
        await self._writer.close()

    async def _lease_and_start(self, episodes: asyncio.TaskGroup) -> None:
        while not self._draining:
            if not self._admission.room:
                await self._change(OBSERVE_S)
                continue
            count = min(self._admission.room, self._plan.executor.lease_batch)
            reply = await self._coordinator.lease(self._name, count)
            self._follow(reply.policy)
            await self._start_all(episodes, reply)
            if reply.done:
                return
            if not reply.leases:
                await self._idle(reply.wait_s)

    async def _start_all(self, episodes: asyncio.TaskGroup, reply: LeaseReply) -> None:
        refused = []
        for lease in reply.leases:
            name, task = lease.spec.trajectory_id, self._task(lease.spec)
            if not self._draining and self._admission.enter(name, demand_of(task)):
                self._phases[name] = ""
                self._running[name] = episodes.create_task(self._episode(lease))
            else:
                refused.append(name)
        if refused:
            await self._coordinator.give_back(self._name, refused)
        self._warm_up(reply)

    async def _idle(self, wait_s: float) -> None:
        """Nothing to lease now. What is buffered is what the end of the run may wait for."""
        if not self._running:
            await self._writer.flush()
        await self._change(wait_s)

    async def _change(self, timeout_s: float) -> None:
        """Wait until an episode ends, or a drain begins, or `timeout_s` is over."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout_s)

    def _warm_up(self, reply: LeaseReply) -> None:
        """Have the pool ready for what just began and for what comes next."""
        self._helpers = [helper for helper in self._helpers if not helper.done()]
        # What is scored again stands on images that no other sandbox is made of.
        if len(self._helpers) < 2 and self._recordings is None:
            wanted = count_by(lease.spec.task_id for lease in reply.leases)
            for task_id, count in reply.coming:
                wanted[task_id] = wanted.get(task_id, 0) + count
            self._helpers.append(asyncio.create_task(self._expect(wanted)))

    async def _expect(self, wanted: Mapping[str, int]) -> None:
        specs: list[tuple[SandboxSpec, int]] = []
        for task_id, count in wanted.items():
            for blueprint in self._blueprints(task_id):
                # A blueprint that cannot be built fails each of its episodes, which tell why.
                with contextlib.suppress(RolloutError):
                    spec = await make_spec(self._engine, blueprint, self._objects)
                    specs.append((spec, count))
        self._pool.expect(specs)

    def _task(self, spec: RolloutSpec) -> Task:
        return self._variants.get((spec.arm, spec.task_id)) or self._tasks[spec.task_id]

    def _blueprints(self, task_id: str) -> list[Blueprint]:
        """Of all arms: whichever of them come next, spares that nobody claims are few."""
        tasks = (self._variants.get((arm, task_id)) or self._tasks[task_id] for arm in self._arms)
        return list({task.blueprint.digest: task.blueprint for task in tasks}.values())

    # ---------------------------------------------------------------- one episode

    async def _episode(self, lease: Lease) -> None:
        name = lease.spec.trajectory_id
        try:
            row = await self._settled(lease, await self._attempt(lease))
            if row is not None:
                self._buffered.add(name)
                await self._writer.add(row)
        except asyncio.CancelledError:
            if name not in self._returning:
                raise
            await self._coordinator.give_back(self._name, [name])
        finally:
            self._running.pop(name, None)
            self._phases.pop(name, None)
            self._returning.discard(name)
            self._admission.leave(name)
            self._changed.set()

    async def _attempt(self, lease: Lease) -> Ended:
        spec, plan = lease.spec, self._plan
        task, arm, agent = self._task(spec), self._arms[spec.arm], self._agents[spec.arm]
        if lease.record_only:
            lost = lost_trajectory(lease, task, arm, agent, run_id=plan.run_id, node=self._node)
            return Ended(trajectory=lost)
        bench = Bench(
            engine=self._engine,
            pool=self._pool,
            timeouts=plan.timeouts,
            run_id=plan.run_id,
            node=self._node,
            worker=self._name,
            keep=plan.keep,
            objects=self._objects,
            model=self._models.get(spec.arm),
            recordings=self._recordings,
        )

        def on_phase(phase: str) -> None:
            self._phases[spec.trajectory_id] = phase

        scorer = self._scorers[spec.arm]
        return await run_episode(lease, task, arm, agent, scorer, bench, on_phase)

    async def _settled(self, lease: Lease, ended: Ended) -> Trajectory | None:
        """The row, with all that is too large for it beside the dataset; None, and word of it to
        the coordinator, where the attempt will be made again.

        What it was made of is let go before the row waits for room.
        """
        row = ended.trajectory
        self._meter.ended(row)
        self._alerts += sum(event.kind == "resource_alert" for event in row.events)
        try:
            if row.outcome.scored or lease.last or lease.record_only:
                return await self._keep(ended)
        finally:
            ended.remove_files()
        await self._coordinator.attempt_failed(
            self._name, lease.spec.trajectory_id, row.attempts[-1]
        )
        return None

    async def _keep(self, ended: Ended) -> Trajectory:
        """Put what is too large for a row beside the dataset, each attempt in a folder of its own.

        A lease that was handed back and given out again has the same number twice, so the folder
        has a name that was never used before: what another try had put there stays its own.
        """
        row, texts = shortened(ended.trajectory, int(self._plan.store.inline_kb * 1024))
        folder = f"artifacts/{row.spec.trajectory_id}/{row.epoch}-{row.attempt}-{token_hex(4)}"
        kept = [await self._put(folder, name, data) for name, data in ended.blobs.items()]
        for name, text in texts.items():
            kept.append(await self._put(folder, name, text.encode(errors="replace")))
        for name, path in ended.files.items():
            uri = f"{folder}/{name}"
            digest = await asyncio.to_thread(_sha256, path)
            put = partial(asyncio.to_thread, self._store.put_file_if_absent, uri, path)
            await patiently(f"write {uri}", put)
            size = path.stat().st_size
            kept.append(Artifact(name=name, uri=uri, sha256=digest, bytes=size))
        return replace(row, artifacts=(*row.artifacts, *kept))

    async def _put(self, folder: str, name: str, data: bytes) -> Artifact:
        uri = f"{folder}/{name}"
        put = partial(asyncio.to_thread, self._store.put_if_absent, uri, data)
        await patiently(f"write {uri}", put)
        digest = hashlib.sha256(data).hexdigest()
        return Artifact(name=name, uri=uri, sha256=digest, bytes=len(data))

    async def _commit(self, request: CommitRequest) -> CommitReply:
        reply = await self._coordinator.commit(request)
        settled = request.trajectory_ids if reply.accepted else reply.duplicates
        self._buffered.difference_update(settled)
        return reply

    # ---------------------------------------------------------------- the heartbeat

    def _beat(self) -> Heartbeat:
        """Called from the pulse's thread: only reads what one step of the interpreter can."""
        return Heartbeat(
            worker=self._name,
            epoch=self._epoch,
            state=state_of(self._counts),
            counts=self._counts,
            held=(*tuple(self._running), *tuple(self._buffered)),
            using=self._allowances.using,
        )

    def _obey(self, reply: HeartbeatReply) -> None:
        if reply.stop:
            self._stopped.set()
        if reply.drain and not self._draining:
            self._begin_drain()
        if reply.workers:
            self._allowances.divide(reply.part, reply.workers)
        self._follow(reply.policy)
        for name in reply.lost:
            if task := self._running.get(name):
                task.cancel()

    def _follow(self, policy: Policy | None) -> None:
        """Of two replies that overtook each other the older one says nothing new."""
        if policy is None or (self._policy is not None and policy.version < self._policy.version):
            return
        if policy != self._policy:
            self._policy = policy
            for move in self._move if policy.urls else ():
                move(policy.urls)

    def _policy_version(self) -> int | None:
        return None if self._policy is None else self._policy.version

    def _begin_drain(self) -> None:
        self._draining = True
        self._changed.set()
        begun = {name for name, phase in self._phases.items() if phase not in NOT_BEGUN}
        self._return_all_but(begun)

    def _return_all_but(self, kept: Set[str]) -> None:
        """Stop the other rollouts that run; each gives its lease back."""
        for name, task in self._running.items():
            if name not in kept:
                self._returning.add(name)
                task.cancel()

    async def _observe(self) -> None:
        while True:
            self._counts = {
                "running": float(len(self._running)),
                "buffered_rows": float(self._writer.buffered_rows),
                "buffered_mb": self._writer.buffered_bytes / 2**20,
                "resource_alerts": float(self._alerts),
                **self._pool.counts(),
            }
            self._meter.observe(self._counts)
            await asyncio.sleep(OBSERVE_S)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first(group: BaseExceptionGroup[RolloutError]) -> RolloutError:
    """The first single error of a group of groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, RolloutError)
    return error
