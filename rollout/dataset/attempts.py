"""Ended attempts as the log tells them, and the book of them that a run's state keeps.

Of a million rollouts hardly one is asked for its attempts again, yet none may be forgotten. So
they are held as short texts, a tenth of the size of the objects, and read when somebody asks.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from typing import Any

from rollout.types import Attempt, Outcome

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class AttemptBook(Mapping[str, tuple[Attempt, ...]]):
    """Trajectory id to its ended attempts, oldest first."""

    def __init__(self, load: Callable[[], dict[str, str]] = dict) -> None:
        """`load` gives what `packed` begins with; only a book that is opened asks for it."""
        self._load = load

    @cached_property
    def packed(self) -> dict[str, str]:
        """Trajectory id to its attempts as JSON: `[[epoch, n, outcome, worker, …], …]`."""
        return self._load()

    def add(self, trajectory_id: str, plain: Iterable[Mapping[str, Any]]) -> None:
        """Those of a log entry; what is known already stays as it is."""
        attempts: Iterable[Attempt] = map(attempt_from, plain)
        if trajectory_id in self.packed:
            attempts = merge(self[trajectory_id], attempts)
        self.packed[trajectory_id] = json.dumps(list(map(_pack, attempts)), separators=(",", ":"))

    def __getitem__(self, trajectory_id: str) -> tuple[Attempt, ...]:
        return tuple(map(_unpack, json.loads(self.packed[trajectory_id])))

    def __contains__(self, trajectory_id: object) -> bool:
        return trajectory_id in self.packed

    def __iter__(self) -> Iterator[str]:
        return iter(self.packed)

    def __len__(self) -> int:
        return len(self.packed)

    def __copy__(self) -> "AttemptBook":
        opened = "packed" in vars(self)
        return AttemptBook(partial(dict, dict(self.packed)) if opened else self._load)


def _pack(a: Attempt) -> list[Any]:
    started, finished = ((at - _EPOCH) // _MICROSECOND for at in (a.started_at, a.finished_at))
    return [a.epoch, a.n, a.outcome.value, a.worker, started, finished, a.error]


def _unpack(packed: Sequence[Any]) -> Attempt:
    epoch, n, outcome, worker, started, finished, error = packed
    return Attempt(
        epoch=epoch,
        n=n,
        outcome=Outcome(outcome),
        worker=worker,
        started_at=_EPOCH + started * _MICROSECOND,
        finished_at=_EPOCH + finished * _MICROSECOND,
        error=error,
    )


def dump_attempt(attempt: Attempt) -> dict[str, Any]:
    """An attempt as it stands in a log entry."""
    return {
        "epoch": attempt.epoch,
        "n": attempt.n,
        "outcome": attempt.outcome.value,
        "worker": attempt.worker,
        "started_at": attempt.started_at.astimezone(UTC).isoformat(),
        "finished_at": attempt.finished_at.astimezone(UTC).isoformat(),
        "error": attempt.error,
    }


def attempt_from(plain: Mapping[str, Any]) -> Attempt:
    """The inverse of `dump_attempt`."""
    return Attempt(
        epoch=plain["epoch"],
        n=plain["n"],
        outcome=Outcome(plain["outcome"]),
        worker=plain["worker"],
        started_at=datetime.fromisoformat(plain["started_at"]),
        finished_at=datetime.fromisoformat(plain["finished_at"]),
        error=plain["error"],
    )


def merge(known: Sequence[Attempt], more: Iterable[Attempt]) -> tuple[Attempt, ...]:
    """Both, each (epoch, n) once, oldest first; what is known stays as it is."""
    by_key = {(a.epoch, a.n): a for a in (*more, *known)}
    return tuple(by_key[key] for key in sorted(by_key))
