"""The providers' own clients, hostile ones, and the record of what they asked."""

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import openai
import pytest

from rollout.aio import Deadline
from rollout.errors import ModelError
from rollout.gateway import record, server
from rollout.gateway.access import ModelAccess
from rollout.gateway.base import Budget, CallRefused, ModelCall, ModelReply, Price, Usage
from rollout.gateway.server import serve
from rollout.gateway.session import Session
from rollout.sandbox.native import NativeEngine
from rollout.transcript import Transcript
from rollout.types import Message, StopReason, ToolCall
from tests.sandbox.test_native import conf, make

CALLS = (ToolCall(id="c1", name="bash", arguments='{"command":"ls -l"}'),)
TOOL = {"name": "bash", "description": "runs", "parameters": {"type": "object", "properties": {}}}
USAGE = Usage(prompt_tokens=10, completion_tokens=4, cached_tokens=3)


def reply(text: str = "", calls: tuple[ToolCall, ...] = (), **more: Any) -> ModelReply:
    message = Message(
        role="assistant", content=text, tool_calls=calls, reasoning_content=more.pop("why", None)
    )
    return ModelReply(
        message=message,
        finish_reason="tool_calls" if calls else "stop",
        usage=USAGE,
        model="m",
        **more,
    )


class Answers:
    """An upstream that gives one reply after the other, the last one for ever."""

    def __init__(self, *replies: ModelReply | Exception, latency_s: float = 0.0) -> None:
        self._replies = list(replies)
        self._latency_s = latency_s
        self.calls: list[ModelCall] = []
        self.cancelled = 0

    async def __aenter__(self) -> "Answers":
        return self

    async def __aexit__(self, *error: object) -> None: ...

    def forget(self, session_id: str) -> None: ...

    async def complete(self, call: ModelCall, session_id: str) -> ModelReply:
        self.calls.append(call)
        try:
            await asyncio.sleep(self._latency_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        said = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        if isinstance(said, Exception):
            raise said
        return said


class Line:
    """A session that is served on a port of this machine."""

    def __init__(self, upstream: Answers, **settings: Any) -> None:
        given: dict[str, Any] = {"budget": Budget(), "price": None, "deadline": Deadline.after(60)}
        self.upstream = upstream
        self.transcript = Transcript(lambda name: None)
        self.session = Session(
            upstream, session_id="s", model="m", transcript=self.transcript, **{**given, **settings}
        )
        self.url = ""

    @property
    def openai(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    @property
    def anthropic(self) -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(base_url=self.url, api_key="none", max_retries=0)

    def said(self) -> list[tuple[str, str]]:
        return [(message.role, message.content) for message in self.transcript.messages]


@asynccontextmanager
async def line(
    *replies: ModelReply | Exception, latency_s: float = 0.0, **settings: Any
) -> AsyncIterator[Line]:
    made = Line(Answers(*replies, latency_s=latency_s), **settings)
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    made.url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    async with serve(made.session, sock):
        yield made


HELLO = [{"role": "user", "content": "hello"}]


# ---------------------------------------------------------------- the providers' own clients


@pytest.mark.parametrize("streams", [False, True])
async def test_chat_completions(streams: bool) -> None:
    async with line(reply("look", CALLS, why="hm")) as made, made.openai as client:
        asked: dict[str, Any] = {
            "model": "gpt-9",
            "messages": [{"role": "system", "content": "be good"}, *HELLO],
            "tools": [{"type": "function", "function": TOOL}],
            "temperature": 0.5,
        }
        if streams:
            text, name, arguments, finish = "", "", "", None
            stream = await client.chat.completions.create(
                **asked, stream=True, stream_options={"include_usage": True}
            )
            async for chunk in stream:
                usage = chunk.usage
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                    finish = choice.finish_reason or finish
                    for call in choice.delta.tool_calls or ():
                        name, arguments = call.function.name, call.function.arguments
        else:
            whole = await client.chat.completions.create(**asked)
            (choice,), usage = whole.choices, whole.usage
            text, finish = choice.message.content, choice.finish_reason
            (call,) = choice.message.tool_calls
            name, arguments = call.function.name, call.function.arguments
        assert (text, name, json.loads(arguments)) == ("look", "bash", {"command": "ls -l"})
        assert (finish, usage.prompt_tokens, usage.completion_tokens) == ("tool_calls", 10, 4)
        (seen,) = made.upstream.calls
        assert seen.sampling == {"temperature": 0.5}
        assert made.said() == [("system", "be good"), ("user", "hello"), ("assistant", "look")]
        assert made.transcript.messages[-1].tool_calls == CALLS
        assert json.loads(made.session.record.tools or "")[0]["function"] == TOOL
        assert [step.source for step in made.transcript.steps] == ["system", "user", "agent"]


@pytest.mark.parametrize("streams", [False, True])
async def test_anthropic_messages(streams: bool) -> None:
    used = {"type": "tool_use", "id": "a", "name": "bash", "input": {"command": "pwd"}}
    said = {"type": "text", "text": "/app"}
    async with line(reply("look", CALLS, why="hm")) as made, made.anthropic as client:
        asked: dict[str, Any] = {
            "model": "claude-9",
            "max_tokens": 99,
            "system": [{"type": "text", "text": "be good"}],
            "tools": [{"name": "bash", "input_schema": TOOL["parameters"]}],
            "messages": [
                {"role": "user", "content": "hello"},
                {"role": "assistant", "content": [used]},
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "a", "content": [said]},
                        {"type": "text", "text": "go on"},
                    ],
                },
            ],
        }
        if streams:
            async with client.messages.stream(**asked) as stream:
                whole = await stream.get_final_message()
        else:
            whole = await client.messages.create(**asked)
        assert [block.type for block in whole.content] == ["thinking", "text", "tool_use"]
        assert whole.content[0].thinking == "hm"
        assert whole.content[1].text == "look"
        assert (whole.content[2].name, whole.content[2].input) == ("bash", {"command": "ls -l"})
        assert (whole.stop_reason, whole.model) == ("tool_use", "claude-9")
        assert (whole.usage.input_tokens, whole.usage.cache_read_input_tokens) == (7, 3)
        assert whole.usage.output_tokens == 4
        assert made.said() == [
            ("system", "be good"), ("user", "hello"), ("assistant", ""), ("tool", "/app"),
            ("user", "go on"), ("assistant", "look"),
        ]  # fmt: skip
        counted = await client.messages.count_tokens(model="x", messages=HELLO)
        assert counted.input_tokens > 0


