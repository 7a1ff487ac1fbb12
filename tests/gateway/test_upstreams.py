"""A server of chat completions that fails in every way, and the script that stands in for one."""

import asyncio
import json
import pickle
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import web

from rollout.config import BudgetConf, ModelConf, PriceConf
from rollout.errors import ConfigError, ModelError
from rollout.gateway.base import CallRefused, ModelCall
from rollout.gateway.settings import model_plan, model_record
from rollout.gateway.upstreams import http as upstreams
from rollout.gateway.upstreams.make import make_upstream
from rollout.gateway.upstreams.openai import OpenAIUpstream
from rollout.gateway.upstreams.scripted import ScriptedUpstream
from rollout.types import Message, ToolCall
from tests.gateway.endpoint import Answer, conf, endpoint

KEY = "sk-very-secret"
CALL = ModelCall(
    dialect="direct",
    model="whatever",
    messages=(Message(role="user", content="hi"),),
    sampling={"temperature": 0.1, "max_tokens": 5},
)
WHOLE = {
    "model": "served",
    "choices": [{"message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 2},
}


async def whole(request: web.Request) -> web.StreamResponse:
    return web.json_response(WHOLE)


def status(code: int, text: str = "no", **headers: str) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        said = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=code, text=text, headers=said)

    return answer


async def no_json(request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>")


async def other_json(request: web.Request) -> web.StreamResponse:
    return web.json_response({"choices": []})


async def cut_off(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "9999"})
    await response.prepare(request)
    await response.write(b'{"choi')
    assert request.transport is not None
    request.transport.abort()
    return response


async def stalls(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(5)
    return web.json_response(WHOLE)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstreams, "PAUSE_S", 0.02)
    monkeypatch.setenv("MODEL_KEY", KEY)


async def test_the_call_is_sent_on_with_the_real_name_the_key_and_the_configs_sampling() -> None:
    async with endpoint(whole) as server:
        settings = conf(server.url, key_env="MODEL_KEY", sampling={"temperature": 1.0})
        async with OpenAIUpstream(settings) as upstream:
            reply = await upstream.complete(CALL, "s")
    assert reply.message == Message(role="assistant", content="hello")
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (7, 2)
    assert (reply.model, reply.endpoint, reply.tries) == ("served", server.url, 1)
    assert server.bodies == [
        {
            "model": "real",
            "messages": [{"role": "user", "content": "hi"}],
            "temperature": 1.0,
            "max_tokens": 5,
        }
    ]
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


async def test_of_the_same_dialect_all_goes_through_but_the_name_and_the_stream() -> None:
    said = [{"role": "user", "content": "hi"}]
    raw = {"model": "x", "messages": said, "stream": True, "odd": [1]}
    call = ModelCall(dialect="chat", model="x", messages=CALL.messages, raw=raw)
    async with endpoint(whole) as server, OpenAIUpstream(conf(server.url)) as upstream:
        await upstream.complete(call, "s")
    assert server.bodies == [{"model": "real", "messages": said, "odd": [1]}]


@pytest.mark.parametrize(
    "failure",
    [
        status(429, Retry_After="0.1"), status(500), status(503), status(408), no_json, other_json,
        cut_off, stalls,
    ],
)  # fmt: skip
async def test_what_may_go_better_another_time_is_tried_again(failure: Answer) -> None:
    answers = (failure, failure, whole)
    async with endpoint(*answers) as server, OpenAIUpstream(conf(server.url)) as upstream:
        reply = await upstream.complete(CALL, "s")
    assert (reply.message.content, reply.tries) == ("hello", 3)


async def test_patience_ends_and_the_key_is_in_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async with endpoint(status(500, f"you sent {KEY}")) as server:
        settings = conf(server.url, key_env="MODEL_KEY", patience_s=0.3)
        async with OpenAIUpstream(settings) as upstream:
            with pytest.raises(ModelError, match=r"you sent ….*gave up after") as told:
                await upstream.complete(CALL, "s")
    assert KEY not in str(told.value) + repr(told.value) + caplog.text
    assert KEY.encode() not in pickle.dumps(told.value)
    assert len(server.bodies) > 2


@pytest.mark.parametrize("before", [494, 500, 506])
async def test_no_piece_of_the_key_is_in_a_long_error(before: int) -> None:
    long = f"{'.' * (before - len(KEY) // 2)}{KEY}{'.' * 900}"
    async with endpoint(status(401, long)) as server:
        settings = conf(server.url, key_env="MODEL_KEY")
        async with OpenAIUpstream(settings) as upstream:
            with pytest.raises(ModelError, match="left out") as told:
                await upstream.complete(CALL, "s")
    assert "sk-" not in str(told.value)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (400, '{"error": {"code": "context_length_exceeded"}}', "context_overflow"),
        (400, "This model's maximum context length is 4096 tokens", "context_overflow"),
        (400, "tools: bad schema", "invalid"),
        (422, "no", "invalid"),
    ],
)
async def test_what_the_endpoint_refuses_is_told_at_once(code: int, text: str, kind: str) -> None:
    answer = status(code, text)
    async with endpoint(answer) as server, OpenAIUpstream(conf(server.url)) as upstream:
        with pytest.raises(CallRefused) as told:
            await upstream.complete(CALL, "s")
    assert told.value.kind == kind
    assert pickle.loads(pickle.dumps(told.value)).kind == kind
    assert len(server.bodies) == 1


