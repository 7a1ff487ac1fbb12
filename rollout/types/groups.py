"""The samples of one arm and task: what a group-relative learner takes its baseline from."""

from dataclasses import dataclass

from rollout.types.trajectory import Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Up to `size` rollouts of one (arm, task), by sample; complete once none is missing.

    A member that failed for a reason of ours is one of them: it has no reward and is no part of a
    baseline, but waiting for it would be waiting for ever.
    """

    group_id: str
    arm: str
    task_id: str
    size: int
    """How many were planned."""
    trajectories: tuple[Trajectory, ...]
    """Sequences included, where the model's tokens were captured."""

    @property
    def complete(self) -> bool:
        """Whether every planned member is here, whatever became of it."""
        return len(self.trajectories) >= self.size

    @property
    def oldest_version(self) -> int | None:
        """Of the weights that sampled a token of its trainable members; None where nobody told."""
        versions = [member.policy_version_min for member in self.trainable]
        return min((version for version in versions if version is not None), default=None)

    @property
    def newest_version(self) -> int | None:
        versions = [member.policy_version_max for member in self.trainable]
        return max((version for version in versions if version is not None), default=None)

    @property
    def trainable(self) -> tuple[Trajectory, ...]:
        """The members with a reward that a trainer may use."""
        return tuple(member for member in self.trajectories if member.trainable)
