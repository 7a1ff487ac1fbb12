"""The lease book under every order of events: nothing is lost, nothing is held twice."""

from datetime import UTC, datetime

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from rollout.config import RetryConf
from rollout.executor.leases import LeaseBook
from rollout.types import Attempt, Lease, Outcome, RolloutSpec

NOW = datetime.now(UTC)
RETRY = RetryConf(max_attempts=3, backoff_s=1.0)


def spec(number: int) -> RolloutSpec:
    return RolloutSpec(
        trajectory_id=f"t{number:03d}",
        group_id="g",
        arm="a",
        task_id=f"task-{number // 4}",
        sample=number % 4,
        group_size=4,
    )


def book(count: int = 8, *, epoch: int = 1, attempts=None, accepted=(), limit_s=100.0) -> LeaseBook:
    return LeaseBook(
        [spec(number) for number in range(count)],
        accepted=accepted,
        attempts=attempts or {},
        epoch=epoch,
        retry=RETRY,
        limit_s=lambda _: limit_s,
    )


def failure(lease: Lease, worker: str = "w") -> Attempt:
    return Attempt(
        epoch=lease.epoch,
        n=lease.n,
        outcome=Outcome.SETUP_ERROR,
        worker=worker,
        started_at=NOW,
        finished_at=NOW,
        error="no room",
    )


def ids(leases: list[Lease]) -> list[str]:
    return [lease.spec.trajectory_id for lease in leases]


def test_leases_come_in_plan_order_and_what_comes_back_comes_first() -> None:
    it = book()
    assert ids(it.lease("a", 3, 0)) == ["t000", "t001", "t002"]
    it.give_back("a", ["t001"])
    assert ids(it.lease("b", 2, 0)) == ["t001", "t003"]
    assert it.coming(4) == (("task-1", 4),)
    assert (it.open, it.running, it.waiting) == (8, 4, 4)


def test_what_is_accepted_already_is_never_leased() -> None:
    it = book(3, accepted={"t000", "t002"})
    assert ids(it.lease("a", 9, 0)) == ["t001"]


def test_a_failed_attempt_rests_before_its_next_and_the_last_is_marked() -> None:
    it = book(1)
    seen = []
    now_s = 0.0
    for _ in range(3):
        [lease] = it.lease("a", 1, now_s)
        seen.append((lease.n, lease.last, len(lease.attempts), lease.record_only))
        if not lease.last:
            assert it.failed("a", "t000", failure(lease), now_s)
            assert it.lease("a", 1, now_s + 0.4) == []
            now_s += 10
    assert seen == [(1, False, 0, False), (2, False, 1, False), (3, True, 2, False)]


def test_numbers_go_on_over_starts_but_tries_are_counted_anew() -> None:
    [old] = book(1).lease("a", 1, 0)
    earlier = tuple(
        Attempt(
            epoch=1,
            n=n,
            outcome=Outcome.SANDBOX_LOST,
            worker="a",
            started_at=NOW,
            finished_at=NOW,
        )
        for n in (1, 2, 3)
    )
    [lease] = book(1, epoch=2, attempts={old.spec.trajectory_id: earlier}).lease("a", 1, 0)
    assert (lease.n, lease.last, lease.record_only, lease.attempts) == (4, False, False, earlier)


def test_a_lost_lease_is_an_attempt_on_record_and_lost_tries_end_in_a_row() -> None:
    it = book(1)
    for n in (1, 2, 3):
        [lease] = it.lease("a", 1, n * 100.0)
        assert (lease.n, lease.record_only) == (n, False)
        lost = it.lose("t000", "worker a was silent", n * 100.0)
        assert lost is not None
        assert (lost.n, lost.outcome, lost.worker) == (n, Outcome.SANDBOX_LOST, "a")
    [lease] = it.lease("b", 1, 1000.0)
    assert (lease.n, lease.record_only, len(lease.attempts)) == (3, True, 3)
    assert it.lose("t000", "again", 1000.0) is None
    assert [x.record_only for x in it.lease("c", 1, 1000.0)] == [True]


def test_what_another_worker_holds_cannot_be_failed_or_given_back() -> None:
    it = book(1)
    [lease] = it.lease("a", 1, 0)
    assert not it.failed("b", "t000", failure(lease), 0)
    it.give_back("b", ["t000"])
    assert it.holder("t000") == "a"


def test_an_attempt_told_twice_counts_once() -> None:
    it = book(1)
    [lease] = it.lease("a", 1, 0)
    assert it.failed("a", "t000", failure(lease), 0)
    assert not it.failed("a", "t000", failure(lease), 0)
    [again] = it.lease("a", 1, 100)
    assert not it.failed("a", "t000", failure(lease), 100)
    assert (again.n, it.holder("t000")) == (2, "a")


def test_the_deadline_is_the_specs_own() -> None:
    it = book(2, limit_s=5.0)
    it.lease("a", 1, 0)
    it.lease("a", 1, 3)
    assert it.overdue(4.9) == []
    assert it.overdue(5.1) == ["t000"]


class Books(RuleBasedStateMachine):
    """Workers lease, fail, give back, vanish and commit late, in any order."""

    workers = st.sampled_from("abc")

    def __init__(self) -> None:
        super().__init__()
        self.book = book(6)
        self.now_s = 0.0
        self.accepted: set[str] = set()
        self.ever: dict[str, list[Lease]] = {}
        """All leases ever given of an id, to any worker: a zombie may come back with any."""

    @rule(worker=workers, count=st.integers(1, 4))
    def lease(self, worker: str, count: int) -> None:
        for lease in self.book.lease(worker, count, self.now_s):
            name = lease.spec.trajectory_id
            assert name not in self.accepted
            before = self.ever.setdefault(name, [])
            assert lease.n == len(lease.attempts) + (not lease.record_only)
            assert lease.n <= RETRY.max_attempts
            before.append(lease)

    @rule(worker=workers, pick=st.integers(0, 5), which=st.integers(0, 9))
    def fail(self, worker: str, pick: int, which: int) -> None:
        leases = [x for x in self.ever.get(f"t{pick:03d}", []) if not x.record_only]
        if leases:
            lease = leases[which % len(leases)]
            self.book.failed(worker, lease.spec.trajectory_id, failure(lease, worker), self.now_s)

    @rule(worker=workers, pick=st.integers(0, 5))
    def give_back(self, worker: str, pick: int) -> None:
        self.book.give_back(worker, [f"t{pick:03d}"])

    @rule(worker=workers)
    def vanish(self, worker: str) -> None:
        for held in self.book.held_by(worker):
            self.book.lose(held.lease.spec.trajectory_id, "gone", self.now_s)

    @rule(pick=st.integers(0, 5))
    def commit_whoever_had_it(self, pick: int) -> None:
        if self.ever.get(f"t{pick:03d}"):
            self.book.accept(f"t{pick:03d}")
            self.accepted.add(f"t{pick:03d}")

    @rule(seconds=st.floats(0.0, 20.0))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @invariant()
    def every_spec_is_accepted_held_or_waiting(self) -> None:
        assert self.book.open == 6 - len(self.accepted)
        assert self.book.open == self.book.running + self.book.waiting

    def teardown(self) -> None:
        """Whatever happened: one good worker gets all that is left, each once."""
        for worker in "abc":
            self.book.give_back(
                worker, [held.lease.spec.trajectory_id for held in self.book.held_by(worker)]
            )
        left = ids(self.book.lease("good", 99, self.now_s + 1000.0))
        assert sorted([*left, *self.accepted]) == [f"t{number:03d}" for number in range(6)]


TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
