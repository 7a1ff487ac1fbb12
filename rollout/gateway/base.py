"""One model call and its reply, in one shape whatever dialect the agent or the endpoint speaks.

The shape is that of OpenAI chat completions, the one that inference servers, trainers and chat
templates share. What it has no word for travels beside it: `raw` is the body as it came, and
between two ends of the same dialect it is what is sent on.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rollout.errors import ModelError
from rollout.types import Message

CHAT = "chat"
RESPONSES = "responses"
ANTHROPIC = "anthropic"
DIALECTS = (CHAT, RESPONSES, ANTHROPIC)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCall:
    """What an agent asks."""

    dialect: str
    model: str
    """By the agent's own name for it; the upstream puts the real one in its place."""
    messages: tuple[Message, ...]
    """The system prompt first, where there is one."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """`{"type": "function", "function": {"name", "description", "parameters"}}`."""
    tool_choice: str | Mapping[str, Any] | None = None
    """As of chat completions: `auto`, `none`, `required`, or one function."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """By the names of chat completions: temperature, top_p, max_tokens, stop, seed, …"""
    stream: bool = False
    raw: Mapping[str, Any] = field(default_factory=dict)
    """The body as it came; empty where the agent called from this side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    prompt_tokens: int = 0
    """Cached ones included."""
    completion_tokens: int = 0
    """Reasoning included."""
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """A call in the engine's own tokens. Whoever trains on it needs these very ids."""

    prompt_ids: "array[int]"
    """int32; all of it, as the engine made it of the messages."""
    completion_ids: "array[int]"
    """int32, its end-of-turn token included where that was sampled."""
    logprobs: "array[float]"
    """float32, one for each of `completion_ids`."""
    temperature: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReply:
    """What the model answers."""

    message: Message
    """Of the assistant."""
    finish_reason: str
    """`stop | length | tool_calls | content_filter`."""
    usage: Usage = Usage()
    model: str = ""
    """As the endpoint calls it."""
    dialect: str = CHAT
    """Of `raw`."""
    raw: Mapping[str, Any] = field(default_factory=dict)
    """The body as it came from the endpoint."""
    endpoint: str = ""
    """Which of several replicas."""
    tries: int = 1
    tokens: Tokens | None = None
    """With `model.capture=tokens`."""
    logprobs: str | None = None
    """JSON, `[[token, logprob], …]`, with `model.capture=logprobs`."""
    policy_version: int | None = None
    """As the endpoint tells it."""


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens."""

    prompt: float
    completion: float
    cached: float | None = None
    """None: as `prompt`."""

    def of(self, usage: Usage) -> float:
        cached = self.prompt if self.cached is None else self.cached
        fresh = usage.prompt_tokens - usage.cached_tokens
        total = fresh * self.prompt + usage.cached_tokens * cached
        return (total + usage.completion_tokens * self.completion) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What one rollout may use; None: as much as it likes."""

    turns: int | None = None
    """Model calls that were answered."""
    prompt_tokens: int | None = None
    """Summed over calls, each with its whole prompt."""
    completion_tokens: int | None = None
    cost_usd: float | None = None
    wall_s: float | None = None
    """From the first call on."""


class CallRefused(ModelError):
    """A call that was not answered, and what the agent is told. Each dialect says it in its way.

    `kind`: `invalid` (what was sent cannot be read, 400), `not_found` (no such route, 404),
    `max_turns | budget` (429), `context_overflow` (400), `upstream` (502), `too_large` (413).
    """

    def __init__(self, message: str, kind: str = "upstream") -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.kind)


class Upstream(Protocol):
    """Who answers. One object serves all rollouts of an arm in a worker."""

    async def __aenter__(self) -> "Upstream": ...

    async def __aexit__(self, *error: object) -> None: ...

    async def complete(self, call: ModelCall, session_id: str) -> ModelReply:
        """The reply, after retries. CallRefused of kind `context_overflow` where the prompt no
        longer fits, `invalid` where the endpoint refuses the call itself; ModelError where it
        fails for good. `session_id`: calls of one rollout go to one replica, for its cache.
        """

    def forget(self, session_id: str) -> None:
        """The rollout is over."""


class Dialect(Protocol):
    """One HTTP API, seen from its server."""

    @property
    def name(self) -> str: ...

    def read(self, body: Mapping[str, Any]) -> ModelCall:
        """CallRefused of kind `invalid` for what it cannot be."""

    def answer(self, call: ModelCall, reply: ModelReply) -> dict[str, Any]:
        """The reply as a body; `reply.raw` itself where that is of the same dialect."""

    def stream(self, call: ModelCall, reply: ModelReply) -> Sequence[tuple[str, str]]:
        """The same as server-sent events: each one's name (may be empty) and data."""

    def refusal(self, refused: CallRefused) -> tuple[int, dict[str, Any]]:
        """Status and body."""
