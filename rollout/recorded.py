"""A rollout of another run, its end state at hand: what is scored in place of an agent at work."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from rollout.transcript import Transcript
from rollout.types import Outcome, StopReason, Trajectory

JUDGED_LATE = frozenset({Outcome.SCORING_ERROR, Outcome.JUDGE_ERROR})
"""Ended in order, and then our scorer failed: the state that the agent left is as good as any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """The row, and the file of what its agent left."""

    row: Trajectory
    state: Path
    source: str
    """The run's root."""

    def retell(self, transcript: Transcript) -> None:
        """What was said and seen then is on record again. Tokens stay with the run they came of."""
        row = self.row
        transcript.messages.extend(row.messages)
        transcript.steps.extend(
            replace(step, sequence_index=None, token_start=None, token_end=None)
            for step in row.steps
        )
        transcript.integrity.extend(row.integrity)
        reward = "none" if row.reward is None else f"{row.reward:g}"
        transcript.event(
            "rescored",
            f"rollout {row.spec.trajectory_id} of {self.source}, {row.outcome}, reward {reward}",
        )

    @property
    def model_use(self) -> dict[str, Any]:
        """Of the agent's model, as it was then."""
        row = self.row
        return {
            "model_name": row.model_name,
            "tools": row.tools,
            "prompt_tokens": row.prompt_tokens,
            "completion_tokens": row.completion_tokens,
            "cost_usd": row.cost_usd,
            "policy_version_min": row.policy_version_min,
            "policy_version_max": row.policy_version_max,
        }

    @property
    def extra(self) -> dict[str, Any]:
        return {"rescored": {"run": self.source, "trajectory_id": self.row.spec.trajectory_id}}


def can_be_scored(outcome: Outcome, stop: StopReason | None) -> bool:
    """Whether an agent worked to its end, whatever became of its score."""
    return outcome.scored or (outcome in JUDGED_LATE and stop is not None)


class Recordings(Protocol):
    """Where an episode finds the one that it stands for."""

    def of(self, trajectory_id: str) -> AbstractAsyncContextManager[Recorded]:
        """By the id of the rollout that is to be; the file goes when the block ends."""
