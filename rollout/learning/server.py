"""The tiny policy behind OpenAI's chat completions, with the token ids that training needs.

It speaks what `model.capture=tokens` asks of an engine (vLLM's `return_token_ids`), tells the
version of its weights with each reply, and answers calls that come together in one forward pass.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from aiohttp import web

from rollout.learning.policy import LONGEST, TinyPolicy
from rollout.learning.words import END, ENDED, WORDS, command_of, prompt_of

MOST_TOKENS = 16
"""Of a reply, whatever is asked for."""
TOGETHER = 128
"""Calls in one forward pass at most."""


@dataclass(slots=True)
class _Call:
    prompt: list[int]
    most: int
    temperature: float
    answer: "asyncio.Future[_Said]" = field(default_factory=asyncio.Future)


@dataclass(frozen=True, slots=True)
class _Said:
    ids: list[int]
    logprobs: list[float]
    version: int


class PolicyServer:
    """Use as `async with`; `url` is the base URL for `model.urls`."""

    def __init__(
        self, policy: TinyPolicy, *, seed: int = 0, version: int = 0, host: str = "127.0.0.1"
    ) -> None:
        """The policy's weights are copied: whoever trains it hands over new ones by `take`."""
        self._policy = TinyPolicy(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._calls: asyncio.Queue[_Call] = asyncio.Queue()
        self._taken = (0, policy.state_dict())
        self.take(policy, version)
        self._host, self.url = host, ""

    def take(self, policy: TinyPolicy, version: int) -> None:
        """Answer with these weights from the next forward pass on."""
        copied = {name: weight.clone() for name, weight in policy.state_dict().items()}
        self._taken = (version, copied)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/health", _healthy)
        app.router.add_get("/v1/models", _models)
        app.router.add_post("/v1/chat/completions", self._complete)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, 0)
        await site.start()
        self.url = f"http://{self._host}:{self._runner.addresses[0][1]}/v1"
        self._answering = asyncio.create_task(self._answer())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._answering.cancel()
        await asyncio.gather(self._answering, return_exceptions=True)
        await self._runner.cleanup()

    async def _complete(self, request: web.Request) -> web.Response:
        try:
            body = await request.json()
            call = _Call(
                prompt=prompt_of(body["messages"]),
                most=min(MOST_TOKENS, int(body.get("max_tokens") or MOST_TOKENS)),
                temperature=max(1e-3, float(body.get("temperature", 1.0))),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            return web.json_response({"error": {"message": f"no call: {exc!r}"}}, status=400)
        if len(call.prompt) + call.most > LONGEST:
            told = f"maximum context length is {LONGEST} tokens, {len(call.prompt)} were given"
            error = {"message": told, "code": "context_length_exceeded"}
            return web.json_response({"error": error}, status=400)
        self._calls.put_nowait(call)
        return web.json_response(_reply(call, await call.answer))

    async def _answer(self) -> None:
        """Whoever has come meanwhile is answered together; the loop goes on, torch in a thread."""
        while True:
            calls = [await self._calls.get()]
            while len(calls) < TOGETHER and not self._calls.empty():
                calls.append(self._calls.get_nowait())
            alike: dict[tuple[int, float], list[_Call]] = {}
            for call in calls:
                alike.setdefault((call.most, call.temperature), []).append(call)
            for together in alike.values():
                await self._answer_together(together)

    async def _answer_together(self, calls: list[_Call]) -> None:
        """What goes wrong is each caller's error, and not the end of the server."""
        try:
            said = await asyncio.to_thread(self._sample, calls)
        except RuntimeError as exc:  # torch's own
            for call in calls:
                if not call.answer.done():
                    call.answer.set_exception(RuntimeError(str(exc)))
            return
        for call, each in zip(calls, said, strict=True):
            if not call.answer.done():  # else its client has hung up
                call.answer.set_result(each)

    def _sample(self, calls: list[_Call]) -> list[_Said]:
        version, weights = self._taken
        self._policy.load_state_dict(weights)
        sampled = self._policy.sample(
            [call.prompt for call in calls],
            self._generator,
            most=calls[0].most,
            temperature=calls[0].temperature,
        )
        return [_Said(ids, logprobs, version) for ids, logprobs in sampled]


def _reply(call: _Call, said: _Said) -> dict[str, Any]:
    ended = said.ids[-1:] == [END]
    command = command_of(said.ids)
    message: dict[str, Any] = {"role": "assistant", "content": None if command else "Done."}
    if command:
        arguments = json.dumps({"command": command})
        number = f"call-{len(call.prompt)}{ENDED if ended else ''}"
        function = {"name": "bash", "arguments": arguments}
        message["tool_calls"] = [{"id": number, "type": "function", "function": function}]
    content = [
        {"token": WORDS[token], "logprob": logprob}
        for token, logprob in zip(said.ids, said.logprobs, strict=True)
    ]
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": ("tool_calls" if command else "stop") if ended else "length",
        "logprobs": {"content": content},
        "token_ids": said.ids,
    }
    used = {"prompt_tokens": len(call.prompt), "completion_tokens": len(said.ids)}
    return {
        "id": "tiny",
        "object": "chat.completion",
        "model": "tiny",
        "choices": [choice],
        "usage": {**used, "total_tokens": sum(used.values())},
        "prompt_token_ids": call.prompt,
        "policy_version": said.version,
    }


async def _healthy(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def _models(request: web.Request) -> web.Response:
    one: Mapping[str, Any] = {"id": "tiny", "object": "model", "owned_by": "rollout"}
    return web.json_response({"object": "list", "data": [one]})
