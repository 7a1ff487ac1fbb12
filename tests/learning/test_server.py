"""The server of the tiny policy, asked by OpenAI's own client and by the gateway's capture."""

import asyncio
import json

import openai
import pytest

torch = pytest.importorskip("torch")

from rollout.config import ModelConf  # noqa: E402  only with torch
from rollout.gateway.base import ModelCall  # noqa: E402
from rollout.gateway.upstreams.openai import OpenAIUpstream  # noqa: E402
from rollout.learning.policy import TinyPolicy  # noqa: E402
from rollout.learning.server import PolicyServer  # noqa: E402
from rollout.learning.words import ids_of, prompt_of  # noqa: E402
from rollout.types import Message  # noqa: E402


async def test_the_gateway_captures_exactly_what_was_sampled() -> None:
    policy = TinyPolicy(1)
    torch.nn.init.normal_(policy.head.weight, std=0.5)
    async with PolicyServer(policy, version=4) as server:
        conf = ModelConf(
            kind="openai",
            name="tiny",
            urls=[server.url],
            capture="tokens",
            sampling={"temperature": 1.0, "max_tokens": 2},
        )
        call = ModelCall(
            dialect="direct",
            model="tiny",
            messages=(Message(role="user", content="read a.txt : write its text to out"),),
        )
        async with OpenAIUpstream(conf) as upstream:
            replies = await asyncio.gather(*(upstream.complete(call, f"s{n}") for n in range(40)))
            server.take(policy, 5)
            later = await upstream.complete(call, "s40")
    prompt = prompt_of([{"role": "user", "content": "read a.txt : write its text to out"}])
    assert {reply.policy_version for reply in replies} == {4}
    assert later.policy_version == 5
    for reply in replies:
        tokens = reply.tokens
        assert tokens is not None
        assert list(tokens.prompt_ids) == prompt
        assert len(tokens.completion_ids) == len(tokens.logprobs) <= 2
        for asked in reply.message.tool_calls:
            said = [*tokens.completion_ids]
            command = json.loads(asked.arguments)["command"]
            assert ids_of(command) == said[: len(ids_of(command))]
    assert len({tuple(reply.tokens.completion_ids) for reply in replies if reply.tokens}) > 5


async def test_openais_own_client_understands_it() -> None:
    async with PolicyServer(TinyPolicy(0)) as server:
        client = openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0)
        told = await client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "find b.txt"}], max_tokens=3
        )
        assert told.usage is not None
        assert told.usage.completion_tokens <= 3
        assert [model.id async for model in client.models.list()] == ["tiny"]
        with pytest.raises(openai.BadRequestError, match="maximum context length"):
            await client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "x " * 200}]
            )
        with pytest.raises(openai.BadRequestError, match="no call"):
            await client.chat.completions.create(model="tiny", messages=[5])  # type: ignore[list-item]
        await client.close()
