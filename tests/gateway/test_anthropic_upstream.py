"""Anthropic's messages API as the endpoint: what is sent to it, what is made of its replies."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from rollout.checks import model_problems
from rollout.config import BudgetConf, ModelConf
from rollout.errors import ModelError
from rollout.gateway.base import CallRefused, ModelCall, Usage
from rollout.gateway.dialects.anthropic import Anthropic
from rollout.gateway.dialects.anthropic_client import from_anthropic_reply
from rollout.gateway.dialects.chat import to_chat_request
from rollout.gateway.upstreams import http as upstreams
from rollout.gateway.upstreams.anthropic import URL, AnthropicUpstream
from rollout.types import Message, ToolCall
from tests.gateway.endpoint import Answer, Endpoint, conf, endpoint
from tests.gateway.test_server import line
from tests.gateway.test_upstreams import cut_off, no_json, other_json, stalls, status

KEY = "sk-ant-very-secret"
THINKING = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}
REDACTED = {"type": "redacted_thinking", "data": "eHh4"}
USED = {"type": "tool_use", "id": "t1", "name": "bash", "input": {"command": "ls"}}
WHOLE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "served",
    "content": [THINKING, REDACTED, {"type": "text", "text": "look"}, USED],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {
        **{"input_tokens": 7, "output_tokens": 4},
        **{"cache_read_input_tokens": 3, "cache_creation_input_tokens": 2},
    },
}
BASH = {"name": "bash", "description": "runs", "parameters": {"type": "object"}}
CALL = ModelCall(dialect="direct", model="x", messages=(Message(role="user", content="hi"),))


async def whole(request: web.Request) -> web.StreamResponse:
    return web.json_response(WHOLE)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstreams, "PAUSE_S", 0.02)
    monkeypatch.setenv("MODEL_KEY", KEY)


@asynccontextmanager
async def asked(*answers: Answer, **more: Any) -> AsyncIterator[tuple[Endpoint, AnthropicUpstream]]:
    async with endpoint(*answers) as server:
        settings = replace(conf(server.url, **more), kind="anthropic")
        async with AnthropicUpstream(settings) as upstream:
            yield server, upstream


async def test_a_conversation_in_its_own_words() -> None:
    picture = [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "https://pictures.example/a.png"}},
    ]
    calls = tuple(ToolCall(id=f"t{n}", name="bash", arguments='{"command":"ls"}') for n in (1, 2))
    call = ModelCall(
        dialect="chat",
        model="x",
        messages=(
            Message(role="system", content="be good"),
            Message(role="user", content="see", content_parts=json.dumps(picture)),
            Message(role="assistant", content="I look", tool_calls=calls),
            Message(role="tool", content="a", tool_call_id="t1"),
            Message(role="tool", content="", tool_call_id="t2"),
            Message(role="user", content="go on"),
        ),
        tools=({"type": "function", "function": BASH},),
        tool_choice="required",
        sampling={"temperature": 0.5, "max_completion_tokens": 50, "stop": "END", "seed": 1},
    )
    async with asked(whole, key_env="MODEL_KEY", sampling={"top_k": 5}) as (server, upstream):
        await upstream.complete(call, "s")
    used = [{**USED, "id": f"t{n}"} for n in (1, 2)]
    given = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "a"}]}
    assert server.bodies == [
        {
            "model": "real",
            "system": "be good",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "see"},
                        {
                            "type": "image",
                            "source": {
                                **{"type": "base64", "media_type": "image/png"},
                                "data": "AAAA",
                            },
                        },
                        {
                            "type": "image",
                            "source": {"type": "url", "url": "https://pictures.example/a.png"},
                        },
                    ],
                },
                {"role": "assistant", "content": [{"type": "text", "text": "I look"}, *used]},
                {
                    "role": "user",
                    "content": [
                        given,
                        {"type": "tool_result", "tool_use_id": "t2", "content": []},
                        {"type": "text", "text": "go on"},
                    ],
                },
            ],
            "tools": [{"name": "bash", "description": "runs", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "any"},
            "max_tokens": 50,
            "temperature": 0.5,
            "stop_sequences": ["END"],
            "top_k": 5,
        }
    ]
    assert server.headers[0]["x-api-key"] == KEY
    assert server.headers[0]["anthropic-version"] == "2023-06-01"
    assert "Authorization" not in server.headers[0]


async def test_text_of_white_space_alone_is_left_out_for_the_api_refuses_it() -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://pictures.example/a.png"}}
    shown = json.dumps([{"type": "text", "text": "\n"}, picture])
    calls = (ToolCall(id="t1", name="bash", arguments='{"command":"ls"}'),)
    messages = (
        Message(role="system", content=" "),
        Message(role="user", content="\n", content_parts=shown),
        Message(role="assistant", content="\n\n", tool_calls=calls),
        Message(role="tool", content="\n", tool_call_id="t1"),
    )
    async with asked(whole) as (server, upstream):
        await upstream.complete(replace(CALL, messages=messages), "s")
    (body,) = server.bodies
    assert "system" not in body
    source = {"type": "url", "url": "https://pictures.example/a.png"}
    assert [turn["content"] for turn in body["messages"]] == [
        [{"type": "image", "source": source}],
        [USED],
        [{"type": "tool_result", "tool_use_id": "t1", "content": []}],
    ]


async def test_its_reply_in_ours_and_its_thoughts_sent_back_as_they_came() -> None:
    async with asked(whole) as (server, upstream):
        reply = await upstream.complete(CALL, "s")
        talk = (*CALL.messages, reply.message, Message(role="tool", content="a", tool_call_id="t1"))
        await upstream.complete(replace(CALL, messages=talk), "s")
    assert (reply.message.content, reply.message.reasoning_content) == ("look", "hm")
    assert reply.message.tool_calls == (
        ToolCall(id="t1", name="bash", arguments='{"command":"ls"}'),
    )
    assert (reply.finish_reason, reply.model, reply.tries) == ("tool_calls", "served", 1)
    assert reply.usage == Usage(prompt_tokens=12, completion_tokens=4, cached_tokens=3)
    assert server.bodies[0]["max_tokens"] > 0
    assert server.bodies[1]["messages"][1] == {"role": "assistant", "content": WHOLE["content"]}
    # To another endpoint its words alone go.
    (said,) = to_chat_request(replace(CALL, messages=(reply.message,)), "m")["messages"]
    assert said["content"] == "look"


async def test_thoughts_between_other_blocks_go_back_in_their_places() -> None:
    later = {"type": "thinking", "thinking": "so", "signature": "bGF0ZXI="}
    blocks = [THINKING, {"type": "text", "text": "look"}, later, USED]

    async def between(request: web.Request) -> web.StreamResponse:
        return web.json_response({**WHOLE, "content": blocks})

    async with asked(between) as (server, upstream):
        reply = await upstream.complete(CALL, "s")
        talk = (*CALL.messages, reply.message, Message(role="tool", content="a", tool_call_id="t1"))
        await upstream.complete(replace(CALL, messages=talk), "s")
    assert (reply.message.content, reply.message.reasoning_content) == ("look", "hmso")
    assert [call.id for call in reply.message.tool_calls] == ["t1"]
    assert server.bodies[1]["messages"][1] == {"role": "assistant", "content": blocks}
    (said,) = to_chat_request(replace(CALL, messages=(reply.message,)), "m")["messages"]
    assert (said["content"], len(said["tool_calls"])) == ([{"type": "text", "text": "look"}], 1)


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        ("end_turn", "stop"), ("stop_sequence", "stop"), ("max_tokens", "length"),
        ("refusal", "content_filter"), ("tool_use", "tool_calls"), ("pause_turn", "stop"),
    ],
)  # fmt: skip
def test_how_it_ended(stop: str, reason: str) -> None:
    assert from_anthropic_reply({**WHOLE, "stop_reason": stop}).finish_reason == reason


@pytest.mark.parametrize("streams", [False, True])
async def test_its_own_harness_gets_the_very_blocks(streams: bool) -> None:
    reply = from_anthropic_reply(WHOLE)
    async with line(reply) as made, made.anthropic as client:
        question: dict[str, Any] = {
            "model": "claude-9", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}],
        }  # fmt: skip
        if streams:
            async with client.messages.stream(**question) as stream:
                got = await stream.get_final_message()
        else:
            got = await client.messages.create(**question)
    assert [block.to_dict() for block in got.content] == WHOLE["content"]
    assert (got.model, got.usage.input_tokens) == ("claude-9", 7)


async def test_of_the_same_dialect_all_goes_through_but_the_name_and_the_stream() -> None:
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [THINKING]}]
    raw = {"model": "x", "messages": said, "stream": True, "max_tokens": 9, "odd": [1]}
    async with asked(whole) as (server, upstream):
        await upstream.complete(Anthropic().read(raw), "s")
    assert server.bodies == [{"model": "real", "messages": said, "max_tokens": 9, "odd": [1]}]


@pytest.mark.parametrize(
    "failure",
    [
        status(429, Retry_After="0.1"), status(529), status(500), no_json, other_json, cut_off,
        stalls,
    ],
)  # fmt: skip
async def test_what_may_go_better_another_time_is_tried_again(failure: Answer) -> None:
    async with asked(failure, failure, whole) as (_, upstream):
        reply = await upstream.complete(CALL, "s")
    assert (reply.message.content, reply.tries) == ("look", 3)


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (400, "prompt is too long: 208310 tokens > 200000 maximum", "context_overflow"),
        (
            400,
            "input length and `max_tokens` exceed context limit: 199759 + 8192 > 200000",
            "context_overflow",
        ),
        (400, "max_tokens: must be positive", "invalid"),
        (413, "request_too_large", "invalid"),
    ],
)
async def test_what_it_refuses_is_told_at_once(code: int, text: str, kind: str) -> None:
    async with asked(status(code, text)) as (server, upstream):
        with pytest.raises(CallRefused) as told:
            await upstream.complete(CALL, "s")
    assert (told.value.kind, len(server.bodies)) == (kind, 1)


@pytest.mark.parametrize(
    "more",
    [
        {"tools": ({"type": "function", "function": "x"},)},
        {"tool_choice": {"function": "x"}, "tools": ({},)},
        {"messages": (Message(role="user", content_parts='[{"type":"image_url","image_url":1}]'),)},
        {"sampling": {"stop": 5}},
    ],
)
async def test_what_a_harness_says_in_no_known_shape_is_refused(more: dict[str, Any]) -> None:
    async with asked(whole) as (server, upstream):
        with pytest.raises(CallRefused) as told:
            await upstream.complete(replace(CALL, **more), "s")
    assert (told.value.kind, server.bodies) == ("invalid", [])


async def test_its_key_is_in_no_error() -> None:
    async with asked(status(401, f"bad {KEY}"), key_env="MODEL_KEY") as (_, upstream):
        with pytest.raises(ModelError, match=r"bad ….*key_env") as told:
            await upstream.complete(CALL, "s")
    assert KEY not in repr(told.value)


async def test_a_key_that_was_read_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_KEY", f"{KEY}\n")
    async with asked(whole, key_env="MODEL_KEY") as (server, upstream):
        await upstream.complete(CALL, "s")
    assert server.headers[0]["x-api-key"] == KEY


async def test_headers_of_the_config_go_with_each_call() -> None:
    async with asked(whole, headers={"anthropic-beta": "a-1,b-2"}) as (server, upstream):
        await upstream.complete(CALL, "s")
    assert server.headers[0]["anthropic-beta"] == "a-1,b-2"


@pytest.mark.parametrize(
    ("name", "value"), [("X-Api-Key", "x"), ("authorization", "x"), ("a b", "x"), ("a", "x\ny")]
)
def test_a_header_that_is_none_or_holds_a_key_is_refused(name: str, value: str) -> None:
    settings = ModelConf(kind="anthropic", name="m", headers={name: value})
    (told,) = model_problems(settings, BudgetConf())
    assert told.startswith(f"model.headers.{name}: must be")


def test_what_it_cannot_do_is_told_before_the_run_and_its_address_is_known() -> None:
    settings = ModelConf(kind="anthropic", name="m")
    assert model_problems(settings, BudgetConf()) == []
    assert [replica.url for replica in AnthropicUpstream(settings)._replicas] == [URL]
    (told,) = model_problems(replace(settings, capture="logprobs"), BudgetConf())
    assert told.startswith("model.capture: 'logprobs': model=anthropic tells no tokens")
