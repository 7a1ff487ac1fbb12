"""The book of one start of a run: what waits, who holds what, what was tried. Pure bookkeeping.

Time is an argument, nothing is awaited and nothing is written. Three rules:
a spec is either accepted, held by one worker, or waiting; an attempt that ended is never
forgotten; and the number of tries is counted per start, so that starting a run again, or
`retry`, always gives what is missing its tries.
"""

import heapq
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

from rollout.config import RetryConf
from rollout.types import Attempt, Lease, Outcome, RolloutSpec

COMING_LOOKAHEAD = 256
"""How many waiting specs `coming` looks at; further ahead no pool warms anything."""


@dataclass(slots=True)
class Held:
    """A lease in a worker's hands. Times are on the coordinator's monotonic clock."""

    worker: str
    lease: Lease
    granted_s: float
    granted_at: datetime
    deadline_s: float


class LeaseBook:
    """Every spec of the plan that is not accepted yet."""

    def __init__(
        self,
        specs: Sequence[RolloutSpec],
        *,
        accepted: Collection[str],
        attempts: Mapping[str, Sequence[Attempt]],
        epoch: int,
        retry: RetryConf,
        limit_s: Callable[[RolloutSpec], float],
    ) -> None:
        """`limit_s`: how long a worker may hold a lease of this spec at most."""
        self._specs: dict[str, RolloutSpec] = {}
        self._order: dict[str, int] = {}
        self._recorded = attempts
        self._attempts: dict[str, tuple[Attempt, ...]] = {}
        self._epoch = epoch
        self._retry = retry
        self._limit_s = limit_s
        self._ready: list[tuple[int, str]] = []
        self._resting: list[tuple[float, int, str]] = []
        self._waiting: set[str] = set()
        self._held: dict[str, Held] = {}
        self._hands: dict[str, dict[str, Held]] = {}
        """Worker to what it holds."""
        self.add(spec for spec in specs if spec.trajectory_id not in accepted)

    def add(self, specs: Iterable[RolloutSpec]) -> None:
        """More to do, in this order, behind what is there. What is known already, accepted since
        it was, or held, is passed over."""
        for spec in specs:
            name = spec.trajectory_id
            if name in self._order:
                continue
            self._specs[name] = spec
            place = self._order[name] = len(self._order)
            if name in self._recorded:
                self._attempts[name] = tuple(self._recorded[name])
            self._waiting.add(name)
            heapq.heappush(self._ready, (place, name))

    @property
    def open(self) -> int:
        """How many specs are not accepted."""
        return len(self._specs)

    @property
    def running(self) -> int:
        return len(self._held)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def holder(self, trajectory_id: str) -> str | None:
        held = self._held.get(trajectory_id)
        return held.worker if held else None

    def held_by(self, worker: str) -> list[Held]:
        return list(self._hands.get(worker, {}).values())

    def overdue(self, now_s: float) -> list[str]:
        """Ids whose lease is past its hard deadline."""
        return [name for name, held in self._held.items() if held.deadline_s < now_s]

    # ---------------------------------------------------------------- giving out

    def lease(self, worker: str, count: int, now_s: float) -> list[Lease]:
        """Up to `count` leases in plan order, so that one image's specs go out together."""
        self._wake(now_s)
        leases: list[Lease] = []
        while self._ready and len(leases) < count:
            _, name = heapq.heappop(self._ready)
            if name in self._waiting:
                leases.append(self._grant(worker, name, now_s))
        return leases

    def coming(self, limit: int) -> tuple[tuple[str, int], ...]:
        """Task ids and counts of about the next `limit` leases, soonest first."""
        soon = heapq.nsmallest(limit, islice(self._ready, COMING_LOOKAHEAD))
        counts: dict[str, int] = {}
        for name in (name for _, name in soon if name in self._waiting):
            task = self._specs[name].task_id
            counts[task] = counts.get(task, 0) + 1
        return tuple(counts.items())

    def next_wake_s(self) -> float | None:
        """When the first retry is due, if nothing can be leased before."""
        return self._resting[0][0] if self._resting else None

    def _wake(self, now_s: float) -> None:
        while self._resting and self._resting[0][0] <= now_s:
            _, place, name = heapq.heappop(self._resting)
            heapq.heappush(self._ready, (place, name))

    def _grant(self, worker: str, name: str, now_s: float) -> Lease:
        spec, tried = self._specs[name], self._attempts.get(name, ())
        used_up = self._tries(name) >= self._retry.max_attempts
        latest = max((attempt.n for attempt in tried), default=0)
        lease = Lease(
            spec=spec,
            epoch=self._epoch,
            n=latest if used_up else latest + 1,
            last=self._tries(name) + 1 >= self._retry.max_attempts,
            attempts=tried,
            record_only=used_up,
        )
        self._waiting.discard(name)
        held = Held(worker, lease, now_s, datetime.now(UTC), now_s + self._limit_s(spec))
        self._held[name] = self._hands.setdefault(worker, {})[name] = held
        return lease

    def _tries(self, name: str) -> int:
        return sum(attempt.epoch == self._epoch for attempt in self._attempts.get(name, ()))

    # ---------------------------------------------------------------- taking back

    def accept(self, trajectory_id: str) -> None:
        """Its row is committed, whoever wrote it; anything else about it is void."""
        self._specs.pop(trajectory_id, None)
        self._attempts.pop(trajectory_id, None)
        self._let_go(trajectory_id)
        self._waiting.discard(trajectory_id)

    def failed(self, worker: str, trajectory_id: str, attempt: Attempt, now_s: float) -> bool:
        """An attempt ended in an outcome of ours; False when `worker` does not hold that lease."""
        held = self._held.get(trajectory_id)
        if held is None or held.worker != worker or held.lease.n != attempt.n:
            return False
        self._end_attempt(trajectory_id, attempt, now_s)
        return True

    def give_back(self, worker: str, trajectory_ids: Iterable[str]) -> None:
        """Not started, or stopped on our own account: no attempt, ready at once."""
        for name in trajectory_ids:
            if self.holder(name) == worker:
                self._let_go(name)
                self._put_back(name)

    def lose(self, trajectory_id: str, error: str, now_s: float) -> Attempt | None:
        """Its worker is gone, or it is past its deadline: an attempt that ended unseen.

        A lease that only records has no attempt to lose: `None`.
        """
        held = self._held[trajectory_id]
        if held.lease.record_only:
            self._let_go(trajectory_id)
            self._put_back(trajectory_id)
            return None
        attempt = Attempt(
            epoch=self._epoch,
            n=held.lease.n,
            outcome=Outcome.SANDBOX_LOST,
            worker=held.worker,
            started_at=held.granted_at,
            finished_at=datetime.now(UTC),
            error=error,
        )
        self._end_attempt(trajectory_id, attempt, now_s)
        return attempt

    def _end_attempt(self, name: str, attempt: Attempt, now_s: float) -> None:
        self._let_go(name)
        self._attempts[name] = (*self._attempts.get(name, ()), attempt)
        pause_s = self._retry.backoff_s * 2 ** (self._tries(name) - 1)
        due_s = now_s + pause_s * random.uniform(0.5, 1.5)
        heapq.heappush(self._resting, (due_s, self._order[name], name))
        self._waiting.add(name)

    def _let_go(self, name: str) -> None:
        held = self._held.pop(name, None)
        if held is not None:
            del self._hands[held.worker][name]

    def _put_back(self, name: str) -> None:
        heapq.heappush(self._ready, (self._order[name], name))
        self._waiting.add(name)
