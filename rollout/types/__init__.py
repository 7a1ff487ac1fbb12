"""The glossary: every noun of a run as a frozen, picklable value. Stdlib only.

    digests     one spelling for one value
    endings     Outcome, StopReason, ScoreMode
    files       Tree, a small folder by value
    tasks       Blueprint, Resources, Task and what a task says of its own scoring
    plan        Plugin, Arm, RolloutSpec, Lease; the ids
    attempts    Attempt, one ended try
    workspace   Trust, Workspace: what of an agent's files its scorer gets to see
    sequences   Sequence, tokens as a trainer takes them
    trajectory  Message, Score, Phase, … and the Trajectory they make up
    groups      Group, the samples of one arm and task

What changes a result is part of a digest; what does not (executor, pool, store, retries) is not.
"""

from rollout.types.attempts import Attempt
from rollout.types.digests import canonical_json, count_by, digest_of
from rollout.types.endings import Outcome, ScoreMode, StopReason
from rollout.types.files import Tree, TreeEntry
from rollout.types.groups import Group
from rollout.types.plan import (
    Arm,
    Lease,
    Plugin,
    RolloutSpec,
    group_id,
    trajectory_id,
)
from rollout.types.sequences import Sequence, Span
from rollout.types.tasks import (
    NETWORKS,
    Blueprint,
    BuildStep,
    Collect,
    Dockerfile,
    HealthCheck,
    Output,
    Resources,
    Secret,
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
from rollout.types.workspace import Change, Changes, Share, Trust, Workspace

__all__ = [
    "NETWORKS",
    "AgentStep",
    "Arm",
    "Artifact",
    "Attempt",
    "Blueprint",
    "BuildStep",
    "Change",
    "Changes",
    "Collect",
    "Dockerfile",
    "Event",
    "Group",
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
    "Secret",
    "Sequence",
    "Share",
    "Span",
    "StopReason",
    "Task",
    "ToolCall",
    "Trajectory",
    "Tree",
    "TreeEntry",
    "Trust",
    "Verifier",
    "Workspace",
    "canonical_json",
    "count_by",
    "digest_of",
    "group_id",
    "trajectory_id",
]
