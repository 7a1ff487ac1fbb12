"""How rollouts and agents end, and where the end is judged: closed sets, no free strings."""

from enum import StrEnum


class Outcome(StrEnum):
    """How a rollout ended. The first eight are scored on the end state; the rest are ours."""

    OK = "ok"
    """The agent ended in order."""
    MAX_TURNS = "max_turns"
    BUDGET = "budget"
    """Tokens, cost or another budget of the agent was used up."""
    CONTEXT_OVERFLOW = "context_overflow"
    AGENT_TIMEOUT = "agent_timeout"
    AGENT_ERROR = "agent_error"
    OUT_OF_MEMORY = "out_of_memory"
    OUT_OF_DISK = "out_of_disk"

    SETUP_ERROR = "setup_error"
    """No sandbox could be made ready: image, staging or launch commands failed."""
    SANDBOX_LOST = "sandbox_lost"
    MODEL_ERROR = "model_error"
    SCORING_ERROR = "scoring_error"
    JUDGE_ERROR = "judge_error"
    CANCELED = "canceled"

    @property
    def scored(self) -> bool:
        """Whether it carries a reward; if not, the failure was ours, never the agent's."""
        return self not in _OURS


_OURS = frozenset(
    {
        Outcome.SETUP_ERROR,
        Outcome.SANDBOX_LOST,
        Outcome.MODEL_ERROR,
        Outcome.SCORING_ERROR,
        Outcome.JUDGE_ERROR,
        Outcome.CANCELED,
    }
)


class StopReason(StrEnum):
    """How the agent ended, kept even when scoring fails afterwards."""

    COMPLETED = "completed"
    MAX_TURNS = "max_turns"
    BUDGET = "budget"
    CONTEXT_OVERFLOW = "context_overflow"
    TIMEOUT = "timeout"
    ERROR = "error"


class ScoreMode(StrEnum):
    """Where the scorer works."""

    AS_DECLARED = "as_declared"
    """As the task says: Harbor's `shared` is SHARED, `separate` is FRESH; our own say FORK."""
    FRESH = "fresh"
    """A pristine sandbox that receives only the declared outputs."""
    FORK = "fork"
    """A new sandbox on the agent's frozen file system; no process of the agent runs there."""
    SHARED = "shared"
    """The agent's own sandbox, its services still running."""
