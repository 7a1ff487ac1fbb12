"""Token sequences of a rollout, as a trainer takes them: never tokenised again, only as sampled."""

from array import array
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch `[start, end)` of a sequence's tokens, all of one kind."""

    start: int
    end: int
    kind: str
    """`prompt | sampled | env | realigned`; only `sampled` is trained on."""
    step: int | None = None
    """Of `sampled`: the trajectory's step that it is the reply of."""
    policy_version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequence:
    """One trainable row. The three arrays are aligned and equally long.

    A rollout has one where each prompt goes on from all that went before, and one more for each
    prompt that does not: a compaction, a sub-agent, a harness that sends something else back.
    """

    role: str
    """`main | subagent | continuation`."""
    token_ids: "array[int]"
    """int32, prompt and all."""
    loss_mask: bytes
    """1 where the policy sampled the token and this sequence is the one that trains it, else 0."""
    logprobs: "array[float]"
    """float32, of sampled tokens as the engine told them; 0.0 where the mask is 0."""
    spans: tuple[Span, ...]
    finish_reason: str
    """Of its last reply."""
    temperature: float | None = None
    model_name: str = ""
    drift_tokens: int = 0
    """Sampled ones that a harness changed on their way back, replaced by what it sent."""
    dropped: tuple[tuple[int, tuple[int, ...], tuple[float, ...]], ...] = ()
    """Those: the index where they stood, their ids and logprobs."""

    @property
    def prompt_len(self) -> int:
        """Tokens before the first that was sampled."""
        return next((span.start for span in self.spans if span.kind == "sampled"), 0)
