"""OpenAI's chat completions: as a server for agents, and as a client of whoever answers."""

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from rollout.gateway.base import CHAT, CallRefused, ModelCall, ModelReply, Usage
from rollout.gateway.dialects.fields import as_json, chosen, invalid, items, joined, text
from rollout.gateway.reach import without_providers_tools
from rollout.types import Message, ToolCall

SAMPLING = (
    *("temperature", "top_p", "max_tokens", "max_completion_tokens", "stop", "seed", "n"),
    *("presence_penalty", "frequency_penalty", "logit_bias", "response_format"),
    *("parallel_tool_calls", "reasoning_effort"),
)
STATUS = {"invalid": 400, "context_overflow": 400, "not_found": 404, "too_large": 413}
STATUS |= {"max_turns": 429, "budget": 429, "upstream": 502}
CODES = {"context_overflow": "context_length_exceeded", "not_found": "unknown_url"}


class Chat:
    """POST /v1/chat/completions."""

    name = CHAT

    def read(self, body: Mapping[str, Any]) -> ModelCall:
        messages = items(body, "messages")
        if not messages:
            raise invalid("messages: must hold at least one")
        return ModelCall(
            dialect=CHAT,
            model=text(body, "model"),
            messages=tuple(_message(message) for message in messages),
            tools=tuple(items(body, "tools")),
            tool_choice=body.get("tool_choice"),
            sampling=chosen(body, SAMPLING),
            stream=body.get("stream") is True,
            raw=body,
        )

    def answer(self, call: ModelCall, reply: ModelReply) -> dict[str, Any]:
        if reply.dialect == CHAT and reply.raw:
            return {**reply.raw, "model": call.model}
        message: dict[str, Any] = {"role": "assistant", "content": reply.message.content}
        if reply.message.reasoning_content is not None:
            message["reasoning_content"] = reply.message.reasoning_content
        if reply.message.tool_calls:
            message["tool_calls"] = _tool_calls(reply.message)
            message["content"] = reply.message.content or None
        choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason}
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": call.model,
            "choices": [choice],
            "usage": _usage(reply.usage),
        }

    def stream(self, call: ModelCall, reply: ModelReply) -> Sequence[tuple[str, str]]:
        """A first chunk with the role, one with all of the message, one with the end."""
        whole = self.answer(call, reply)
        message = whole["choices"][0]["message"]
        said = {key: message[key] for key in message if key != "role"}
        delta = {key: value for key, value in said.items() if value is not None}
        if calls := delta.get("tool_calls"):
            delta["tool_calls"] = [{"index": at, **each} for at, each in enumerate(calls)]
        head: dict[str, Any] = chosen(whole, ("id", "created", "model"))
        head["object"] = "chat.completion.chunk"

        def chunk(delta: Mapping[str, Any], finish: str | None) -> tuple[str, str]:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            return "", as_json({**head, "choices": [choice]})

        chunks = [
            chunk({"role": "assistant", "content": ""}, None),
            chunk(delta, None),
            chunk({}, whole["choices"][0]["finish_reason"]),
        ]
        options = call.raw.get("stream_options")
        if isinstance(options, Mapping) and options.get("include_usage"):
            chunks.append(("", as_json({**head, "choices": [], "usage": whole.get("usage")})))
        return [*chunks, ("", "[DONE]")]

    def refusal(self, refused: CallRefused) -> tuple[int, dict[str, Any]]:
        kind = "invalid_request_error" if STATUS[refused.kind] < 429 else refused.kind
        code = CODES.get(refused.kind, refused.kind)
        error = {"message": str(refused), "type": kind, "param": None, "code": code}
        return STATUS[refused.kind], {"error": error}


# ---------------------------------------------------------------- as a client


def to_chat_request(call: ModelCall, model: str) -> dict[str, Any]:
    """The body that asks for the call's reply. Never streaming: the whole reply is what we keep."""
    if call.dialect == CHAT and call.raw:
        left_out = ("stream", "stream_options")
        raw = without_providers_tools(call.raw)
        return {**{k: v for k, v in raw.items() if k not in left_out}, "model": model}
    body: dict[str, Any] = {"model": model, "messages": [_wire(m) for m in call.messages]}
    if call.tools:
        body["tools"] = list(call.tools)
        if call.tool_choice is not None:
            body["tool_choice"] = call.tool_choice
    return {**body, **call.sampling}


def from_chat_reply(body: Mapping[str, Any]) -> ModelReply:
    """CallRefused of kind `upstream` for what is no chat completion."""
    try:
        choice = items(body, "choices")[0]
        message = _message({"role": "assistant", **choice["message"]})
        usage = body.get("usage") or {}
        details = usage.get("prompt_tokens_details") or {}
        return ModelReply(
            message=message,
            finish_reason=str(choice.get("finish_reason") or "stop"),
            usage=Usage(
                prompt_tokens=int(usage.get("prompt_tokens") or 0),
                completion_tokens=int(usage.get("completion_tokens") or 0),
                cached_tokens=int(details.get("cached_tokens") or 0),
            ),
            model=str(body.get("model") or ""),
            dialect=CHAT,
            raw=dict(body),
        )
    except (CallRefused, LookupError, TypeError, ValueError, AttributeError) as exc:
        raise CallRefused(f"the endpoint's reply is no chat completion: {exc!r}") from exc


# ---------------------------------------------------------------- messages


def _message(given: Mapping[str, Any]) -> Message:
    content, parts = given.get("content"), None
    if isinstance(content, list):
        if not all(isinstance(part, dict) for part in content):
            raise invalid("content: must be a string or a list of objects")
        plain = all(part.get("type") == "text" for part in content)
        parts = None if plain else as_json(content)
        content = joined(content, ("text",))
    elif content is not None and not isinstance(content, str):
        raise invalid("content: must be a string or a list of objects")
    reasoning = given.get("reasoning_content", given.get("reasoning"))
    return Message(
        role=text(given, "role"),
        content=content or "",
        content_parts=parts,
        reasoning_content=reasoning if isinstance(reasoning, str) else None,
        tool_calls=tuple(_tool_call(each) for each in items(given, "tool_calls")),
        tool_call_id=given.get("tool_call_id"),
        name=given.get("name"),
    )


def _tool_call(given: Mapping[str, Any]) -> ToolCall:
    function = given.get("function")
    if not isinstance(function, Mapping):
        raise invalid("tool_calls: each must be of a function")
    arguments = function.get("arguments")
    return ToolCall(
        id=text(given, "id", ""),
        name=text(function, "name"),
        arguments=arguments if isinstance(arguments, str) else as_json(arguments or {}),
    )


def _tool_calls(message: Message) -> list[dict[str, Any]]:
    return [
        {
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in message.tool_calls
    ]


def _wire(message: Message) -> dict[str, Any]:
    content: Any = message.content
    if message.content_parts is not None:
        content = _parts(message.content_parts) or content
    wire: dict[str, Any] = {"role": message.role, "content": content}
    if message.tool_calls:
        wire["tool_calls"] = _tool_calls(message)
    for key in ("tool_call_id", "name"):
        if (value := getattr(message, key)) is not None:
            wire[key] = value
    return wire


def _parts(content_parts: str) -> list[dict[str, Any]]:
    """Of those kept beside the text, what chat completions know: text and images by address."""
    known = []
    for part in json.loads(content_parts):
        if part.get("type") in ("text", "image_url"):
            known.append(part)
    return known


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
