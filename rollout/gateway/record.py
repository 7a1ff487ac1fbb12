"""What an agent's calls become in its trajectory: each message once, whatever the dialect.

A call carries its whole conversation. What of it was seen before, as far as it begins alike, is not
written again; the rest and the reply are appended. One that begins like none before (a sub-agent,
a conversation made shorter) starts a thread of its own, which each step names.
"""

import hashlib
import json
from dataclasses import replace
from datetime import datetime, timedelta

from rollout.gateway.base import ModelCall, ModelReply
from rollout.transcript import Transcript, clip
from rollout.types import AgentStep, Message, canonical_json

MOST_MESSAGES = 20_000
MOST_CHARS = 64 << 20
"""Of one rollout: calls beyond are answered and counted, and not written down."""
WHOLE_CHARS = 48 << 20
"""Of one rollout: then messages longer than MESSAGE_CHARS are kept by their heads and tails."""
MESSAGE_CHARS = 64_000


class Record:
    """The calls of one rollout, as they are told to its transcript."""

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self._seen: dict[bytes, tuple[int, int]] = {}
        """Each beginning of a conversation so far, by digest: its thread and its last message."""
        self._threads = 0
        self._last: dict[int, tuple[int, datetime]] = {}
        """Thread to its last step and when the model had answered."""
        self._chars = 0
        self._full = False
        self.tools: str | None = None
        """As JSON, those of the first call that had any."""

    def turn(
        self,
        call: ModelCall,
        reply: ModelReply,
        *,
        started_at: datetime,
        model_ms: float,
        cost_usd: float | None,
    ) -> tuple[int, int | None]:
        """One call that was answered: its thread, and its step if it was written down."""
        if self._is_full():
            return self._thread_of(_beginnings(call.messages))[0], None
        beginnings = _beginnings(call.messages)
        thread, start, after = self._heard(call, beginnings, started_at)
        self._time_between(thread, started_at)
        end = self._message(reply.message)
        self._seen[_next(beginnings[-1] if beginnings else b"", reply.message)] = thread, end
        self._chars += len(reply.logprobs or "")
        self._transcript.step(
            AgentStep(
                source="agent",
                message_start=end if start is None else start,
                message_end=end + 1,
                started_at=started_at,
                model_ms=model_ms,
                model_name=reply.model or call.model,
                api=call.dialect,
                finish_reason=reply.finish_reason,
                prompt_tokens=reply.usage.prompt_tokens,
                completion_tokens=reply.usage.completion_tokens,
                cached_tokens=reply.usage.cached_tokens,
                cost_usd=cost_usd,
                thread=thread,
                after=after,
                policy_version=reply.policy_version,
                logprobs=reply.logprobs,
            )
        )
        step = len(self._transcript.steps) - 1
        self._last[thread] = step, started_at + timedelta(milliseconds=model_ms)
        return thread, step

    def unanswered(self, call: ModelCall, started_at: datetime) -> None:
        """One that the budget did not allow any more: what it tells is on record all the same."""
        if self._is_full():
            return
        beginnings = _beginnings(call.messages)
        thread, start, after = self._heard(call, beginnings, started_at)
        if start is not None:
            self._transcript.step(
                AgentStep(
                    source="agent",
                    message_start=start,
                    message_end=len(self._transcript.messages),
                    started_at=started_at,
                    thread=thread,
                    after=after,
                )
            )

    def refused(self, call: ModelCall | None, why: str) -> None:
        asked = "" if call is None else f"{call.dialect}, {len(call.messages)} messages: "
        self._transcript.event("model_call_refused", f"{asked}{why}")

    def _is_full(self) -> bool:
        much = len(self._transcript.messages) > MOST_MESSAGES or self._chars > MOST_CHARS
        if much and not self._full:
            self._full = True
            self._transcript.event("calls_left_out", "too many messages for one row; from here on")
        return much

    def _heard(
        self, call: ModelCall, beginnings: list[bytes], at: datetime
    ) -> tuple[int, int | None, int | None]:
        """Write down what is new in it. Its thread, where the new output of tools begins, and the
        message that what is new follows, where that is not the last one."""
        if self.tools is None and call.tools:
            self.tools = canonical_json([dict(tool) for tool in call.tools])
        thread, known = self._thread_of(beginnings)
        before = self._seen[beginnings[known - 1]][1] if known else -1
        first = len(self._transcript.messages)
        for offset, beginning in enumerate(beginnings[known:]):
            self._seen[beginning] = thread, first + offset
        start = self._told(call.messages[known:], at)
        return thread, start, None if before == first - 1 else before

    def _thread_of(self, beginnings: list[bytes]) -> tuple[int, int]:
        """Of a call, and how many of its messages were heard before."""
        for known in range(len(beginnings), 0, -1):
            if beginnings[known - 1] in self._seen:
                return self._seen[beginnings[known - 1]][0], known
        self._threads += 1
        return self._threads - 1, 0

    def _time_between(self, thread: int, at: datetime) -> None:
        """What passed until the thread's next call is what the agent's side took."""
        if thread in self._last:
            number, answered_at = self._last[thread]
            steps, ms = self._transcript.steps, (at - answered_at).total_seconds() * 1000
            steps[number] = replace(steps[number], env_ms=max(0.0, ms))

    def _told(self, messages: tuple[Message, ...], at: datetime) -> int | None:
        """System and user speak for themselves; what tools said belongs to the agent's step. The
        index of the first of those, if any."""
        first = None
        for message in messages:
            index = self._message(message)
            if message.role in ("system", "developer", "user"):
                source = "user" if message.role == "user" else "system"
                self._transcript.step(
                    AgentStep(
                        source=source, message_start=index, message_end=index + 1, started_at=at
                    )
                )
                first = None
            elif first is None:
                first = index
        return first

    def _message(self, message: Message) -> int:
        if self._chars > WHOLE_CHARS:
            message = _clipped(message)
        arguments = sum(len(call.arguments) for call in message.tool_calls)
        self._chars += len(message.content) + len(message.content_parts or "") + arguments
        return self._transcript.message(message)


def _clipped(message: Message) -> Message:
    parts = message.content_parts
    return replace(
        message,
        content=clip(message.content, MESSAGE_CHARS),
        content_parts=None if parts and len(parts) > MESSAGE_CHARS else parts,
    )


def _beginnings(messages: tuple[Message, ...]) -> list[bytes]:
    """A digest of each message with all before it."""
    found, before = [], b""
    for message in messages:
        before = _next(before, message)
        found.append(before)
    return found


def _next(before: bytes, message: Message) -> bytes:
    return hashlib.sha256(before + _essence(message).encode(errors="replace")).digest()


def _essence(message: Message) -> str:
    """What stays of a message when a harness sends it back: not its reasoning, nor white space."""
    calls = [(call.name, _arguments(call.arguments)) for call in message.tool_calls]
    said = [message.role, message.content.strip(), calls, message.tool_call_id]
    return canonical_json([*said, message.content_parts if message.role == "user" else None])


def _arguments(text: str) -> str:
    try:
        return canonical_json(json.loads(text))
    except (ValueError, RecursionError):
        return text
