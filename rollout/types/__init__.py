"""The glossary: every noun of a run as a frozen, picklable value. Stdlib only.

    digests     one spelling for one value
    endings     Outcome, StopReason, ScoreMode
    files       Tree, a small folder by value
    tasks       Blueprint, Resources, Task and what a task says of its own scoring
    plan        Plugin, Arm, RolloutSpec, Lease; the ids
    attempts    Attempt, one ended try
    trajectory  Message, Score, Phase, … and the Trajectory they make up

What changes a result is part of a digest; what does not (executor, pool, store, retries) is not.
"""

from rollout.types.attempts import Attempt
from rollout.types.digests import canonical_json, count_by, digest_of
from rollout.types.endings import Outcome, ScoreMode, StopReason
from rollout.types.files import Tree, TreeEntry
from rollout.types.plan import (
    Arm,
    Lease,
    Plugin,
    RolloutSpec,
    group_id,
    trajectory_id,
)
from rollout.types.tasks import (
    Blueprint,
    BuildStep,
    Collect,
    HealthCheck,
    Output,
    Resources,
    Task,
    Verifier,
)
from rollout.types.trajectory import (
    AgentStep,
    Artifact,
    Event,
    Message,
    Phase,
    Score,
    ToolCall,
    Trajectory,
)

__all__ = [
    "AgentStep",
    "Arm",
    "Artifact",
    "Attempt",
    "Blueprint",
    "BuildStep",
    "Collect",
    "Event",
    "HealthCheck",
    "Lease",
    "Message",
    "Outcome",
    "Output",
    "Phase",
    "Plugin",
    "Resources",
    "RolloutSpec",
    "Score",
    "ScoreMode",
    "StopReason",
    "Task",
    "ToolCall",
    "Trajectory",
    "Tree",
    "TreeEntry",
    "Verifier",
    "canonical_json",
    "count_by",
    "digest_of",
    "group_id",
    "trajectory_id",
]
