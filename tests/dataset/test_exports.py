"""Trajectories as other programs read them: every message once, every conversation whole."""

import asyncio
import importlib.util
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.aio import Deadline
from rollout.dataset.atif import to_atif
from rollout.dataset.conversations import branches
from rollout.dataset.sft import to_sft
from rollout.gateway.base import Budget, ModelCall
from rollout.gateway.session import Session
from rollout.gateway.upstreams.scripted import ScriptedUpstream
from rollout.transcript import Transcript
from rollout.types import AgentStep, Message, ToolCall, Trajectory
from tests.dataset.examples import a_row

SCRIPT = json.dumps(
    {
        "rules": [
            {
                "turns": [
                    {"text": "I look.", "run": "ls", "reasoning": "Where am I?"},
                    {"run": "cat ünï"},
                    {"text": "Done."},
                ]
            }
        ]
    }
)
TOOLS = ({"type": "function", "function": {"name": "bash", "parameters": {}}},)
HARBOR = importlib.util.find_spec("harbor") is not None


class Conversations:
    """Agents that talk to the gateway, some at once, and what each of them really saw."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.transcript = Transcript(lambda _: None)
        self.session = Session(
            ScriptedUpstream("m", SCRIPT),
            session_id="s",
            model="m",
            budget=Budget(),
            price=None,
            deadline=Deadline.after(600),
            transcript=self.transcript,
        )
        self.ends: list[list[Message]] = []
        self.said = 0

    async def run(self) -> Trajectory:
        await self.converse([Message(role="system", content="You are one.")], depth=2)
        changed: dict[str, Any] = {
            "messages": tuple(self.transcript.messages),
            "steps": tuple(self.transcript.steps),
            "tools": self.session.record.tools,
        }
        row = a_row("t")
        kept = {name: getattr(row, name) for name in row.__slots__}
        return Trajectory(**{**kept, **changed})

    async def converse(self, messages: list[Message], depth: int) -> None:
        self.said += 1
        messages = [*messages, Message(role="user", content=f"task {self.said}")]
        for _ in range(self.random.randint(1, 3)):
            await asyncio.sleep(0)
            call = ModelCall(dialect="chat", model="m", messages=tuple(messages), tools=TOOLS)
            reply = (await self.session.complete(call)).message
            messages = [*messages, reply]
            if depth and self.random.random() < 0.3:
                begin = messages[: self.random.randint(0, 1)]
                parts = (self.converse(begin, depth - 1) for _ in range(2))
                await asyncio.gather(*parts)
            if not reply.tool_calls:
                break
            self.ends.append(list(messages))
            told = [
                Message(role="tool", content=f"out {self.said}", tool_call_id=each.id)
                for each in reply.tool_calls
            ]
            messages = [*messages, *told]
            self.ends.pop()
        while messages[-1].role != "assistant":
            messages.pop()
        self.ends.append(messages)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_every_branch_is_a_conversation_as_it_was(seed: int) -> None:
    talk = Conversations(seed)
    row = asyncio.run(talk.run())
    found = [[each.message for each in branch] for branch in branches(row)]
    assert sorted(map(repr, found)) == sorted(map(repr, talk.ends))
    told = list(to_sft(row))
    assert [len(each["messages"]) for each in told] == [len(branch) for branch in found]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_atif_holds_every_message_once(seed: int) -> None:
    row = asyncio.run(Conversations(seed).run())
    document = to_atif(row)
    check(document)
    told = [step["message"] for step in document["steps"]] + [
        result["content"]
        for step in document["steps"]
        for result in step.get("observation", {}).get("results", ())
    ]
    assert sorted(told) == sorted(message.content for message in row.messages)


def test_what_templates_read() -> None:
    calls = (
        ToolCall(id="a", name="bash", arguments='{"command": null}'),
        ToolCall(id="b", name="bash", arguments="{broken"),
    )
    row = told_by(
        Message(role="user", content="hi"),
        Message(role="assistant", content="", reasoning_content="hm", tool_calls=calls),
        Message(role="tool", content="out", tool_call_id="a"),
        Message(role="tool", content="no", tool_call_id="b"),
        Message(role="assistant", content="ok"),
        Message(role="user", content="nobody answers"),
    )
    (sft,) = to_sft(row)
    assert [message["role"] for message in sft["messages"]] == [
        *("user", "assistant", "tool", "tool", "assistant")
    ]
    functions = [call["function"] for call in sft["messages"][1]["tool_calls"]]
    assert functions == [
        {"name": "bash", "arguments": {"command": None}},
        {"name": "bash", "arguments": {"_raw": "{broken"}},
    ]
    assert sft["messages"][1]["reasoning_content"] == "hm"
    document = to_atif(row)
    check(document)
    assert document["steps"][1]["observation"]["results"] == [
        {"source_call_id": "a", "content": "out"},
        {"source_call_id": "b", "content": "no"},
    ]
    assert document["steps"][1]["tool_calls"][0]["arguments"] == {"command": None}
    assert document["extra"]["reward"] == 1.0


def test_a_rollout_without_a_word_is_a_document_all_the_same() -> None:
    document = to_atif(told_by())
    check(document)
    assert list(to_sft(told_by())) == []


def told_by(*messages: Message) -> Trajectory:
    steps = tuple(
        AgentStep(source="agent", message_start=n, message_end=n + 1)
        for n, message in enumerate(messages)
        if message.role == "assistant"
    )
    row = a_row("t")
    kept = {name: getattr(row, name) for name in row.__slots__}
    return Trajectory(**{**kept, "messages": messages, "steps": steps, "tools": None})


def check(document: dict[str, Any]) -> None:
    """By Harbor's own models where they are installed, else by what its documentation asks."""
    json.dumps(document, allow_nan=False)
    if HARBOR:
        from harbor.models.trajectories import Trajectory as Theirs  # type: ignore[import-not-found]

        Theirs.model_validate(document)
        return
    assert set(document) == {
        *("schema_version", "session_id", "trajectory_id", "agent", "steps", "final_metrics"),
        "extra",
    }
    assert document["schema_version"] == "ATIF-v1.7"
    assert {"name", "version"} <= set(document["agent"])
    assert [step["step_id"] for step in document["steps"]] == [
        *range(1, len(document["steps"]) + 1)
    ]
    for step in document["steps"]:
        assert step["source"] in ("system", "user", "agent")
        assert isinstance(step["message"], str)
        theirs = {"model_name", "reasoning_content", "tool_calls", "metrics"}
        assert step["source"] == "agent" or not theirs & set(step)
        ids = {call["tool_call_id"] for call in step.get("tool_calls", ())}
        assert all(isinstance(call["arguments"], dict) for call in step.get("tool_calls", ()))
        results = step.get("observation", {"results": []})["results"]
        assert {result["source_call_id"] for result in results} <= ids


@pytest.mark.skipif(not HARBOR, reason="harbor is not installed; it needs Python 3.12")
def test_harbors_models_are_there_to_check_by() -> None:
    from harbor.models.trajectories import Trajectory as Theirs

    with pytest.raises(ValueError, match="step"):
        Theirs.model_validate({**to_atif(told_by()), "steps": []})
