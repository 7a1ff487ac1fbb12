"""The one place of a run that decides: who works on what, what is accepted, when it ends.

Pure of Ray and of processes: one asyncio object. The local executor keeps it in its own process,
the Ray executor in a detached actor. All that must survive it is in the run's log.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rollout.dataset.base import CommitReply, CommitRequest
from rollout.dataset.log import CommitLog
from rollout.dataset.store import open_store
from rollout.errors import Fenced, RolloutError
from rollout.executor.base import Heartbeat, HeartbeatReply, LeaseReply, Progress, RunPlan
from rollout.executor.commits import CommitLane
from rollout.executor.leases import LeaseBook
from rollout.executor.limits import hard_limits_s
from rollout.executor.roster import Roster
from rollout.executor.shares import Shares
from rollout.executor.storm import StormWatch
from rollout.executor.tally import Tally
from rollout.gateway.policy import Policy
from rollout.plan import arm_record
from rollout.types import Attempt, RolloutSpec

ATTEMPTS_FLUSH_S = 2.0
"""How long an ended attempt may stay off the record when no commit takes it along."""

NOTES_KEPT = 100

WAIT_S = 0.2
"""After which a worker for which there was nothing asks again."""
GROWING_WAIT_S = 0.05
"""The same where a trainer waits for what it has just asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a driver needs to know to go on or to end."""

    progress: Progress
    ended: bool
    stopping: bool
    leased: int
    """Leases given out in this start; 0 at the end means that no worker could work."""
    last_error: str
    """What the last worker that failed said."""


class RunCoordinator:
    """Implements `executor.base.Coordinator` for one start of one run.

    Workers that fall silent lose their leases, yet a row they commit late still counts if it is
    the first of its id. Nothing is leased while draining, during a storm of our own failures, or
    once a newer coordinator has taken the run over.
    """

    def __init__(self, plan: RunPlan, log: CommitLog) -> None:
        self._plan = plan
        self._log = log
        self._lane = CommitLane(log, self._committed, self._broken)
        self._book: LeaseBook
        self._storm = StormWatch(plan.retry)
        self._tally = Tally(plan.specs)
        self._growing = plan.growing
        self._policy: Policy | None = None
        self._news = asyncio.Event()
        """Set, and put away, when rows are committed."""
        self._roster = Roster(lambda: self._now_s)
        self._shares = Shares()
        self._notes: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._ended = asyncio.Event()
        self._attempts_failed = 0
        self._paused = ""
        self._draining = False
        self._stopping = False
        self._finished = False
        self.epoch = 0
        self._leased = 0
        self._last_error = ""

    @classmethod
    async def begin(cls, plan: RunPlan) -> "RunCoordinator":
        """Take the run over: from here on every older coordinator of it is fenced."""
        store = await asyncio.to_thread(
            open_store, plan.run_uri, endpoint_url=plan.store.endpoint_url, region=plan.store.region
        )
        owner = f"{socket.gethostname()}:{os.getpid()}"
        coordinator = cls(plan, CommitLog(store, owner))
        await coordinator.start()
        return coordinator

    async def start(self) -> None:
        """Read the log, announce a new epoch, write down the plan, begin to serve."""
        self.epoch = await asyncio.to_thread(self._take_over)
        state = self._log.state
        for trajectory_id, (outcome, reward) in state.accepted.items():
            self._tally.add(trajectory_id, outcome, reward)
        self._book = LeaseBook(
            self._plan.specs,
            accepted=state.accepted,
            attempts=state.attempts,
            epoch=self.epoch,
            retry=self._plan.retry,
            limit_s=hard_limits_s(self._plan),
        )
        self._tasks = [asyncio.create_task(self._lane.run()), asyncio.create_task(self._watch())]
        self._check_end()

    def _take_over(self) -> int:
        self._log.load()
        epoch = self._log.announce()
        self._log.plan(
            {arm.name: arm_record(arm) for arm in self._plan.arms},
            {task.id: task.digest for task in self._plan.tasks},
            max((spec.group_size for spec in self._plan.specs), default=self._log.state.samples),
        )
        return epoch

    # ---------------------------------------------------------------- what workers ask

    async def register(self, worker: str, node: str, pid: int) -> int:
        self._roster.enter(worker, node)
        return self.epoch

    async def lease(self, worker: str, count: int) -> LeaseReply:
        """Shares of what waits, never more than is fair while other workers ask too."""
        self._roster.heard(worker)
        if self._nothing_will_come:
            return LeaseReply(done=True)
        fair = -(-self._book.waiting // max(1, len(self._roster.living)))
        leases = self._book.lease(worker, min(count, fair), self._now_s)
        self._leased += len(leases)
        return LeaseReply(
            leases=tuple(leases),
            coming=self._book.coming(self._plan.executor.lease_batch),
            wait_s=GROWING_WAIT_S if self._growing else WAIT_S,
            policy=self._policy,
        )

    async def attempt_failed(self, worker: str, trajectory_id: str, attempt: Attempt) -> None:
        self._roster.heard(worker)
        if self._book.failed(worker, trajectory_id, attempt, self._now_s):
            self._attempt_ended(trajectory_id, attempt)
            self._count(f"{attempt.outcome.value}: {attempt.error}")

    async def give_back(self, worker: str, trajectory_ids: Sequence[str]) -> None:
        self._roster.heard(worker)
        self._book.give_back(worker, trajectory_ids)
        self._check_end()

    async def commit(self, request: CommitRequest) -> CommitReply:
        if request.epoch != self.epoch:
            raise Fenced(
                f"worker {request.worker} writes under epoch {request.epoch}, but run "
                f"{self._plan.run_id} is at epoch {self.epoch}"
            )
        self._roster.heard(request.worker)
        return await self._lane.commit(request)

    async def heartbeat(self, beat: Heartbeat) -> HeartbeatReply:
        if beat.epoch != self.epoch:
            return HeartbeatReply(stop=True)
        self._roster.beat(beat)
        self._reclaim_unheard(beat)
        lost = tuple(name for name in beat.held if self._book.holder(name) != beat.worker)
        workers = len(self._roster.living)
        return HeartbeatReply(
            drain=self._closed_for_leasing,
            stop=self._stopping,
            lost=lost,
            workers=workers,
            part=self._shares.part(beat.worker, beat.using, workers),
            policy=self._policy,
        )

    async def leave(self, worker: str, error: str = "") -> None:
        self._last_error = error or self._last_error
        self._lose_worker(worker, f"ended: {error}" if error else "")

    # ---------------------------------------------------------------- what the driver asks

    async def extend(self, specs: Sequence[RolloutSpec]) -> None:
        """More to do; what is known already is passed over."""
        if self._ended.is_set() or not self._growing:
            raise RolloutError(f"run {self._plan.run_id} has ended, or was sealed")
        self._tally.expect(specs)
        accepted = self._log.state.accepted
        self._book.add([spec for spec in specs if spec.trajectory_id not in accepted])
        for spec in specs:
            if known := accepted.get(spec.trajectory_id):
                self._tally.add(spec.trajectory_id, *known)
        size = max((spec.group_size for spec in specs), default=0)
        if size > self._log.state.samples:
            await asyncio.to_thread(self._log.plan, {}, {}, size)
        self._tell_news()

    def seal(self) -> None:
        """Nothing more will come."""
        self._growing = False
        self._check_end()

    def set_policy(self, policy: Policy) -> None:
        self._policy = policy

    async def wait_committed(self, count: int, timeout_s: float) -> int:
        """How many planned rollouts are committed, once there are more than `count`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._tally.done <= count:
                    await self._news.wait()
        return self._tally.done

    def drain(self) -> None:
        """Lease nothing more; end when what runs is committed."""
        self._draining = True
        self._check_end()

    def stop(self, why: str = "") -> None:
        """End now; what is not committed is done at the next start."""
        if why:
            self.note(why)
        self._draining = self._stopping = True
        self._ended.set()

    def abandon(self) -> None:
        """No worker is left and none will come."""
        if self._closed_for_leasing and self._book.running == 0:
            self._ended.set()
        elif not self._ended.is_set():
            self.stop("stopped: no worker is left")

    def note(self, text: str) -> None:
        """Tell people something, once."""
        if text not in self._notes:
            self._notes = [*self._notes, text][-NOTES_KEPT:]

    def worker_lost(self, worker: str, why: str) -> None:
        """Whoever started the worker saw it end; no need to wait for its heartbeat to lapse."""
        if self._roster.is_alive(worker):
            self._lose_worker(worker, why)

    @property
    def ended(self) -> bool:
        """Nothing runs and nothing will be leased any more."""
        return self._ended.is_set()

    def look(self) -> Look:
        return Look(
            progress=self.progress(),
            ended=self.ended,
            stopping=self._stopping,
            leased=self._leased,
            last_error=self._last_error,
        )

    @property
    def open(self) -> int:
        """How many planned rollouts are not committed."""
        return self._book.open

    async def wait_ended(self, timeout_s: float) -> bool:
        """Whether the run has ended, after at most `timeout_s`."""
        try:
            await asyncio.wait_for(self._ended.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def progress(self) -> Progress:
        return Progress(
            total=self._tally.total,
            done=self._tally.done,
            running=self._book.running,
            pending=self._book.waiting,
            workers=len(self._roster.living),
            counts=self._roster.counts(),
            outcomes=dict(self._tally.outcomes),
            arms=dict(self._tally.arms),
            attempts_failed=self._attempts_failed,
            paused=self._paused,
            notes=tuple(self._notes),
            finished=self._finished,
        )

    async def close(self) -> None:
        """Put the last attempts on record and, when all is accepted, finish the run's log.

        Call it when the workers have ended. Never raises for a run that was fenced or whose store
        is gone: that is told in the notes.
        """
        try:
            await self._lane.flush()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._book.open == 0:
            await self._finish()
        await asyncio.to_thread(self._log.close)

    async def _finish(self) -> None:
        state = self._log.state
        try:
            if not state.finished:
                await asyncio.to_thread(self._log.finish, self._summary())
            self._finished = True
        except RolloutError as exc:
            self.note(f"all rollouts are committed, but the run could not be finished: {exc}")

    def _summary(self) -> dict[str, Any]:
        return {
            "run_id": self._plan.run_id,
            "total": self._tally.total,
            "done": self._tally.done,
            "outcomes": dict(self._tally.outcomes),
            "arms": {
                name: {"committed": committed, "scored": scored, "rewards": rewards}
                for name, (committed, scored, rewards) in self._tally.arms.items()
            },
            "attempts_failed": self._attempts_failed,
        }

    # ---------------------------------------------------------------- inside

    @property
    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

    @property
    def _closed_for_leasing(self) -> bool:
        return self._draining or bool(self._paused)

    @property
    def _nothing_will_come(self) -> bool:
        return self._ended.is_set() or self._closed_for_leasing or self._all_done

    @property
    def _all_done(self) -> bool:
        return self._book.open == 0 and not self._growing

    def _tell_news(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _check_end(self) -> None:
        at_rest = self._book.running == 0 and not self._lane.busy
        if self._all_done or (self._closed_for_leasing and at_rest):
            self._ended.set()

    def _committed(self, request: CommitRequest, reply: CommitReply) -> None:
        """The lane has an answer: from here on these ids are done, whoever held them."""
        if reply.accepted:
            rows = zip(
                request.trajectory_ids,
                request.outcomes,
                request.rewards,
                request.attempts,
                strict=True,
            )
            for trajectory_id, outcome, reward, attempts in rows:
                if trajectory_id not in self._tally:
                    error = attempts[-1].error if attempts else ""
                    self._count(None if outcome.scored else f"{outcome.value}: {error}")
                self._tally.add(trajectory_id, outcome, reward)
                self._book.accept(trajectory_id)
        self._tell_news()
        for trajectory_id in reply.duplicates:
            if known := self._log.state.accepted.get(trajectory_id):
                self._tally.add(trajectory_id, *known)
                self._book.accept(trajectory_id)
        self._check_end()

    def _broken(self, error: RolloutError) -> None:
        if isinstance(error, Fenced):
            self.stop(f"stopped: another start has taken this run over ({error})")
        else:
            self.stop(f"stopped: the dataset's store gave up ({error})")

    def _attempt_ended(self, trajectory_id: str, attempt: Attempt) -> None:
        self._attempts_failed += 1
        self._lane.note(trajectory_id, attempt)

    def _count(self, failure: str | None) -> None:
        self._storm.ended(failure)
        if not self._paused and (verdict := self._storm.verdict):
            self._paused = verdict
        self._check_end()

    def _reclaim_unheard(self, beat: Heartbeat) -> None:
        """Take back a lease that the worker does not know of: the reply never reached it."""
        held = set(beat.held)
        long_ago_s = self._now_s - 2 * self._plan.executor.lease_ttl_s
        unheard = [
            lease.lease.spec.trajectory_id
            for lease in self._book.held_by(beat.worker)
            if lease.granted_s < long_ago_s and lease.lease.spec.trajectory_id not in held
        ]
        self._book.give_back(beat.worker, unheard)

    def _lose_worker(self, worker: str, why: str) -> None:
        node = self._roster.gone(worker)
        self._shares.gone(worker)
        held = [lease.lease.spec.trajectory_id for lease in self._book.held_by(worker)]
        if self._stopping or not why:
            self._book.give_back(worker, held)
        elif held:
            self._lose(held, f"worker {worker} {why}")
        if why and not self._stopping:
            self.note(f"worker {worker} on {node} {why}")
        self._check_end()

    def _lose(self, trajectory_ids: Sequence[str], why: str) -> None:
        """One loss is one failure of ours, however many rollouts it took with it."""
        for trajectory_id in trajectory_ids:
            attempt = self._book.lose(trajectory_id, why, self._now_s)
            if attempt is not None:
                self._attempt_ended(trajectory_id, attempt)
        self._count(why)

    async def _watch(self) -> None:
        """Expire silent workers and overdue leases; write attempts that no commit took along."""
        ttl_s = self._plan.executor.lease_ttl_s
        every_s = min(1.0, ttl_s / 5)
        flush_s = self._now_s + ATTEMPTS_FLUSH_S
        expected_s = self._now_s + every_s
        while True:
            await asyncio.sleep(every_s)
            # If this process itself stood still, nobody could be heard: that is not their fault.
            self._roster.excuse(max(0.0, self._now_s - expected_s))
            expected_s = self._now_s + every_s
            self._expire(ttl_s)
            if self._now_s > flush_s:
                await self._lane.flush()
                flush_s = self._now_s + ATTEMPTS_FLUSH_S
            self._check_end()

    def _expire(self, ttl_s: float) -> None:
        for worker, silent_s in self._roster.silent(ttl_s).items():
            self._lose_worker(worker, f"was silent for {silent_s:.1f} s")
        for trajectory_id in self._book.overdue(self._now_s):
            self._lose([trajectory_id], "held a rollout past the sum of its stage timeouts")