@pytest.mark.parametrize("streams", [False, True])
async def test_responses(streams: bool) -> None:
    patch = ToolCall(id="c2", name="patch", arguments='{"input":"*** a"}')
    async with line(reply("look", (*CALLS, patch), why="hm")) as made, made.openai as client:
        asked: dict[str, Any] = {
            "model": "gpt-9",
            "instructions": "be good",
            "tools": [
                {"type": "function", **TOOL},
                {"type": "custom", "name": "patch"},
                {"type": "web_search"},
            ],
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "hello"}]},
                {"type": "reasoning", "id": "r", "summary": []},
                {
                    "type": "message",
                    "role": "assistant",
                    "content": "I see. ",
                    "id": "m",
                    "status": "completed",
                },
                {
                    "type": "function_call",
                    "call_id": "a",
                    "name": "bash",
                    "arguments": '{"command":"pwd"}',
                },
                {"type": "function_call_output", "call_id": "a", "output": "/app"},
            ],
        }
        if streams:
            async with client.responses.stream(**asked) as stream:
                async for _ in stream:
                    pass
                whole = await stream.get_final_response()
        else:
            whole = await client.responses.create(**asked)
        kinds = ["reasoning", "message", "function_call", "custom_tool_call"]
        assert [item.type for item in whole.output] == kinds
        assert whole.output_text == "look"
        assert json.loads(whole.output[2].arguments) == {"command": "ls -l"}
        assert (whole.output[3].name, whole.output[3].input) == ("patch", "*** a")
        assert (whole.usage.input_tokens, whole.usage.output_tokens) == (10, 4)
        (seen,) = made.upstream.calls
        assert [tool["function"]["name"] for tool in seen.tools] == ["bash", "patch"]
        assert made.said() == [
            ("system", "be good"), ("user", "hello"), ("assistant", "I see. "), ("tool", "/app"),
            ("assistant", "look"),
        ]  # fmt: skip


