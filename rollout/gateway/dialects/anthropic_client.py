"""Anthropic's messages API, as a client: our messages as its blocks, and its reply as ours."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rollout.gateway.base import ANTHROPIC, CallRefused, ModelCall, ModelReply, Usage
from rollout.gateway.dialects.anthropic import STOPS, read_message
from rollout.gateway.dialects.fields import chosen, invalid, items, loaded
from rollout.gateway.reach import without_providers_tools
from rollout.types import Message

MAX_TOKENS = 8_192
"""Of a reply, where nobody says: the API wants a number."""
FINISHED = {stop: reason for reason, stop in STOPS.items()} | {"stop_sequence": "stop"}
FINISHED |= {"refusal": "content_filter", "model_context_window_exceeded": "length"}
THOUGHTS = ("thinking", "redacted_thinking")
_DATA_URL = re.compile(r"data:([^;,]+);base64,(.*)", re.DOTALL)
Block = dict[str, Any]


def to_anthropic_request(call: ModelCall, model: str) -> dict[str, Any]:
    """The body that asks for the call's reply. Never streaming: the whole reply is what we keep.

    CallRefused of kind `invalid` for parts and tools of a shape that nobody knows.
    """
    try:
        return _request(call, model)
    except (AttributeError, LookupError, TypeError, ValueError) as exc:
        raise invalid(f"the call cannot be put in the messages API's words: {exc!r}") from exc


def _request(call: ModelCall, model: str) -> dict[str, Any]:
    if call.dialect == ANTHROPIC and call.raw:
        raw = without_providers_tools(call.raw)
        return {**{k: v for k, v in raw.items() if k != "stream"}, "model": model}
    body: dict[str, Any] = {"model": model, "messages": list(_turns(call.messages))}
    if system := "\n\n".join(_rules(call.messages)):
        body["system"] = system
    if call.tools:
        body["tools"] = [_tool(tool) for tool in call.tools]
        if choice := _tool_choice(call.tool_choice):
            body["tool_choice"] = choice
    return {**body, **_sampling(call.sampling)}


def from_anthropic_reply(body: Mapping[str, Any]) -> ModelReply:
    """CallRefused of kind `upstream` for what is no message."""
    try:
        blocks = items(body, "content")
        (message,) = read_message({"role": "assistant", "content": blocks})
        usage = body.get("usage") or {}
        read = int(usage.get("cache_read_input_tokens") or 0)
        written = int(usage.get("cache_creation_input_tokens") or 0)
        return ModelReply(
            message=message,
            finish_reason=FINISHED.get(str(body["stop_reason"]), "stop"),
            usage=Usage(
                prompt_tokens=int(usage.get("input_tokens") or 0) + read + written,
                completion_tokens=int(usage.get("output_tokens") or 0),
                cached_tokens=read,
            ),
            model=str(body.get("model") or ""),
            dialect=ANTHROPIC,
            raw=dict(body),
        )
    except (CallRefused, LookupError, TypeError, ValueError, AttributeError) as exc:
        raise CallRefused(f"the endpoint's reply is no message: {exc!r}") from exc


def _rules(messages: Iterable[Message]) -> Iterator[str]:
    """The system prompts."""
    for message in messages:
        if message.role in ("system", "developer") and message.content.strip():
            yield message.content


def _turns(messages: Iterable[Message]) -> Iterator[dict[str, Any]]:
    """The conversation without its system prompts; what tools gave is said by the user, at once."""
    role, blocks = "", list[Block]()
    for message in messages:
        if message.role in ("system", "developer"):
            continue
        speaks = "assistant" if message.role == "assistant" else "user"
        if speaks != role and blocks:
            yield {"role": role, "content": blocks}
            blocks = []
        role = speaks
        blocks = [*blocks, *_blocks(message)]
    if blocks:
        yield {"role": role, "content": blocks}


def _blocks(message: Message) -> list[Block]:
    if message.role == "assistant":
        kept = [part for part in _parts(message) if not _is_blank(part)]
        said: list[Block] = [part for part in kept if part.get("type") in THOUGHTS]
        if said and said != kept:
            return kept  # thoughts between other blocks: all of them are there
        said += _plain(message.content)
        for call in message.tool_calls:
            given = {"id": call.id, "name": call.name, "input": loaded(call.arguments)}
            said.append({"type": "tool_use", **given})
        return said
    parts = [part for part in _parts(message) if not _is_blank(part)]
    content = [_shown(part) for part in parts] or _plain(message.content)
    if message.role == "tool":
        return [{"type": "tool_result", "tool_use_id": message.tool_call_id, "content": content}]
    return content


def _plain(text: str) -> list[Block]:
    """The API refuses a whole call for one text that is empty, or white space alone."""
    return [{"type": "text", "text": text}] if text.strip() else []


def _is_blank(part: Mapping[str, Any]) -> bool:
    return part.get("type") == "text" and not str(part.get("text", "")).strip()


def _parts(message: Message) -> list[Block]:
    found = json.loads(message.content_parts) if message.content_parts else []
    return [part for part in found if isinstance(part, dict)]


def _shown(part: Mapping[str, Any]) -> Block:
    """An image of chat completions as the API has it; anything else as it is."""
    if part.get("type") != "image_url":
        return dict(part)
    url = str((part.get("image_url") or {}).get("url", ""))
    if inline := _DATA_URL.fullmatch(url):
        source = {"type": "base64", "media_type": inline[1], "data": inline[2]}
    else:
        source = {"type": "url", "url": url}
    return {"type": "image", "source": source}


def _tool(tool: Mapping[str, Any]) -> Block:
    function = tool.get("function") or {}
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    return {**chosen(function, ("name", "description")), "input_schema": schema}


def _tool_choice(choice: Any) -> Block | None:
    if isinstance(choice, Mapping):
        return {"type": "tool", "name": (choice.get("function") or {}).get("name")}
    known = {"required": "any", "none": "none", "auto": "auto"}
    return {"type": known[choice]} if choice in known else None


def _sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the API has a word for."""
    most = given.get("max_completion_tokens") or given.get("max_tokens") or MAX_TOKENS
    taken = {"max_tokens": most, **chosen(given, ("temperature", "top_p", "top_k"))}
    if stop := given.get("stop"):
        taken["stop_sequences"] = [stop] if isinstance(stop, str) else list(stop)
    return taken
