"""What happened in one rollout, as it becomes a row."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rollout.types.attempts import Attempt
from rollout.types.endings import Outcome, StopReason
from rollout.types.plan import RolloutSpec
from rollout.types.sequences import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One named verdict. `value` is finite or `None`, and then `error` says why."""

    name: str
    value: float | None
    weight: float = 1.0
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    id: str
    name: str
    arguments: str
    """JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One chat message in the one shape all dialects are recorded in."""

    role: str
    content: str = ""
    content_parts: str | None = None
    """JSON, where content is more than text."""
    reasoning_content: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentStep:
    """One turn, as spans over the messages."""

    source: str
    """`system`, `user` or `agent`."""
    message_start: int
    message_end: int
    started_at: datetime | None = None
    model_ms: float | None = None
    env_ms: float | None = None
    finish_reason: str | None = None
    error: str | None = None
    model_name: str | None = None
    """By the endpoint's own name."""
    api: str | None = None
    """The dialect that the agent spoke."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    cost_usd: float | None = None
    thread: int | None = None
    """Which conversation of the rollout it goes on with: 0 is the first."""
    after: int | None = None
    """The message that its first new one follows, where that is not the one before it."""
    policy_version: int | None = None
    sequence_index: int | None = None
    """Which of the trajectory's sequences holds the reply, at `[token_start, token_end)`."""
    token_start: int | None = None
    token_end: int | None = None
    logprobs: str | None = None
    """JSON, `[[token, logprob], …]`, where `model.capture` is `logprobs`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Time spent in one stage: `queue claim setup agent freeze score release`."""

    name: str
    start: datetime
    ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something worth telling that is no message: `resource_alert`, `retry`, …"""

    at: datetime
    kind: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    name: str
    uri: str
    """Relative to the run's root."""
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One accepted rollout: a row of the dataset."""

    run_id: str
    spec: RolloutSpec
    epoch: int
    attempt: int
    outcome: Outcome
    stop_reason: StopReason | None = None
    error_type: str = ""
    error_message: str = ""
    reward: float | None = None
    scores: tuple[Score, ...] = ()
    scorer_output: str = ""
    """Head and tail of what the scorer printed; for people."""
    messages: tuple[Message, ...] = ()
    tools: str | None = None
    steps: tuple[AgentStep, ...] = ()
    events: tuple[Event, ...] = ()
    integrity: tuple[str, ...] = ()
    """Signs of tampering, one line each."""
    phases: tuple[Phase, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    """Every ended attempt, this one last."""
    artifacts: tuple[Artifact, ...] = ()
    limits_enforced: tuple[str, ...] = ()
    blueprint: str = ""
    blueprint_digest: str = ""
    task_digest: str = ""
    dataset: str = ""
    split: str = ""
    agent_name: str = ""
    agent_version: str = ""
    agents: tuple[tuple[str, str, str], ...] = ()
    """Mounted in the sandbox: name, exact version and where from."""
    model_name: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float | None = None
    capture_level: str = "text"
    """`tokens | logprobs | text`: what is known of the model's replies."""
    sequences: tuple[Sequence, ...] = ()
    """Rows of the other table; a trajectory that is read back has none."""
    policy_version_min: int | None = None
    policy_version_max: int | None = None
    arm_digest: str = ""
    started_at: datetime
    finished_at: datetime
    node: str = ""
    sandbox_id: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trainable(self) -> bool:
        """Whether a trainer may use the reward: scored, and nothing of ours failed."""
        return self.outcome.scored and self.reward is not None
