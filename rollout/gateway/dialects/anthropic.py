"""Anthropic's messages API, as a server for agents. Tool results are messages of their own here."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rollout.gateway.base import ANTHROPIC, CallRefused, ModelCall, ModelReply
from rollout.gateway.dialects.chat import STATUS
from rollout.gateway.dialects.fields import as_json, chosen, invalid, items, joined, loaded, text
from rollout.types import Message, ToolCall

STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
ERRORS = {
    **{"invalid": "invalid_request_error", "context_overflow": "invalid_request_error"},
    **{"not_found": "not_found_error", "too_large": "request_too_large"},
    **{"max_turns": "rate_limit_error", "budget": "rate_limit_error", "upstream": "api_error"},
}


REDACTED = "redacted_thinking"


class Anthropic:
    """POST /v1/messages."""

    name = ANTHROPIC

    def read(self, body: Mapping[str, Any]) -> ModelCall:
        messages = [
            *_system(body),
            *(m for given in items(body, "messages") for m in read_message(given)),
        ]
        if not items(body, "messages"):
            raise invalid("messages: must hold at least one")
        sampling = chosen(body, ("max_tokens", "temperature", "top_p", "top_k"))
        if body.get("stop_sequences"):
            sampling["stop"] = body["stop_sequences"]
        return ModelCall(
            dialect=ANTHROPIC,
            model=text(body, "model"),
            messages=tuple(messages),
            tools=tuple(_tool(tool) for tool in items(body, "tools") if "input_schema" in tool),
            tool_choice=_tool_choice(body.get("tool_choice")),
            sampling=sampling,
            stream=body.get("stream") is True,
            raw=body,
        )

    def answer(self, call: ModelCall, reply: ModelReply) -> dict[str, Any]:
        if reply.dialect == ANTHROPIC and reply.raw:
            return {**reply.raw, "model": call.model}
        fresh = reply.usage.prompt_tokens - reply.usage.cached_tokens
        return {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": call.model,
            "content": _blocks(reply.message),
            "stop_reason": STOPS.get(reply.finish_reason, "refusal"),
            "stop_sequence": None,
            "usage": {
                "input_tokens": fresh,
                "cache_read_input_tokens": reply.usage.cached_tokens,
                "cache_creation_input_tokens": 0,
                "output_tokens": reply.usage.completion_tokens,
            },
        }

    def stream(self, call: ModelCall, reply: ModelReply) -> Sequence[tuple[str, str]]:
        whole = self.answer(call, reply)
        start = {**whole, "content": [], "stop_reason": None}
        ending = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
        events: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
        for index, block in enumerate(whole["content"]):
            empty, deltas = _pieces(block)
            at = {"index": index}
            events.append({"type": "content_block_start", **at, "content_block": empty})
            events += [{"type": "content_block_delta", **at, "delta": delta} for delta in deltas]
            events.append({"type": "content_block_stop", **at})
        events.append({"type": "message_delta", "delta": ending, "usage": whole["usage"]})
        events.append({"type": "message_stop"})
        return [(str(event["type"]), as_json(event)) for event in events]

    def refusal(self, refused: CallRefused) -> tuple[int, dict[str, Any]]:
        said = str(refused)
        if refused.kind == "context_overflow":
            said = f"prompt is too long: {said}"  # what harnesses look for
        error = {"type": ERRORS[refused.kind], "message": said}
        return STATUS[refused.kind], {"type": "error", "error": error}


def _system(body: Mapping[str, Any]) -> Iterator[Message]:
    system = body.get("system")
    if isinstance(system, str):
        yield Message(role="system", content=system)
    elif system is not None:
        yield Message(role="system", content=joined(items(body, "system"), ("text",)))


def read_message(given: Mapping[str, Any]) -> Iterator[Message]:
    """One message as ours: what tools gave first, each by itself, then what was said."""
    role = text(given, "role")
    role = role if role in ("assistant", "system") else "user"
    content = given.get("content")
    if isinstance(content, str):
        yield Message(role=role, content=content)
        return
    blocks = items(given, "content")
    if role == "assistant":
        yield Message(
            role=role,
            content=joined(blocks, ("text",)),
            content_parts=_thoughts(blocks),
            reasoning_content="".join(str(b.get("thinking", "")) for b in blocks) or None,
            tool_calls=tuple(
                ToolCall(id=text(b, "id"), name=text(b, "name"), arguments=as_json(b.get("input")))
                for b in blocks
                if b.get("type") == "tool_use"
            ),
        )
        return
    results = [block for block in blocks if block.get("type") == "tool_result"]
    for result in results:
        yield _said("tool", result.get("content"), text(result, "tool_use_id"))
    rest = [block for block in blocks if block.get("type") != "tool_result"]
    if rest or not results:
        yield _said(role, rest)


def _thoughts(blocks: Sequence[Mapping[str, Any]]) -> str | None:
    """As they came, with what proves them to the API, which wants them back in later calls; where
    something else was said between them, with that, for it wants them back in their places."""
    said = [block for block in blocks if block.get("type") != "thinking" or block.get("signature")]
    proved = [block for block in said if block.get("signature") or block.get("type") == REDACTED]
    if proved != said[: len(proved)]:
        return as_json(said)
    return as_json(proved) if proved else None


def _said(role: str, content: Any, tool_call_id: str | None = None) -> Message:
    if isinstance(content, str):
        return Message(role=role, content=content, tool_call_id=tool_call_id)
    blocks = items({"content": content}, "content")
    plain = all(block.get("type") == "text" for block in blocks)
    return Message(
        role=role,
        content=joined(blocks, ("text",)),
        content_parts=None if plain else as_json([_part(block) for block in blocks]),
        tool_call_id=tool_call_id,
    )


def _part(block: Mapping[str, Any]) -> dict[str, Any]:
    """An image as chat completions have it; anything else as it came."""
    source = block.get("source")
    if block.get("type") != "image" or not isinstance(source, Mapping):
        return {"type": "text", "text": block["text"]} if "text" in block else dict(block)
    url = source.get("url") or f"data:{source.get('media_type')};base64,{source.get('data')}"
    return {"type": "image_url", "image_url": {"url": url}}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": text(tool, "name"), "parameters": tool["input_schema"]}
    if tool.get("description"):
        function["description"] = tool["description"]
    return {"type": "function", "function": function}


def _tool_choice(choice: Any) -> str | dict[str, Any] | None:
    if not isinstance(choice, Mapping):
        return None
    if choice.get("type") == "tool":
        return {"type": "function", "function": {"name": text(choice, "name")}}
    return {"any": "required", "none": "none"}.get(str(choice.get("type")), "auto")


def _blocks(message: Message) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if message.reasoning_content:
        thinking = {"thinking": message.reasoning_content, "signature": ""}
        blocks.append({"type": "thinking", **thinking})
    if message.content or not message.tool_calls:
        blocks.append({"type": "text", "text": message.content})
    for call in message.tool_calls:
        given = {"id": call.id, "name": call.name, "input": loaded(call.arguments)}
        blocks.append({"type": "tool_use", **given})
    return blocks


def _pieces(block: Mapping[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block as it begins, and what is added to it."""
    kind = block["type"]
    if kind == "tool_use":
        delta = {"type": "input_json_delta", "partial_json": as_json(block["input"])}
        return {**block, "input": {}}, [delta]
    if kind not in ("text", "thinking"):
        return dict(block), []
    deltas = [{"type": f"{kind}_delta", kind: block[kind]}]
    if signature := block.get("signature"):
        deltas.append({"type": "signature_delta", "signature": signature})
    return {**block, kind: "", **({"signature": ""} if signature else {})}, deltas
