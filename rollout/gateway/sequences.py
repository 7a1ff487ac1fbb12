"""A rollout's model calls as token sequences: exact, and each sampled token trained once.

Each call brings its whole prompt, in the engine's own tokens, and what was sampled. Then

    CLEAN    the prompt begins with all that a sequence holds: what is new of it is appended with
             mask 0, the reply with mask 1.
    REALIGN  the harness changed the end of the last reply on its way back, by no more than
             `realign_tokens`: those tokens are replaced by what it sent, with mask 0, and kept in
             `Sequence.dropped`. Allowed only where `model.realign_tokens` says so.
    FORK     anything else begins a sequence of its own: the prompt with mask 0, whatever of it was
             sampled once, for that is trained where it was sampled.

With the default of no realignment the tokens of mask 1 are exactly those that the engine sampled.
The names are slime's and TRL's.
"""

from array import array
from dataclasses import dataclass, field, replace
from itertools import takewhile

from rollout.gateway.base import Tokens
from rollout.types import AgentStep, Sequence, Span

MOST_TOKENS = 8 << 20
"""Of one rollout, over all its sequences; about nine bytes each."""
ID_BYTES = array("i").itemsize


@dataclass(slots=True, eq=False)
class Held:
    """A sequence that may still grow."""

    thread: int
    ids: bytearray = field(default_factory=bytearray)
    """int32 each: bytes, for comparing prompts is most of the work."""
    mask: bytearray = field(default_factory=bytearray)
    logprobs: "array[float]" = field(default_factory=lambda: array("f"))
    spans: list[Span] = field(default_factory=list)
    dropped: list[tuple[int, tuple[int, ...], tuple[float, ...]]] = field(default_factory=list)
    finish_reason: str = ""
    temperature: float | None = None
    model: str = ""

    def __len__(self) -> int:
        return len(self.mask)

    def told(self, ids: "array[int]", kind: str) -> None:
        """Tokens that nobody sampled here."""
        if ids:
            self.spans.append(Span(start=len(self), end=len(self) + len(ids), kind=kind))
            self.ids += ids.tobytes()
            self.mask += bytes(len(ids))
            self.logprobs.extend([0.0] * len(ids))

    def sampled(self, tokens: Tokens, step: int | None, version: int | None) -> None:
        start, end = len(self), len(self) + len(tokens.completion_ids)
        self.spans.append(
            Span(start=start, end=end, kind="sampled", step=step, policy_version=version)
        )
        self.ids += tokens.completion_ids.tobytes()
        self.mask += b"\1" * len(tokens.completion_ids)
        self.logprobs.extend(tokens.logprobs)

    def cut(self, length: int) -> None:
        """Take the end of the last reply back; it is kept as dropped."""
        ids = array("i", bytes(self.ids[length * ID_BYTES :]))
        self.dropped.append((length, tuple(ids), tuple(self.logprobs[length:])))
        del self.ids[length * ID_BYTES :], self.mask[length:], self.logprobs[length:]
        self.spans[-1] = replace(self.spans[-1], end=length)


class SequenceBuilder:
    """The sequences of one rollout, as its calls come in."""

    def __init__(self, *, realign_tokens: int = 0) -> None:
        self._realign_tokens = realign_tokens
        self._held: list[Held] = []
        self._calls: list[int] = []
        """The thread of each call, in order."""
        self._size = 0
        self.is_whole = True
        """False once a call was left out, for there were too many tokens."""

    def turn(
        self,
        tokens: Tokens,
        *,
        thread: int,
        step: int | None,
        finish_reason: str = "stop",
        model: str = "",
        version: int | None = None,
    ) -> None:
        """One call that was answered. `thread`: of the conversation it belongs to."""
        new = len(tokens.prompt_ids) + len(tokens.completion_ids)
        if self._size + new > MOST_TOKENS:
            self.is_whole = False
            return
        self._calls.append(thread)
        held = self._clean(tokens.prompt_ids) or self._realigned(tokens.prompt_ids)
        if held is None:
            held = Held(thread)
            self._held.append(held)
        before = len(held)
        kind = "prompt" if not before else "realigned" if _was_cut(held) else "env"
        held.told(tokens.prompt_ids[before:], kind)
        held.sampled(tokens, step, version)
        held.finish_reason, held.model = finish_reason, model
        held.temperature = tokens.temperature
        self._size += len(held) - before

    def finish(self) -> tuple[Sequence, ...]:
        """All of them, in the order they began."""
        return tuple(
            Sequence(
                role=self._role(at, held),
                token_ids=array("i", bytes(held.ids)),
                loss_mask=bytes(held.mask),
                logprobs=held.logprobs,
                spans=tuple(held.spans),
                finish_reason=held.finish_reason,
                temperature=held.temperature,
                model_name=held.model,
                drift_tokens=sum(len(ids) for _, ids, _ in held.dropped),
                dropped=tuple(held.dropped),
            )
            for at, held in enumerate(self._held)
        )

    # ---------------------------------------------------------------- which one goes on

    def _clean(self, prompt: "array[int]") -> Held | None:
        """The longest that the prompt begins with."""
        whole = prompt.tobytes()
        able = [held for held in self._held if whole.startswith(held.ids)]
        return max(able, key=len, default=None)

    def _realigned(self, prompt: "array[int]") -> Held | None:
        """The newest that differs from the prompt in the end of its last reply alone, cut there."""
        whole = prompt.tobytes()
        for held in reversed(self._held if self._realign_tokens else []):
            start = held.spans[-1].start
            if not whole.startswith(held.ids[: start * ID_BYTES]):
                continue
            same = start + _alike(prompt[start:], array("i", bytes(held.ids[start * ID_BYTES :])))
            if start < same and len(held) - same <= self._realign_tokens:
                self._size -= len(held) - same
                held.cut(same)
                return held
        return None

    def _role(self, at: int, held: Held) -> str:
        """A thread that others went on beside is a sub-agent's; one that took over is the main
        one's, made shorter."""
        if held.thread == 0:
            first = all(other.thread for other in self._held[:at])
            return "main" if first else "continuation"
        later = self._calls[self._calls.index(held.thread) :]
        return "subagent" if any(thread < held.thread for thread in later) else "continuation"


def placed(steps: list[AgentStep], sequences: tuple[Sequence, ...]) -> list[AgentStep]:
    """The steps, each with where its reply's tokens are."""
    done = list(steps)
    for index, sequence in enumerate(sequences):
        for span in sequence.spans:
            if span.kind == "sampled" and span.step is not None:
                done[span.step] = replace(
                    done[span.step],
                    sequence_index=index,
                    token_start=span.start,
                    token_end=span.end,
                )
    return done


def _was_cut(held: Held) -> bool:
    return bool(held.dropped) and held.dropped[-1][0] == len(held)


def _alike(one: "array[int]", other: "array[int]") -> int:
    """How many tokens both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
