"""LiteLLM as the way to an endpoint, where it is installed; its provider is a server of ours."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest

from rollout.checks import model_problems
from rollout.config import BudgetConf, ModelConf
from rollout.errors import ConfigError, ModelError
from rollout.gateway.base import CallRefused, ModelCall
from rollout.gateway.dialects.chat import Chat
from rollout.gateway.upstreams import http as upstreams
from rollout.gateway.upstreams.litellm import LiteLLMUpstream
from rollout.types import Message
from tests.gateway.endpoint import Answer, Endpoint, conf, endpoint
from tests.gateway.test_upstreams import CALL, cut_off, stalls, status, whole

KEY = "sk-very-secret"
installed = pytest.mark.skipif(find_spec("litellm") is None, reason="litellm is an extra")
noisy = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstreams, "PAUSE_S", 0.02)
    monkeypatch.setenv("MODEL_KEY", KEY)


@asynccontextmanager
async def asked(*answers: Answer, **more: Any) -> AsyncIterator[tuple[Endpoint, LiteLLMUpstream]]:
    async with endpoint(*answers) as server:
        settings = replace(conf(server.url, key_env="MODEL_KEY", **more), kind="litellm")
        async with LiteLLMUpstream(replace(settings, name="openai/real")) as upstream:
            yield server, upstream


@noisy
@installed
async def test_a_call_and_its_reply() -> None:
    async with asked(whole, sampling={"temperature": 1.0}) as (server, upstream):
        reply = await upstream.complete(CALL, "s")
    assert reply.message == Message(role="assistant", content="hello")
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (7, 2)
    (body,) = server.bodies
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("real", 1.0, 5)
    assert body["messages"] == [{"role": "user", "content": "hi"}]
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in json.dumps(reply.raw)


@noisy
@installed
@pytest.mark.parametrize("failure", [status(429), status(500), status(503), cut_off, stalls])
async def test_what_may_go_better_another_time_is_tried_again(failure: Answer) -> None:
    async with asked(failure, failure, whole) as (_, upstream):
        reply = await upstream.complete(CALL, "s")
    assert (reply.message.content, reply.tries) == ("hello", 3)


@noisy
@installed
async def test_what_is_refused_is_told_at_once_and_holds_no_key() -> None:
    long = '{"error": {"code": "context_length_exceeded", "message": "maximum context length"}}'
    for answer, kind in ((status(400, long), "context_overflow"), (status(400, KEY), "invalid")):
        async with asked(answer) as (server, upstream):
            with pytest.raises(CallRefused) as told:
                await upstream.complete(CALL, "s")
        assert (told.value.kind, len(server.bodies)) == (kind, 1)
        assert KEY not in repr(told.value)
    async with asked(status(401, KEY)) as (_, upstream):
        with pytest.raises(ModelError, match="key_env") as failed:
            await upstream.complete(CALL, "s")
    assert KEY not in repr(failed.value)


HOSTILE = {
    "api_base": "http://thief.example", "base_url": "http://thief.example", "api_key": "mine",
    "custom_llm_provider": "thief", "mock_response": "yes", "fallbacks": ["x"], "model_list": [{}],
    "extra_headers": {"a": "b"}, "metadata": {}, "callbacks": ["x"], "odd": 1,
}  # fmt: skip
"""Of a body, what to the library would be orders."""


def hostile_call() -> ModelCall:
    said = [{"role": "user", "content": "hi"}]
    return Chat().read({"model": "x", "messages": said, "temperature": 0.1, **HOSTILE})


def test_a_harness_gives_the_library_no_orders() -> None:
    asked = LiteLLMUpstream(ModelConf(kind="litellm", name="x/y")).arguments(hostile_call())
    assert not asked.keys() & HOSTILE.keys()
    assert (asked["model"], asked["temperature"]) == ("x/y", 0.1)


@noisy
@installed
async def test_nor_learns_the_key() -> None:
    async with asked(whole) as (server, upstream):
        reply = await upstream.complete(hostile_call(), "s")
    assert reply.message.content == "hello"
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.skipif(find_spec("litellm") is not None, reason="litellm is there")
async def test_without_the_library_it_says_how_to_get_it() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'rollout\[litellm\]'"):
        await LiteLLMUpstream(ModelConf(kind="litellm", name="x/y")).__aenter__()


def test_what_it_cannot_do_is_told_before_the_run() -> None:
    settings = ModelConf(kind="litellm", name="x/y", urls=["http://a/v1", "http://b/v1"])
    (told,) = model_problems(settings, BudgetConf())
    assert told == "model.urls: model=litellm takes one at most"
