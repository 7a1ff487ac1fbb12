"""Every token that an engine samples is trained exactly once, whatever a harness makes of it."""

import asyncio
import json
import random
from array import array
from collections import Counter
from dataclasses import replace

import pytest

from rollout.aio import Deadline
from rollout.gateway import sequences as building
from rollout.gateway.base import Budget, ModelCall, ModelReply, Tokens
from rollout.gateway.sequences import SequenceBuilder, placed
from rollout.gateway.session import Session
from rollout.gateway.upstreams.scripted import ScriptedUpstream
from rollout.transcript import Transcript
from rollout.types import Message, Sequence

SCRIPT = json.dumps(
    {
        "rules": [
            {
                "turns": [
                    {"text": "Let me look. ", "run": "ls"},
                    {"text": "", "run": "cat 'a b'", "reasoning": "Which one?"},
                    {"text": "é \n", "run": "make"},
                    {"text": "Done. \n", "reasoning": "It works."},
                    {"text": " and more "},
                ]
            }
        ]
    }
)
TOOLS = ({"type": "function", "function": {"name": "bash", "parameters": {}}},)


class Harness:
    """An agent that does to its conversation what real ones do."""

    def __init__(self, seed: int, *, realign_tokens: int = 0) -> None:
        self.random = random.Random(seed)
        self.engine = ScriptedUpstream("scripted", SCRIPT, capture="tokens")
        self.engine.ledger = []
        self.transcript = Transcript(lambda _: None)
        self.session = Session(
            self.engine,
            session_id=str(seed),
            model="scripted",
            budget=Budget(),
            price=None,
            deadline=Deadline.after(600),
            transcript=self.transcript,
            sequences=SequenceBuilder(realign_tokens=realign_tokens),
        )
        self.said = 0

    async def run(self) -> tuple[Sequence, ...]:
        await self.converse([Message(role="system", content="You are one."), self.ask("task")], 3)
        assert self.session.sequences is not None
        return self.session.sequences.finish()

    def ask(self, what: str) -> Message:
        self.said += 1
        return Message(role="user", content=f"{what} {self.said}")

    async def converse(self, messages: list[Message], depth: int) -> None:
        for _ in range(self.random.randint(1, 5)):
            call = ModelCall(dialect="chat", model="m", messages=tuple(messages), tools=TOOLS)
            reply = await self.session.complete(call)
            messages += [self.returned(reply.message), *self.observed(reply)]
            what = self.random.random()
            if what < 0.1 and depth:
                begin = [self.ask("sub-task")]
                await asyncio.gather(
                    *(self.converse([*begin, self.ask("part")], depth - 1) for _ in range(3))
                )
            elif what < 0.2:
                messages[1:] = [self.ask("What happened so far: much. Go on")]
            elif what < 0.3:
                await self.session.complete(call)  # as one who did not hear the reply
            elif what < 0.35:
                messages[0] = replace(messages[0], content=f"It is {self.said} o'clock.")

    def returned(self, message: Message) -> Message:
        """How a harness sends the model's own words back."""
        how = self.random.random()
        if how < 0.1:
            return replace(message, content=message.content.strip())
        if how < 0.2:
            return replace(message, reasoning_content=None)
        if how < 0.3:
            calls = tuple(
                replace(call, arguments=json.dumps(json.loads(call.arguments), indent=1))
                for call in message.tool_calls
            )
            return replace(message, tool_calls=calls)
        return message

    def observed(self, reply: ModelReply) -> list[Message]:
        out = "out" * self.random.randint(0, 9)
        told = [
            Message(role="tool", content=out, tool_call_id=call.id)
            for call in reply.message.tool_calls
        ]
        return told or [self.ask("go on")]


def sampled(sequences: tuple[Sequence, ...]) -> Counter[tuple[int, float]]:
    return Counter(
        (token, logprob)
        for each in sequences
        for token, mask, logprob in zip(each.token_ids, each.loss_mask, each.logprobs, strict=True)
        if mask
    )


def returned_by(engine: ScriptedUpstream) -> Counter[tuple[int, float]]:
    return Counter(
        pair
        for call in engine.ledger or ()
        for pair in zip(call.completion_ids, call.logprobs, strict=True)
    )


