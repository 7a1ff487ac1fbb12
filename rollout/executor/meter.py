"""Where a worker's figures go besides the coordinator."""

from collections.abc import Mapping
from typing import Protocol

from rollout.types import Trajectory


class Meter(Protocol):
    """Shows figures to people; what it does must be quick and never fail."""

    def ended(self, trajectory: Trajectory) -> None:
        """One attempt ended, whether or not it becomes a row."""

    def observe(self, counts: Mapping[str, float]) -> None:
        """How many sandboxes are `warm`, `claimed`, `creating`, … now."""


class Unmetered:
    """A Meter for where nobody looks."""

    def ended(self, trajectory: Trajectory) -> None:
        pass

    def observe(self, counts: Mapping[str, float]) -> None:
        pass


def state_of(counts: Mapping[str, float]) -> str:
    """Such as `running 31, warm 4, creating 1`."""
    told = ("running", "warm", "claimed", "creating")
    return ", ".join(f"{name} {counts[name]:g}" for name in told if name in counts) or "starting"