async def test_images_are_kept_in_one_shape() -> None:
    data = base64.b64encode(b"png").decode()
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    async with line(reply("a cat")) as made, made.anthropic as client, made.openai as other:
        await client.messages.create(
            model="x", max_tokens=9, messages=[{"role": "user", "content": [image]}]
        )
        url: dict[str, Any] = {
            "type": "image_url",
            "image_url": {"url": f"data:image/png;base64,{data}"},
        }
        await other.chat.completions.create(
            model="x", messages=[{"role": "user", "content": [url]}]
        )
        part = {"type": "input_image", "image_url": url["image_url"]["url"], "detail": "auto"}
        await other.responses.create(
            model="x",
            input=[{"role": "user", "content": [part]}],
        )
        kept = [m.content_parts for m in made.transcript.messages if m.role == "user"]
        assert {json.dumps(json.loads(parts or "[]")) for parts in kept} == {json.dumps([url])}


async def test_models_and_the_first_look_of_harnesses() -> None:
    async with line(reply()) as made, made.openai as client, aiohttp.ClientSession() as http:
        assert [model.id async for model in client.models.list()] == ["m"]
        async with http.head(f"{made.url}/") as seen:
            assert seen.status == 200


# ---------------------------------------------------------------- what is refused


async def test_errors_come_in_the_callers_own_shape() -> None:
    full = CallRefused("4097 tokens", "context_overflow")
    async with line(full) as made, made.openai as client, made.anthropic as other:
        with pytest.raises(openai.BadRequestError) as chat:
            await client.chat.completions.create(model="x", messages=HELLO)
        assert chat.value.code == "context_length_exceeded"
        with pytest.raises(anthropic.BadRequestError, match="prompt is too long: 4097"):
            await other.messages.create(model="x", max_tokens=9, messages=HELLO)
        with pytest.raises(openai.BadRequestError, match="messages: must hold"):
            await client.chat.completions.create(model="x", messages=[])
        with pytest.raises(openai.NotFoundError, match="no such route: POST /v1/embeddings"):
            await client.embeddings.create(model="x", input="y")
        with pytest.raises(anthropic.NotFoundError, match="no such route"):
            await other.models.retrieve("x")
        assert made.session.stop is StopReason.CONTEXT_OVERFLOW
        told = [event.detail for event in made.transcript.events]
        assert any("no such route: POST /v1/embeddings" in detail for detail in told)


async def test_an_endpoint_that_fails_for_good_is_remembered_until_it_answers() -> None:
    async with line(ModelError("down"), reply("up")) as made, made.openai as client:
        with pytest.raises(openai.InternalServerError, match="down"):
            await client.chat.completions.create(model="x", messages=HELLO)
        assert str(made.session.error) == "down"
        await client.chat.completions.create(model="x", messages=HELLO)
        assert made.session.error is None


async def test_an_error_after_the_stream_has_begun_is_told_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "PING_S", 0.05)
    async with line(ModelError("down"), latency_s=0.3) as made, made.openai as client:
        stream = await client.chat.completions.create(model="x", messages=HELLO, stream=True)
        with pytest.raises(openai.APIError, match="down"):
            async for _ in stream:
                pass


async def test_a_caller_that_hangs_up_ends_its_call() -> None:
    async with line(reply(), latency_s=30) as made, made.openai as client:
        with pytest.raises(openai.APITimeoutError):
            await client.with_options(timeout=0.2).chat.completions.create(
                model="x", messages=HELLO
            )
        async with asyncio.timeout(5):
            while not made.upstream.cancelled:
                await asyncio.sleep(0.02)
        assert made.session._turns == 0