def check_shape(sequence: Sequence) -> None:
    """Spans cover it without a gap; what is sampled has mask 1, and nothing else has."""
    assert [span.start for span in sequence.spans[1:]] == [s.end for s in sequence.spans[:-1]]
    assert sequence.spans[0].start == 0
    assert sequence.spans[0].kind == "prompt"
    assert sequence.spans[-1].end == len(sequence.token_ids) == len(sequence.loss_mask)
    mask = b"".join(
        (b"\1" if span.kind == "sampled" else b"\0") * (span.end - span.start)
        for span in sequence.spans
    )
    assert mask == sequence.loss_mask
    pairs = zip(sequence.loss_mask, sequence.logprobs, strict=True)
    assert not any(logprob for mask, logprob in pairs if not mask)


@pytest.mark.parametrize("batch", range(10))
async def test_the_tokens_that_are_trained_are_those_of_the_ledger(batch: int) -> None:
    kinds: Counter[str] = Counter()
    for seed in range(batch * 200, batch * 200 + 200):
        harness = Harness(seed)
        sequences = await harness.run()
        assert sampled(sequences) == returned_by(harness.engine), seed
        for sequence in sequences:
            check_shape(sequence)
            assert not sequence.dropped
        kinds.update(each.role for each in sequences)
        kinds.update(span.kind for each in sequences for span in each.spans)
    assert {"main", "subagent", "continuation", "prompt", "sampled", "env"} == set(kinds)


@pytest.mark.parametrize("batch", range(5))
async def test_each_reply_stands_behind_the_very_prompt_it_was_sampled_from(batch: int) -> None:
    for seed in range(batch * 100, batch * 100 + 100):
        harness = Harness(seed)
        sequences = await harness.run()
        found = Counter(
            (
                each.token_ids[: span.start].tobytes(),
                each.token_ids[span.start : span.end].tobytes(),
            )
            for each in sequences
            for span in each.spans
            if span.kind == "sampled"
        )
        assert harness.engine.ledger is not None
        asked = Counter(
            (bytes(call.prompt_ids), bytes(call.completion_ids)) for call in harness.engine.ledger
        )
        assert found == asked, seed


@pytest.mark.parametrize("batch", range(5))
async def test_realigned_tokens_are_kept_beside_and_nothing_else_is_lost(batch: int) -> None:
    realigned = 0
    for seed in range(batch * 100, batch * 100 + 100):
        harness = Harness(seed, realign_tokens=8)
        sequences = await harness.run()
        dropped = Counter(
            pair
            for each in sequences
            for _, ids, logprobs in each.dropped
            for pair in zip(ids, logprobs, strict=True)
        )
        assert sampled(sequences) + dropped == returned_by(harness.engine), seed
        for sequence in sequences:
            check_shape(sequence)
            lost = [len(ids) for _, ids, _ in sequence.dropped]
            assert max(lost, default=0) <= 8
            assert sequence.drift_tokens == sum(lost)
            realigned += len(lost)
    assert realigned


async def test_steps_name_where_their_tokens_are() -> None:
    harness = Harness(7)
    sequences = await harness.run()
    steps = placed(harness.transcript.steps, sequences)
    spoken = [step for step in steps if step.model_name]
    assert len(spoken) == len(harness.engine.ledger or ())
    for step, call in zip(spoken, harness.engine.ledger or (), strict=True):
        assert step.sequence_index is not None
        held = sequences[step.sequence_index]
        assert held.token_ids[step.token_start : step.token_end] == call.completion_ids


def call_of(prompt: list[int], reply: list[int]) -> Tokens:
    return Tokens(
        prompt_ids=array("i", prompt),
        completion_ids=array("i", reply),
        logprobs=array("f", [-1.0] * len(reply)),
    )


def test_a_change_of_weights_shows_in_the_spans() -> None:
    builder = SequenceBuilder()
    builder.turn(call_of([1, 2], [3]), thread=0, step=0, version=4)
    builder.turn(call_of([1, 2, 3, 9], [5]), thread=0, step=1, version=5)
    (sequence,) = builder.finish()
    told = [(span.kind, span.start, span.end, span.policy_version) for span in sequence.spans]
    assert told == [
        ("prompt", 0, 2, None),
        ("sampled", 2, 3, 4),
        ("env", 3, 4, None),
        ("sampled", 4, 5, 5),
    ]
    assert sequence.prompt_len == 2


def test_a_rollout_with_too_many_tokens_is_not_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "MOST_TOKENS", 10)
    builder = SequenceBuilder()
    builder.turn(call_of([1] * 5, [2] * 5), thread=0, step=0)
    assert builder.is_whole
    builder.turn(call_of([1] * 5 + [2] * 5, [3]), thread=0, step=1)
    assert not builder.is_whole
    assert len(builder.finish()[0].token_ids) == 10