@pytest.mark.parametrize(("code", "hint"), [(401, "key_env"), (403, "key"), (404, "model.name")])
async def test_a_wrong_key_or_name_is_told_at_once(code: int, hint: str) -> None:
    async with endpoint(status(code)) as server, OpenAIUpstream(conf(server.url)) as upstream:
        with pytest.raises(ModelError, match=hint):
            await upstream.complete(CALL, "s")
    assert len(server.bodies) == 1


async def test_a_missing_key_is_told_by_its_variable() -> None:
    with pytest.raises(ConfigError, match="NOT_THERE is not set"):
        await OpenAIUpstream(conf("http://127.0.0.1:1", key_env="NOT_THERE")).__aenter__()


async def test_a_rollout_stays_with_its_replica_and_a_dead_one_is_left_alone() -> None:
    async with endpoint(whole) as one, endpoint(whole) as two:
        dead = "http://127.0.0.1:9/v1"
        async with OpenAIUpstream(conf(dead, one.url, two.url)) as upstream:

            async def rollout(name: str) -> set[str]:
                return {(await upstream.complete(CALL, name)).endpoint for _ in range(4)}

            homes = await asyncio.gather(*(rollout(f"s{n}") for n in range(12)))
    used = [server for server in (one, two) if server.bodies]
    assert len(one.bodies) + len(two.bodies) == 48
    assert len(used) == 2
    assert sum(len(home) for home in homes) <= 14


async def test_a_call_on_its_way_follows_the_weights_to_where_they_are_served_now() -> None:
    async with (
        endpoint(status(503)) as old,
        endpoint(whole) as new,
        OpenAIUpstream(conf(old.url)) as upstream,
    ):
        call = asyncio.create_task(upstream.complete(CALL, "s"))
        while not old.bodies:
            await asyncio.sleep(0.005)
        upstream.move([new.url])
        assert (await call).endpoint == new.url
        asked = len(old.bodies)
        assert (await upstream.complete(CALL, "s")).endpoint == new.url
    assert (len(old.bodies), len(new.bodies)) == (asked, 2)


# ---------------------------------------------------------------- the script

SCRIPT = {
    "rules": [
        {"when": "never", "share": 0.0, "turns": [{"text": "unreachable"}]},
        {"when": "file", "turns": [{"run": "touch x", "reasoning": "hm"}, {"text": "done"}]},
        {"share": 0.5, "turns": [{"text": "half"}]},
        {"turns": [{"text": "rest"}]},
    ]
}


