"""The protocol as such: the real coordinators and the real log, under every order of events.

Workers are played. Each call may be lost on its way, its answer may be lost, a commit may come
late, twice, or out of the hands of a worker long given up; coordinators are taken over and go on as
zombies, and the workers of a new start have the names of the old one's. Whatever happened, an
honest worker then finishes the run, and each planned rollout is in it once.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from rollout.config import RetryConf
from rollout.dataset.base import CommitReply, CommitRequest, Part
from rollout.dataset.log import CommitLog
from rollout.dataset.store import LocalStore
from rollout.errors import RolloutError
from rollout.executor.base import Heartbeat
from rollout.executor.coordinator import RunCoordinator
from rollout.types import Lease, Message, Outcome, Trajectory
from tests.dataset.examples import put_rows
from tests.executor.plans import committed_rows, load_state, make_arm, make_plan
from tests.executor.test_coordinator import ended, row

DAY = int(time.time()) // 86_400
SEEDS = range(6 * DAY, 6 * DAY + 6)
"""Other ones each day."""
STEPS = 200

TTL_S = 1000.0
"""No worker is silent for so long while a test runs; they are given up by rule."""


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time can be moved on."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s


@dataclass
class Played:
    """A worker: what it believes, which may be long out of date."""

    name: str
    coordinator: RunCoordinator
    epoch: int
    running: dict[str, Lease] = field(default_factory=dict)
    ended: dict[str, Trajectory] = field(default_factory=dict)
    """Rows in its buffer, or in a part that is not answered yet."""
    asking: CommitRequest | None = None


class Protocol:
    def __init__(self, folder: Path, seed: int, *, growing: bool) -> None:
        """`growing`: a trainer asks for one planned rollout after the other."""
        self.rng = random.Random(seed)
        self.folder = folder
        self.loop = Clock()
        retry = RetryConf(max_attempts=1000, backoff_s=0.01, storm_share=1.0)
        arm = make_arm("default", "rollout.agents.nop.Nop")
        self.plan = make_plan(
            self.folder, [arm], tasks=3, samples=4, retry=retry, lease_ttl_s=TTL_S
        )
        self.planned = self.plan.specs
        self.asked = len(self.planned)
        if growing:
            self.asked = self.rng.randrange(3)
            self.plan = replace(self.plan, growing=True, specs=self.planned[: self.asked])
        self.store = LocalStore(self.plan.run_uri)
        self.coordinators: list[RunCoordinator] = []
        self.workers: list[Played] = []
        self.sent: list[tuple[RunCoordinator, CommitRequest]] = []
        """Every commit that was ever sent: the net may deliver it again."""
        self.made: dict[str, str] = {}
        """The ledger: nonce to the id of the rollout that was really made."""
        self.parts = 0
        self.looked_at: dict[str, Part] = {}

    def close(self) -> None:
        for coordinator in self.coordinators:
            self.do(coordinator.close())
        self.loop.close()

    def step(self) -> None:
        """Something that can happen now does."""
        can: dict[Callable[[], None], float] = {
            self.a_worker_begins: 1,
            self.time_passes: 1,
            self.lease: 4 * bool(self.workers),
            self.beat: 2 * bool(self.workers),
            self.a_rollout_ends: 6 * bool(self.busy),
            self.a_rollout_fails: 1 * bool(self.busy),
            self.a_worker_is_given_up: 0.5 * bool(self.busy or self.full),
            self.send: 3 * bool(self.full),
            self.ask: 4 * bool(self.waiting),
            self.an_old_message_comes_again: 1 * bool(self.sent),
            self.start: 0.3 * bool(self.sent),
            self.more_is_asked_for: 1 * (self.asked < len(self.planned)),
        }
        (happens,) = self.rng.choices(list(can), list(can.values()))
        happens()

    def do(self, call: Any) -> Any:
        return self.loop.run_until_complete(call)

    @property
    def now(self) -> RunCoordinator:
        """The one that owns the run."""
        return self.coordinators[-1]

    # ---------------------------------------------------------------- who there is

    def start(self) -> None:
        """The first start, or a take-over: the coordinator before lives on and knows nothing."""
        coordinator = RunCoordinator(self.plan, CommitLog(self.store, f"{len(self.coordinators)}"))
        self.do(coordinator.start())
        self.coordinators.append(coordinator)
        if self.plan.growing:
            self.do(coordinator.extend(self.planned[: self.asked]))

    def more_is_asked_for(self) -> None:
        """Some of it may be known already: whoever had no answer asks again."""
        first = self.rng.randrange(self.asked + 1)
        self.asked += self.rng.randint(1, len(self.planned) - self.asked)
        self.do(self.now.extend(self.planned[first : self.asked]))

    def a_worker_begins(self) -> None:
        """By the same few names in each start."""
        name = f"w{self.rng.randrange(3)}"
        if all((w.name, w.coordinator) != (name, self.now) for w in self.workers):
            epoch = self.do(self.now.register(name, "node", 1))
            self.workers.append(Played(name, self.now, epoch))

    def a_worker_is_given_up(self) -> None:
        """It may be dead, or go on without knowing."""
        worker = self.rng.choice(self.busy or self.full)
        self.do(self.in_loop(worker.coordinator.worker_lost, worker.name, "was silent"))
        if self.rng.random() < 0.5:
            self.workers.remove(worker)

    def time_passes(self) -> None:
        self.loop.ahead_s += self.rng.choice([1.0, 3 * TTL_S])

    # ---------------------------------------------------------------- what a worker does

    def lease(self) -> None:
        worker = self.rng.choice(self.workers)
        reply = self.do(worker.coordinator.lease(worker.name, self.rng.randint(1, 4)))
        if self.arrives():
            worker.running |= {lease.spec.trajectory_id: lease for lease in reply.leases}

    def a_rollout_ends(self) -> None:
        worker = self.rng.choice(self.busy)
        name = self.rng.choice(list(worker.running))
        lease = worker.running.pop(name)
        worker.ended[name] = self.a_row(lease, worker.name)

    def a_rollout_fails(self) -> None:
        worker = self.rng.choice(self.busy)
        name = self.rng.choice(list(worker.running))
        lease = worker.running.pop(name)
        attempt = ended(lease, Outcome.SETUP_ERROR, worker.name)
        if self.arrives():
            self.do(worker.coordinator.attempt_failed(worker.name, name, attempt))

    def send(self) -> None:
        """Write a part of what has ended, and ask for it once."""
        worker = self.rng.choice(self.full)
        worker.asking = self.put(worker)
        self.sent.append((worker.coordinator, worker.asking))

    def ask(self) -> None:
        """A commit comes to the coordinator; its answer may be lost, then it is asked again."""
        worker = self.rng.choice(self.waiting)
        assert worker.asking is not None
        reply = self.delivered(worker.coordinator, worker.asking)
        if self.arrives():
            self.settle(worker, reply)

    def an_old_message_comes_again(self) -> None:
        self.delivered(*self.rng.choice(self.sent))

    def beat(self) -> None:
        worker = self.rng.choice(self.workers)
        held = (*worker.running, *worker.ended)
        beat = Heartbeat(worker=worker.name, epoch=worker.epoch, state="", held=held)
        reply = self.do(worker.coordinator.heartbeat(beat))
        if self.arrives():
            for name in reply.lost:
                worker.running.pop(name, None)
            if reply.stop:
                self.workers.remove(worker)

    # ---------------------------------------------------------------- what holds

    def nothing_is_doubled_or_made_up(self) -> None:
        if not self.coordinators or self.looked_at == (named := load_state(self.plan).parts):
            return
        self.looked_at = named
        rows = committed_rows(self.plan)
        ids = [row["trajectory_id"] for row in rows]
        assert len(set(ids)) == len(ids)
        for each in rows:
            assert self.made[each["messages"][-1]["content"]] == each["trajectory_id"]
        numbers = [[(a["epoch"], a["n"]) for a in row["attempts"]] for row in rows]
        assert all(each == sorted(set(each)) for each in numbers)

    def finish_honestly(self) -> None:
        """Another start, one worker that does all as it should: nothing is missing then."""
        self.asked = len(self.planned)
        self.start()
        if self.plan.growing:
            self.do(self.in_loop(self.now.seal))
        worker = Played("honest", self.now, self.do(self.now.register("honest", "node", 1)))
        for _ in range(2 * len(self.planned)):
            self.loop.ahead_s += 60
            reply = self.do(self.now.lease(worker.name, 4))
            for lease in reply.leases:
                worker.ended[lease.spec.trajectory_id] = self.a_row(lease, worker.name)
            if worker.ended:
                request = self.put(worker)
                answer = self.delivered(self.now, request)
                assert answer is not None
                assert answer.accepted
                worker.ended.clear()
        planned = sorted(spec.trajectory_id for spec in self.planned)
        assert self.now.ended
        assert sorted(row["trajectory_id"] for row in committed_rows(self.plan)) == planned
        self.nothing_is_doubled_or_made_up()

    # ---------------------------------------------------------------- small things

    async def in_loop(self, call: Callable[..., None], *args: Any) -> None:
        call(*args)

    @property
    def busy(self) -> list[Played]:
        return [worker for worker in self.workers if worker.running]

    @property
    def full(self) -> list[Played]:
        return [worker for worker in self.workers if worker.ended and worker.asking is None]

    @property
    def waiting(self) -> list[Played]:
        return [worker for worker in self.workers if worker.asking is not None]

    def arrives(self) -> bool:
        """Whether the net brings it."""
        return self.rng.random() < 0.8

    def a_row(self, lease: Lease, worker: str) -> Trajectory:
        nonce = f"nonce-{len(self.made)}"
        self.made[nonce] = lease.spec.trajectory_id
        message = Message(role="assistant", content=nonce)
        return replace(row(lease, worker=worker), messages=(message,))

    def put(self, worker: Played) -> CommitRequest:
        self.parts += 1
        rows = list(worker.ended.values())
        return put_rows(
            self.store, *rows, epoch=worker.epoch, number=self.parts, worker=worker.name
        )

    def delivered(self, coordinator: RunCoordinator, request: CommitRequest) -> CommitReply | None:
        """The answer; None where the coordinator refuses, as one that was taken over must."""
        try:
            reply: CommitReply = self.do(coordinator.commit(request))
        except RolloutError:
            assert coordinator is not self.now
            return None
        return reply

    def settle(self, worker: Played, reply: CommitReply | None) -> None:
        """As the writer does: what is there already is left out of the next part."""
        request, worker.asking = worker.asking, None
        assert request is not None
        if reply is None:
            self.workers.remove(worker)
            return
        done = request.trajectory_ids if reply.accepted else reply.duplicates
        for name in done:
            worker.ended.pop(name, None)


@pytest.mark.parametrize("growing", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_each_planned_rollout_is_there_once_whatever_happens(
    tmp_path: Path, seed: int, growing: bool
) -> None:
    protocol = Protocol(tmp_path, seed, growing=growing)
    try:
        protocol.start()
        for _ in range(STEPS):
            protocol.step()
            protocol.nothing_is_doubled_or_made_up()
        protocol.finish_honestly()
    finally:
        protocol.close()