@pytest.mark.parametrize(
    "sent",
    [
        b"\0\1\2\3\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: " + b"b" * 100_000 + b"\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nContent-Length: 9\r\n\r\nnot json!",
        b"POST /v1/messages HTTP/1.1\r\nContent-Length: 2\r\n\r\n[]",
        b"POST /v1/responses HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n{",
        b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 200000\r\n\r\n" + b"[" * 200_000,
        b'POST /v1/responses HTTP/1.1\r\nContent-Length: 27\r\n\r\n{"model":"x","input":[1,2]}',
    ],
    ids=["bytes", "header", "no_json", "a_list", "cut_short", "deep", "no_objects"],
)
async def test_garbage_is_refused_and_the_next_is_served(sent: bytes) -> None:
    async with line(reply("fine")) as made:
        reader, writer = await asyncio.open_connection(*made.url.removeprefix("http://").split(":"))
        writer.write(sent)
        writer.write_eof()
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
        assert answer == b"" or b" 4" in answer.split(b"\r\n")[0], answer[:200]
        assert b"Traceback" not in answer
        async with made.openai as client:
            await client.chat.completions.create(model="x", messages=HELLO)


async def test_connections_and_bodies_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 3)
    monkeypatch.setattr(server, "BODY_LIMIT_BYTES", 1_000)
    async with line(reply()) as made:
        host, port = made.url.removeprefix("http://").split(":")
        held = [await asyncio.open_connection(host, port) for _ in range(3)]
        await asyncio.sleep(0.1)
        reader, writer = await asyncio.open_connection(host, port)
        assert await reader.read() == b""
        for _, each in (*held, (reader, writer)):
            each.close()
        await asyncio.sleep(0.1)
        async with made.openai as client:
            with pytest.raises(openai.APIStatusError, match="larger than 1000 bytes"):
                await client.chat.completions.create(
                    model="x", messages=[{"role": "user", "content": "x" * 2_000}]
                )