def asks(text: str, *said: Message, tool: str = "") -> ModelCall:
    tools = ({"type": "function", "function": {"name": tool}},) if tool else ()
    messages = (Message(role="user", content=text), *said)
    return ModelCall(dialect="direct", model="m", messages=messages, tools=tools)


@pytest.mark.parametrize(("tool", "key"), [("bash", "command"), ("exec_command", "cmd")])
async def test_a_script_calls_the_shell_that_the_agent_has(tool: str, key: str) -> None:
    async with ScriptedUpstream("s", json.dumps(SCRIPT)) as upstream:
        first = await upstream.complete(asks("make a file", tool=tool), "a")
        call = ToolCall(id="call_0", name=tool, arguments=json.dumps({key: "touch x"}))
        assert first.message.tool_calls == (call,)
        assert (first.finish_reason, first.message.reasoning_content) == ("tool_calls", "hm")
        for _ in range(2):
            last = await upstream.complete(asks("make a file", first.message, tool=tool), "a")
            assert (last.message.content, last.message.tool_calls) == ("done", ())
        with pytest.raises(CallRefused, match="the tools are"):
            await upstream.complete(asks("a file", tool="other"), "a")


async def test_a_share_of_the_rollouts_is_always_the_same() -> None:
    async with ScriptedUpstream("s", json.dumps(SCRIPT)) as upstream:

        async def said() -> list[str]:
            replies = [await upstream.complete(asks("never"), f"id{n}") for n in range(200)]
            return [reply.message.content for reply in replies]

        first = await said()
        assert first == await said()
        assert set(first) == {"half", "rest"}
        assert 60 < first.count("half") < 140


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("{", "Expecting"), ("[]", "list"), ('{"rules": []}', "at least one"),
        ('{"rules": [{"turns": []}]}', "at least one"),
        ('{"rules": [{"turns": [{"txt": "x"}]}]}', "unknown key 'txt'"),
        ('{"rules": [{"when": "(", "turns": [{"text": "x"}]}]}', "unterminated"),
    ],
)  # fmt: skip
def test_a_script_that_is_none_is_told(script: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ScriptedUpstream("s", script)


# ---------------------------------------------------------------- what an arm records


def test_only_what_changes_results_is_recorded() -> None:
    def record(budget: BudgetConf | None = None, **settings: Any) -> str:
        return model_record(conf("http://a/v1", **settings), budget or BudgetConf())

    plain = record()
    assert plain == record(timeout_s=9.0, patience_s=9.0, key_env="X")
    assert plain == model_record(conf("http://b/v1"), BudgetConf())
    price = PriceConf(prompt=1.0, completion=2.0)
    assert plain == record(price=price)
    changed = [
        record(sampling={"temperature": 1}),
        record(BudgetConf(turns=3)),
        record(BudgetConf(cost_usd=1.0), price=price),
        record(BudgetConf(cost_usd=1.0), price=PriceConf(prompt=2.0, completion=2.0)),
    ]
    assert len({plain, *changed}) == 5
    assert model_record(ModelConf(), BudgetConf()) == ""
    assert model_plan(ModelConf(), BudgetConf()) is None


def test_no_kind_that_is_not_there() -> None:
    plan = model_plan(ModelConf(kind="other", name="x"), BudgetConf())
    assert plan is not None
    with pytest.raises(ConfigError, match="none of openai, anthropic, litellm, scripted"):
        make_upstream(plan)


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("0.5", 0.5, 0.5), ("7", 7, 7), ("9999", 120, 120), ("-3", 0, 0), ("nan", 0, 0),
        ("inf", 0, 0), ("", 0, 0), ("soon", 0, 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 120, 120), ("Fri, 31 Dec 9999 23:59:59", 0, 120),
    ],
)  # fmt: skip
def test_when_to_come_again(text: str, least: float, most: float) -> None:
    assert least <= upstreams._retry_after_s(text) <= most


def test_when_to_come_again_may_be_a_date() -> None:
    then = datetime.now(UTC) + timedelta(seconds=30)
    assert 28 < upstreams._retry_after_s(format_datetime(then, usegmt=True)) <= 30
