"""No way out through the model: nothing that its endpoint would fetch or do elsewhere is asked."""

from typing import Any

import anthropic
import openai
import pytest

from rollout.gateway.base import ModelCall
from rollout.gateway.dialects.anthropic_client import to_anthropic_request
from rollout.gateway.dialects.chat import to_chat_request
from rollout.gateway.reach import remote_address
from tests.gateway.test_server import line, reply

OUT = "http://169.254.169.254/latest"


def said(*parts: Any, role: str = "user", key: str = "messages") -> dict[str, Any]:
    return {key: [{"role": role, "content": list(parts)}]}


@pytest.mark.parametrize(
    "body",
    [
        said({"type": "image_url", "image_url": {"url": OUT}}),
        said({"type": "image_url", "image_url": OUT}),
        said({"type": "video_url", "video_url": {"url": OUT}}),
        said({"type": "audio_url", "audio_url": {"url": OUT}}),
        said({"type": "image", "url": OUT}),
        said({"type": "image", "source": {"type": "url", "url": OUT}}),
        said({"type": "document", "source": {"type": "url", "url": OUT}}),
        said({"type": "tool_result", "content": [{"type": "image", "source": {"url": OUT}}]}),
        said({"type": "input_image", "image_url": OUT}, key="input"),
        said({"type": "input_file", "file_url": OUT}, key="input"),
        {"input": [{"type": "function_call_output", "output": [{"image_url": OUT}]}]},
        said({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}),
        said({"type": "image_url", "image_url": {"url": ""}}, {"image_url": OUT}),
    ],
)
def test_an_address_is_found_wherever_it_stands(body: dict[str, Any]) -> None:
    assert remote_address({"model": "m", **body}) in (OUT, "file:///etc/passwd")


@pytest.mark.parametrize(
    "body",
    [
        said({"type": "text", "text": f"see {OUT}"}),
        {"messages": [{"role": "user", "content": OUT}]},
        said({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}),
        said({"type": "tool_use", "id": "a", "name": "get", "input": {"url": OUT}}),
        {"messages": [{"role": "assistant", "tool_calls": [
            {"id": "a", "function": {"name": "get", "arguments": '{"url": "' + OUT + '"}'}}]}]},
        {"tools": [{"name": "get", "input_schema": {"properties": {"url": {"type": "string"}}}}]},
        {"messages": "x", "input": 5},
    ],
)  # fmt: skip
def test_what_only_the_model_reads_is_no_address(body: dict[str, Any]) -> None:
    assert remote_address(body) == ""


def test_a_body_as_deep_as_it_may_be_is_looked_through() -> None:
    deep: Any = {"image_url": OUT}
    for _ in range(50_000):
        deep = {"content": [deep]}
    assert remote_address({"messages": [deep]}) == OUT


async def test_it_is_refused_in_each_dialects_own_words_and_asked_of_nobody() -> None:
    image = {"type": "image_url", "image_url": {"url": OUT}}
    other = {"type": "image", "source": {"type": "url", "url": OUT}}
    part = {"type": "input_image", "image_url": OUT, "detail": "auto"}
    async with line(reply()) as made, made.openai as client, made.anthropic as claude:
        with pytest.raises(openai.BadRequestError, match="would be fetched"):
            await client.chat.completions.create(model="x", **said(image))
        with pytest.raises(anthropic.BadRequestError, match="would be fetched"):
            await claude.messages.create(model="x", max_tokens=9, **said(other))
        with pytest.raises(openai.BadRequestError, match="would be fetched"):
            await client.responses.create(model="x", **said(part, key="input"))
        assert made.upstream.calls == []
        assert [event.kind for event in made.transcript.events] == ["model_call_refused"] * 3


def test_the_providers_own_tools_are_left_out() -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}
    own = {"name": "bash", "input_schema": {"type": "object"}}
    known = {"type": "bash_20250124", "name": "bash"}
    raw = {"model": "x", "max_tokens": 9, "tools": [search, own, known], "mcp_servers": [{}],
           "container": "c", **said({"type": "text", "text": "hi"})}  # fmt: skip
    sent = to_anthropic_request(
        ModelCall(dialect="anthropic", model="x", messages=(), raw=raw), "m"
    )
    assert set(sent) == {"model", "max_tokens", "tools", "messages"}
    assert sent["tools"] == [own, known]
    alone = {**raw, "tools": [search], "tool_choice": {"type": "any"}}
    sent = to_anthropic_request(
        ModelCall(dialect="anthropic", model="x", messages=(), raw=alone), "m"
    )
    assert not {"tools", "tool_choice"} & set(sent)
    chat = {"model": "x", "web_search_options": {}, "tools": [{"type": "web_search"}], **said()}
    sent = to_chat_request(ModelCall(dialect="chat", model="x", messages=(), raw=chat), "m")
    assert sent == {"model": "m", **said()}
