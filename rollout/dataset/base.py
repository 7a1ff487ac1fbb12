"""What a writer asks of the run's log. Small records only; rows are already in the store."""

from dataclasses import dataclass

from rollout.types import Attempt, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One written object of a table, not yet visible."""

    table: str
    """`trajectories` or `sequences`."""
    path: str
    """Relative to the run's root."""
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRequest:
    """Parts to make visible, whole or not at all."""

    worker: str
    epoch: int
    parts: tuple[Part, ...]
    trajectory_ids: tuple[str, ...]
    """One for each row of the trajectories part, in order."""
    outcomes: tuple[Outcome, ...]
    rewards: tuple[float | None, ...]
    attempts: tuple[tuple[Attempt, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitReply:
    accepted: bool
    duplicates: tuple[str, ...] = ()
    """Already accepted from another part: write a new part without these and ask again."""