@pytest.mark.parametrize(
    "body",
    [{"model": "x", "messages": HELLO * 60}, {"model": "x", "messages": HELLO, "odd": [[]] * 99}],
)
async def test_bodies_that_would_cost_much_more_than_they_are_are_refused(
    body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MOST_VALUES", 200)
    monkeypatch.setattr(server, "MOST_MESSAGES", 50)
    async with line(reply()) as made, aiohttp.ClientSession() as http:
        async with http.post(f"{made.url}/v1/chat/completions", json=body) as refused:
            assert refused.status == 413
            assert "more than" in (await refused.json())["error"]["message"]
        assert made.upstream.calls == []


async def test_a_rollout_that_talks_without_end_fills_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(record, "MOST_MESSAGES", 10)
    async with line(reply("a")) as made, made.openai as client:
        for number in range(12):
            said = [{"role": "user", "content": f"hello {number}"}]
            await client.chat.completions.create(model="x", messages=said)
    assert len(made.transcript.messages) == 12
    assert made.session.usage.completion_tokens == 12 * 4
    assert [event.kind for event in made.transcript.events] == ["calls_left_out"]


async def test_long_messages_are_whole_until_they_are_very_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(record, "WHOLE_CHARS", 300_000)
    async with line(reply("a")) as made, made.openai as client:
        for number in range(4):
            said = [{"role": "user", "content": f"{number}" * 200_000}]
            await client.chat.completions.create(model="x", messages=said)
    sizes = [len(message.content) for message in made.transcript.messages[::2]]
    assert sizes[:2] == [200_000, 200_000]
    assert max(sizes[2:]) < 65_000


# ---------------------------------------------------------------- budgets


@pytest.mark.parametrize(
    ("budget", "stop", "error"),
    [
        (Budget(turns=2), StopReason.MAX_TURNS, "2 turns"),
        (Budget(prompt_tokens=20), StopReason.BUDGET, "20 prompt tokens"),
        (Budget(completion_tokens=8), StopReason.BUDGET, "8 completion tokens"),
        (Budget(cost_usd=0.0001), StopReason.BUDGET, "US dollars"),
    ],
)
async def test_a_budget_ends_politely_first(budget: Budget, stop: StopReason, error: str) -> None:
    price = Price(prompt=5.0, completion=4.0, cached=1.0)
    async with line(reply("a"), budget=budget, price=price) as made, made.openai as client:
        ask: Callable[[], Any] = lambda: client.chat.completions.create(model="x", messages=HELLO)  # noqa: E731
        for _ in range(2):
            assert (await ask()).choices[0].message.content == "a"
        assert made.session.stop is None
        last = (await ask()).choices[0]
        assert error in last.message.content
        assert (last.finish_reason, last.message.tool_calls) == ("stop", None)
        with pytest.raises(openai.RateLimitError, match=error):
            await ask()
        assert made.session.stop is stop
        assert made.session.usage.completion_tokens == 8
        assert made.session.cost_usd == pytest.approx(2 * (7 * 5 + 3 * 1 + 4 * 4) / 1e6)
        assert len(made.upstream.calls) == 2
        assert [m.content for m in made.transcript.messages if m.role == "assistant"] == ["a", "a"]


async def test_no_call_may_ask_for_more_than_is_left() -> None:
    async with (
        line(reply("a"), budget=Budget(completion_tokens=100)) as made,
        made.openai as client,
    ):
        for asked in ({"max_tokens": 500}, {"max_completion_tokens": 7}, {}):
            await client.chat.completions.create(model="x", messages=HELLO, **asked)
        seen = [call.sampling for call in made.upstream.calls]
        assert seen == [{"max_tokens": 100}, {"max_completion_tokens": 7}, {"max_tokens": 92}]
        assert [call.raw.get("max_tokens") for call in made.upstream.calls] == [100, None, 92]
        assert made.session.cost_usd is None


async def test_time_over_is_told_as_such() -> None:
    async with (
        line(reply(), latency_s=30, deadline=Deadline.after(0.2)) as made,
        made.openai as client,
    ):
        with pytest.raises(openai.RateLimitError, match="time of this rollout"):
            await client.chat.completions.create(model="x", messages=HELLO)
        assert made.session.stop is StopReason.TIMEOUT
    async with (
        line(reply(), latency_s=30, budget=Budget(wall_s=0.2)) as made,
        made.openai as client,
    ):
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(model="x", messages=HELLO)
        assert made.session.stop is StopReason.BUDGET


# ---------------------------------------------------------------- the record


async def test_each_message_is_recorded_once_and_threads_are_told_apart() -> None:
    async with line(reply("one"), reply("two"), reply("other"), reply("three")) as made:

        async def ask(*words: tuple[str, str]) -> None:
            messages = tuple(Message(role=role, content=text) for role, text in words)
            await made.session.complete(ModelCall(dialect="direct", model="m", messages=messages))

        first = (("system", "s"), ("user", "go"))
        await ask(*first)
        await ask(*first, ("assistant", "one "), ("tool", "out"))  # sent back with white space
        await ask(("user", "something else"))
        await ask(
            *first, ("assistant", "one"), ("tool", "out"), ("assistant", "two"), ("tool", "x")
        )
    assert [text for _, text in made.said()] == [
        "s", "go", "one", "out", "two", "something else", "other", "x", "three",
    ]  # fmt: skip
    times = [s.env_ms is not None for s in made.transcript.steps if s.source == "agent"]
    assert times == [True, True, False, False]
    steps = [(s.source, s.message_start, s.message_end, s.thread) for s in made.transcript.steps]
    assert steps == [
        ("system", 0, 1, None), ("user", 1, 2, None), ("agent", 2, 3, 0), ("agent", 3, 5, 0),
        ("user", 5, 6, None), ("agent", 6, 7, 1), ("agent", 7, 9, 0),
    ]  # fmt: skip


@pytest.mark.native
async def test_it_is_there_inside_a_sandbox_with_no_other_network(tmp_path: Path) -> None:
    engine = NativeEngine(conf(tmp_path))
    await engine.start()
    try:
        box = await make(engine)
        made = Line(Answers(reply("hello from the model")))
        async with ModelAccess(made.session, "m").listen(box) as port:
            code = (
                "import json, urllib.request as u; body = json.dumps({'model': 'x', 'messages': "
                "[{'role': 'user', 'content': 'hi'}]}).encode(); "
                f"print(json.load(u.urlopen('http://127.0.0.1:{port}/v1/chat/completions', body))"
                "['choices'][0]['message']['content'])"
            )
            done = await box.exec(["/usr/bin/python3", "-c", code])
        assert (done.stdout, done.stderr) == (b"hello from the model\n", b"")
        gone = await box.exec(["/usr/bin/python3", "-c", code])
        assert b"refused" in gone.stderr.lower() or b"reset" in gone.stderr.lower()
        await box.close()
    finally:
        await engine.close()
