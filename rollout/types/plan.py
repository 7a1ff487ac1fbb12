"""What is to be done: arms, the rollouts of each, and the right to make one attempt."""

import json
from dataclasses import dataclass
from typing import Any

from rollout.types.attempts import Attempt
from rollout.types.digests import digest_of, digest_without
from rollout.types.endings import ScoreMode
from rollout.types.workspace import Trust


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """Something a user brings by name: built in the worker by `target(**params)`."""

    target: str
    """Dotted path of a class or function."""
    params: str = "{}"
    """Keyword arguments as canonical JSON, so that a plugin is hashable and crosses processes."""
    version: str = ""
    """Of the code behind it, where it tells one: a new version is a changed arm."""

    def kwargs(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.params)
        return loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One point of the sweep: everything but task and sample that can change a result."""

    name: str
    """Short and unique in the run, such as `agent=oracle`; `default` without a sweep."""
    agent: Plugin
    scorer: Plugin
    blueprint: str = ""
    """The hash of the run's blueprint, where that is swept over; else the tasks tell."""
    model: str = ""
    """Canonical JSON of the model's settings; empty without a model."""
    score_mode: ScoreMode = ScoreMode.AS_DECLARED
    trust: Trust = Trust.AS_DECLARED
    agent_timeout_s: float | None = None
    """Overrides the task's."""
    timeout_multiplier: float = 1.0
    settings: tuple[tuple[str, str], ...] = ()
    """The sweep's own keys and values, for tables."""

    @property
    def digest(self) -> str:
        # Younger than the first datasets, whose arms keep their digests: left out where they say
        # nothing.
        younger = {
            "trust": self.trust is Trust.AS_DECLARED,
            "blueprint": not self.blueprint,
        }
        silent = [name for name, says_nothing in younger.items() if says_nothing]
        return digest_without(self, "name", "settings", *silent)


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSpec:
    """One attempt-able unit of the plan; tasks and arms are looked up by the worker."""

    trajectory_id: str
    group_id: str
    arm: str
    task_id: str
    sample: int
    group_size: int


def trajectory_id(
    run_id: str, arm_digest: str, task_digest: str, sample: int, round: int = 0
) -> str:
    """32 hex digits that name one planned rollout for ever."""
    again = ["round", round] if round else []
    return digest_of([run_id, arm_digest, task_digest, sample, *again])[:32]


def group_id(run_id: str, arm_digest: str, task_digest: str, round: int = 0) -> str:
    """32 hex digits shared by the samples of one (arm, task), each time that a trainer asks for
    them: its `round`, from 0."""
    again = ["round", round] if round else []
    return digest_of([run_id, arm_digest, task_digest, *again])[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to make one attempt, for as long as the worker's heartbeat lives."""

    spec: RolloutSpec
    epoch: int
    n: int
    """This attempt's number, from 1, over all starts of the run."""
    last: bool
    """No retry follows: its row is committed whatever the outcome."""
    attempts: tuple[Attempt, ...] = ()
    """Ended before, oldest first."""
    record_only: bool = False
    """Nothing is run: workers were lost until no retry was left. The row tells the last attempt."""
