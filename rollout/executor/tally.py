"""Counts of what is committed, kept as it happens; the closing table reads the dataset instead."""

from collections.abc import Iterable

from rollout.types import Outcome, RolloutSpec


class Tally:
    """Outcomes, and committed rows and rewards by arm, of the specs of one plan."""

    def __init__(self, specs: Iterable[RolloutSpec]) -> None:
        self._specs: dict[str, RolloutSpec] = {}
        self._seen: set[str] = set()
        self.outcomes: dict[str, int] = {}
        self.arms: dict[str, tuple[int, int, float]] = {}
        """Arm to (committed, scored, sum of rewards)."""
        self.expect(specs)

    def expect(self, specs: Iterable[RolloutSpec]) -> None:
        """These are part of the plan too."""
        for spec in specs:
            self._specs[spec.trajectory_id] = spec
            self.arms.setdefault(spec.arm, (0, 0, 0.0))

    @property
    def total(self) -> int:
        return len(self._specs)

    @property
    def done(self) -> int:
        return len(self._seen)

    def __contains__(self, trajectory_id: str) -> bool:
        return trajectory_id in self._seen

    def add(self, trajectory_id: str, outcome: Outcome, reward: float | None) -> None:
        """Count a committed row once; rows that this plan does not ask for are no part of it."""
        spec = self._specs.get(trajectory_id)
        if spec is None or trajectory_id in self._seen:
            return
        self._seen.add(trajectory_id)
        self.outcomes[outcome.value] = self.outcomes.get(outcome.value, 0) + 1
        committed, scored, total = self.arms[spec.arm]
        self.arms[spec.arm] = (
            committed + 1,
            scored + (reward is not None),
            total + (reward or 0.0),
        )
