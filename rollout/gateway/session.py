"""The calls of one rollout: counted, held to its budget, answered by its upstream, written down.

Whatever a harness makes of a refusal, how its model ended it stands here: `stop` and `error`.
"""

import asyncio
import time
from dataclasses import replace
from typing import Any

from rollout.aio import Deadline
from rollout.errors import ModelError
from rollout.gateway.base import (
    Budget,
    CallRefused,
    ModelCall,
    ModelReply,
    Price,
    Upstream,
    Usage,
)
from rollout.gateway.policy import PolicyVersion
from rollout.gateway.record import Record
from rollout.gateway.sequences import SequenceBuilder
from rollout.transcript import Transcript, now
from rollout.types import Message, StopReason

FAREWELL = "I have to stop here: {why}"
"""What the model seems to say when a budget is used up, so that a harness ends in order."""


class Session:
    """One rollout's way to its model; `complete` may be called by several at once."""

    def __init__(
        self,
        upstream: Upstream,
        *,
        session_id: str,
        model: str,
        budget: Budget,
        price: Price | None,
        deadline: Deadline,
        transcript: Transcript,
        sequences: SequenceBuilder | None = None,
        policy: PolicyVersion | None = None,
    ) -> None:
        """`sequences`: where the tokens of calls go; None: they are not captured."""
        self._upstream = upstream
        self._id = session_id
        self.model = model
        self._budget, self._price = budget, price
        self._deadline = deadline
        self.record = Record(transcript)
        self.sequences = sequences
        self.policy = policy or PolicyVersion()
        self._first_s: float | None = None
        self._turns = 0
        """Answered, or being answered."""
        self._said_farewell = False
        self.usage = Usage()
        self.cost_usd: float | None = None
        """None where the price, or the usage, is not known."""
        self.stop: StopReason | None = None
        """How the model's side ended the agent; None while it did not."""
        self.error: ModelError | None = None
        """What the endpoint failed with, if its last answer was a failure."""

    async def complete(self, call: ModelCall) -> ModelReply:
        """CallRefused where the budget is used up, the prompt does not fit or the call cannot be;
        ModelError where the endpoint failed for good."""
        if self._first_s is None:
            self._first_s = time.monotonic()
        if used_up := self._used_up():
            return self._farewell(call, *used_up)
        self._turns += 1
        try:
            return await self._ask(call)
        except BaseException:
            self._turns -= 1
            raise

    async def _ask(self, call: ModelCall) -> ModelReply:
        started_at, clock = now(), time.perf_counter()
        version = self.policy.read()
        try:
            async with asyncio.timeout(self._left_s()):
                reply = await self._upstream.complete(self._bounded(call), self._id)
        except TimeoutError:
            self.stop = StopReason.TIMEOUT if self._deadline.passed else StopReason.BUDGET
            over = CallRefused("the time of this rollout is over", "budget")
            raise self._refused(call, over) from None
        except CallRefused as exc:
            if exc.kind == "context_overflow":
                self.stop = StopReason.CONTEXT_OVERFLOW
            raise self._refused(call, exc) from exc
        except ModelError as exc:
            self.error = exc
            self.record.refused(call, str(exc))
            raise
        self.error = None
        if self.stop is StopReason.CONTEXT_OVERFLOW:
            self.stop = None  # the agent has made room
        ms = (time.perf_counter() - clock) * 1000
        cost = self._count(reply.usage)
        reply = self.policy.stamp(reply, version)
        thread, step = self.record.turn(
            call, reply, started_at=started_at, model_ms=ms, cost_usd=cost
        )
        if self.sequences is not None and reply.tokens is not None:
            self.sequences.turn(
                reply.tokens,
                thread=thread,
                step=step,
                finish_reason=reply.finish_reason,
                model=reply.model,
                version=reply.policy_version,
            )
        return reply

    def _count(self, usage: Usage) -> float | None:
        self.usage = Usage(
            prompt_tokens=self.usage.prompt_tokens + usage.prompt_tokens,
            completion_tokens=self.usage.completion_tokens + usage.completion_tokens,
            cached_tokens=self.usage.cached_tokens + usage.cached_tokens,
        )
        if self._price is None:
            return None
        cost = self._price.of(usage)
        self.cost_usd = (self.cost_usd or 0.0) + cost
        return cost

    def _refused(self, call: ModelCall, exc: CallRefused) -> CallRefused:
        self.record.refused(call, str(exc))
        return exc

    # ---------------------------------------------------------------- the budget

    def _used_up(self) -> tuple[StopReason, str] | None:
        budget, usage = self._budget, self.usage
        if self._deadline.passed:
            return StopReason.TIMEOUT, "the time of this rollout is over"
        if budget.turns is not None and self._turns >= budget.turns:
            return StopReason.MAX_TURNS, f"all {budget.turns} turns are used up"
        spent = {
            "prompt tokens": (usage.prompt_tokens, budget.prompt_tokens),
            "completion tokens": (usage.completion_tokens, budget.completion_tokens),
            "US dollars": (self.cost_usd or 0.0, budget.cost_usd),
            "seconds": (time.monotonic() - (self._first_s or 0.0), budget.wall_s),
        }
        for what, (used, most) in spent.items():
            if most is not None and used >= most:
                return StopReason.BUDGET, f"the budget of {most:g} {what} is used up"
        return None

    def _farewell(self, call: ModelCall, stop: StopReason, why: str) -> ModelReply:
        """Politely the first time, so that the agent ends; whoever asks on is refused."""
        self.stop = stop
        if self._said_farewell:
            kind = "max_turns" if stop is StopReason.MAX_TURNS else "budget"
            raise self._refused(call, CallRefused(why, kind))
        self._said_farewell = True
        self.record.unanswered(call, now())
        self.record.refused(call, why)
        message = Message(role="assistant", content=FAREWELL.format(why=why))
        return ModelReply(message=message, finish_reason="stop", model=self.model)

    def _left_s(self) -> float:
        if self._budget.wall_s is None or self._first_s is None:
            return self._deadline.left_s
        spent_s = time.monotonic() - self._first_s
        return min(self._deadline.left_s, max(0.0, self._budget.wall_s - spent_s))

    def _bounded(self, call: ModelCall) -> ModelCall:
        """It may not ask for more than is left of the budget."""
        most = self._budget.completion_tokens
        if most is None:
            return call
        left = most - self.usage.completion_tokens
        known = ("max_completion_tokens", "max_tokens")
        key = next((name for name in known if name in call.sampling), "max_tokens")
        asked = call.sampling.get(key)
        bounded: dict[str, Any] = {key: min(asked, left) if isinstance(asked, int) else left}
        raw = {**call.raw, **bounded} if call.raw else call.raw
        return replace(call, sampling={**call.sampling, **bounded}, raw=raw)
