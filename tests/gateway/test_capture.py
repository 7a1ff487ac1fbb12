"""What an endpoint tells of its tokens: asked for, checked, and never guessed."""

import json
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from rollout.aio import Deadline
from rollout.checks import model_problems
from rollout.config import BudgetConf, ModelConf
from rollout.errors import ConfigError, ModelError
from rollout.gateway.access import ModelService
from rollout.gateway.base import ModelCall
from rollout.gateway.settings import ModelPlan
from rollout.gateway.upstreams import http as upstreams
from rollout.gateway.upstreams.openai import OpenAIUpstream
from rollout.transcript import Transcript
from rollout.types import Message
from tests.gateway.endpoint import Answer, Endpoint, conf, endpoint

PROMPT, REPLY = [5, 6, 7], [8, 9]
CALL = ModelCall(
    dialect="chat",
    model="whatever",
    messages=(Message(role="user", content="hi"),),
    raw={
        "model": "whatever",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "presence_penalty": 1.0,
        "n": 1,
    },
)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstreams, "PAUSE_S", 0.01)


def body(**changes: Any) -> dict[str, Any]:
    """As vLLM tells it; a change of `None` leaves the field out."""
    choice: dict[str, Any] = {
        "message": {"role": "assistant", "content": "hello"},
        "finish_reason": "stop",
        "token_ids": REPLY,
        "logprobs": {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -2}]},
    }
    told: dict[str, Any] = {"model": "real", "prompt_token_ids": PROMPT, "choices": [choice]}
    for name, value in changes.items():
        holder = choice if name in choice else told
        holder[name] = value
        if value is None:
            del holder[name]
    return told


def telling(told: dict[str, Any], **headers: str) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response(told, headers=headers)

    return answer


@asynccontextmanager
async def answered_by(
    *answers: Answer, **settings: Any
) -> AsyncIterator[tuple[Endpoint, OpenAIUpstream]]:
    async with endpoint(*answers) as server, OpenAIUpstream(conf(server.url, **settings)) as asked:
        yield server, asked


async def test_ids_and_log_probabilities_are_asked_for_and_taken() -> None:
    async with answered_by(telling(body()), capture="tokens") as (server, upstream):
        reply = await upstream.complete(CALL, "s")
    probe, asked = server.bodies
    assert probe["max_tokens"] == 1
    assert asked["return_token_ids"] is True
    assert (asked["logprobs"], asked["top_logprobs"]) == (True, 0)
    assert (asked["temperature"], asked["top_p"], asked["top_k"]) == (0.5, 1.0, -1)
    assert "presence_penalty" not in asked
    assert reply.tokens is not None
    assert (list(reply.tokens.prompt_ids), list(reply.tokens.completion_ids)) == (PROMPT, REPLY)
    assert reply.tokens.logprobs == array("f", [-0.5, -2.0])
    assert reply.tokens.temperature == 0.5
    assert "token" not in json.dumps(reply.raw["choices"])  # the agent did not ask for it
    assert "prompt_token_ids" not in reply.raw


async def test_some_servers_tell_the_prompt_with_the_choice() -> None:
    told = body(prompt_token_ids=None)
    told["choices"][0]["prompt_token_ids"] = PROMPT
    async with answered_by(telling(told), capture="tokens") as (_, upstream):
        reply = await upstream.complete(CALL, "s")
    assert reply.tokens is not None
    assert list(reply.tokens.prompt_ids) == PROMPT


LACKING = [
    body(prompt_token_ids=None),
    body(token_ids=None),
    body(logprobs=None),
    body(token_ids=[1]),
    body(token_ids=[1, -1]),
    body(token_ids=[1, 2**40]),
    body(token_ids=["1", "2"]),
    body(logprobs={"content": [{"token": "a", "logprob": "NaN"}] * 2}),
    body(logprobs={"content": [{"token": "a"}] * 2}),
]


@pytest.mark.parametrize("told", LACKING, ids=range(len(LACKING)))
async def test_an_endpoint_that_does_not_tell_is_refused_at_the_start(told: dict[str, Any]) -> None:
    async with endpoint(telling(told)) as server:
        with pytest.raises(ConfigError, match=r"model\.capture: tokens: http.*it tells"):
            async with OpenAIUpstream(conf(server.url, capture="tokens")):
                pass
    assert len(server.bodies) == 1


async def test_a_reply_that_lacks_them_is_asked_for_again_and_never_guessed() -> None:
    answers = [telling(body()), telling(body(token_ids=None)), telling(body())]
    async with answered_by(*answers, capture="tokens") as (_, upstream):
        reply = await upstream.complete(CALL, "s")
    assert reply.tries == 2
    assert reply.tokens is not None


async def test_patience_with_such_an_endpoint_ends() -> None:
    async with endpoint(telling(body()), telling(body(token_ids=None))) as server:
        settings = conf(server.url, capture="tokens", patience_s=0.3)
        async with OpenAIUpstream(settings) as upstream:
            with pytest.raises(ModelError, match="no token ids"):
                await upstream.complete(CALL, "s")


async def test_log_probabilities_alone_are_kept_by_their_text() -> None:
    async with answered_by(
        telling(body(token_ids=None, prompt_token_ids=None)), capture="logprobs"
    ) as (server, upstream):
        reply = await upstream.complete(CALL, "s")
    assert reply.tokens is None
    assert json.loads(reply.logprobs or "") == [["a", -0.5], ["b", -2.0]]
    assert server.bodies[-1]["top_p"] == 0.9


@pytest.mark.parametrize(
    ("told", "headers", "version"),
    [
        (body(policy_version=7), {}, 7),
        (body(weight_version="12"), {}, 12),
        (body(), {"X-Policy-Version": "3"}, 3),
        (body(weight_version="default"), {}, None),
        (body(policy_version=-1), {}, None),
    ],
)
async def test_the_version_of_the_weights_is_the_endpoints_word(
    told: dict[str, Any], headers: dict[str, str], version: int | None
) -> None:
    async with answered_by(telling(told, **headers)) as (_, upstream):
        reply = await upstream.complete(CALL, "s")
    assert reply.policy_version == version


async def test_or_the_trainers_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "version"
    file.write_text("4\n")

    async def slow(request: web.Request) -> web.StreamResponse:
        if file.read_text() == "5":
            file.write_text("6")  # while it is sampled
        return web.json_response(body())

    async with endpoint(slow) as server:
        settings = conf(server.url, capture="tokens", policy_version_file=str(file))
        async with OpenAIUpstream(settings) as upstream:
            transcript = Transcript(lambda _: None)
            plan = ModelPlan(conf=settings, budget=BudgetConf())
            service = ModelService(plan=plan, upstream=upstream)
            session = service.open("s", Deadline.after(60), transcript)
            await session.complete(CALL)
            file.write_text("5")
            await session.complete(CALL)
    assert [step.policy_version for step in transcript.steps if step.model_name] == [4, 5]
    assert (session.policy.lowest, session.policy.highest) == (4, 6)
    assert session.sequences is not None
    versions = [s.policy_version for each in session.sequences.finish() for s in each.spans]
    assert [version for version in versions if version is not None] == [4, 5]


def test_sampling_that_would_spoil_it_is_refused() -> None:
    model = ModelConf(
        kind="openai",
        name="m",
        urls=["http://x"],
        capture="tokens",
        sampling={"top_p": 0.9, "temperature": 0.7, "top_k": -1, "logit_bias": {}},
    )
    found = model_problems(model, BudgetConf())
    assert [line.partition(":")[0] for line in found] == [
        "model.sampling.top_p",
        "model.sampling.logit_bias",
    ]
