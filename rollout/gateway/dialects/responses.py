"""OpenAI's responses API, as a server for agents. Nothing is stored: each call has all items."""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rollout.gateway.base import RESPONSES, CallRefused, ModelCall, ModelReply
from rollout.gateway.dialects.chat import Chat
from rollout.gateway.dialects.fields import as_json, chosen, invalid, items, joined, loaded, text
from rollout.types import Message, ToolCall

TEXT = ("input_text", "output_text", "text", "summary_text")
FREE = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
"""Of a custom tool, whose input is plain text."""


class Responses:
    """POST /v1/responses."""

    name = RESPONSES

    def read(self, body: Mapping[str, Any]) -> ModelCall:
        if body.get("previous_response_id"):
            raise invalid("previous_response_id: nothing is stored here; send all items")
        sampling = chosen(body, ("temperature", "top_p", "parallel_tool_calls"))
        if body.get("max_output_tokens") is not None:
            sampling["max_tokens"] = body["max_output_tokens"]
        messages = list(_messages(body))
        if not messages:
            raise invalid("input: must hold something")
        choice = body.get("tool_choice")
        if isinstance(choice, Mapping):
            choice = {"type": "function", "function": {"name": text(choice, "name")}}
        return ModelCall(
            dialect=RESPONSES,
            model=text(body, "model"),
            messages=tuple(messages),
            tools=tuple(_tools(body)),
            tool_choice=choice,
            sampling=sampling,
            stream=body.get("stream") is True,
            raw=body,
        )

    def answer(self, call: ModelCall, reply: ModelReply) -> dict[str, Any]:
        usage = reply.usage
        cut = reply.finish_reason == "length"
        return {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "error": None,
            "model": call.model,
            "output": list(_output(call, reply.message)),
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": {
                "input_tokens": usage.prompt_tokens,
                "input_tokens_details": {"cached_tokens": usage.cached_tokens},
                "output_tokens": usage.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            },
        }

    def stream(self, call: ModelCall, reply: ModelReply) -> Sequence[tuple[str, str]]:
        whole = self.answer(call, reply)
        begun = {**whole, "status": "in_progress", "output": [], "usage": None}
        events: list[dict[str, Any]] = [{"type": "response.created", "response": begun}]
        for index, item in enumerate(whole["output"]):
            events += _item_events(index, item)
        events.append({"type": f"response.{whole['status']}", "response": whole})
        numbered = ({**event, "sequence_number": at} for at, event in enumerate(events))
        return [(str(event["type"]), as_json(event)) for event in numbered]

    def refusal(self, refused: CallRefused) -> tuple[int, dict[str, Any]]:
        return Chat().refusal(refused)


# ---------------------------------------------------------------- in


def _messages(body: Mapping[str, Any]) -> Iterator[Message]:
    """Items of one turn of the assistant become one message."""
    if body.get("instructions"):
        yield Message(role="system", content=text(body, "instructions"))
    given = body.get("input")
    if isinstance(given, str):
        yield Message(role="user", content=given)
        return
    turn: Message | None = None
    for item in items(body, "input"):
        said = _item(item)
        if said is None:
            continue
        if said.role == "assistant":
            turn = said if turn is None else _joined(turn, said)
            continue
        if turn is not None:
            yield turn
            turn = None
        yield said
    if turn is not None:
        yield turn


def _joined(turn: Message, more: Message) -> Message:
    return replace(
        turn,
        content=turn.content + more.content,
        reasoning_content=(turn.reasoning_content or "") + (more.reasoning_content or "") or None,
        tool_calls=(*turn.tool_calls, *more.tool_calls),
    )


def _item(item: Mapping[str, Any]) -> Message | None:
    """None for what tells a model nothing: encrypted reasoning, calls of tools we do not have."""
    kind = item.get("type", "message")
    if kind == "message":
        return _message(item)
    if kind == "reasoning":
        thought = joined(items(item, "summary"), TEXT) or joined(items(item, "content"), TEXT)
        return Message(role="assistant", reasoning_content=thought) if thought else None
    if kind == "function_call":
        return _call(item, text(item, "arguments"))
    if kind == "custom_tool_call":
        return _call(item, as_json({"input": text(item, "input")}))
    if kind in ("function_call_output", "custom_tool_call_output"):
        output = item.get("output")
        plain = output if isinstance(output, str) else joined(items(item, "output"), TEXT)
        return Message(role="tool", tool_call_id=text(item, "call_id"), content=plain)
    return None


def _message(item: Mapping[str, Any]) -> Message:
    role, content = text(item, "role"), item.get("content")
    if isinstance(content, str):
        return Message(role=role, content=content)
    parts = items(item, "content")
    images = [part for part in parts if part.get("type") == "input_image"]
    return Message(
        role=role,
        content=joined(parts, TEXT),
        content_parts=as_json([_part(part) for part in parts]) if images else None,
    )


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    if part.get("type") == "input_image":
        return {"type": "image_url", "image_url": {"url": part.get("image_url")}}
    return {"type": "text", "text": str(part.get("text", ""))}


def _call(item: Mapping[str, Any], arguments: str) -> Message:
    call = ToolCall(id=text(item, "call_id"), name=text(item, "name"), arguments=arguments)
    return Message(role="assistant", tool_calls=(call,))


def _tools(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Those that a model can be told of as functions; the endpoint's own are not to be had."""
    for tool in items(body, "tools"):
        if tool.get("type") == "function":
            function = chosen(tool, ("name", "description", "parameters", "strict"))
        elif tool.get("type") == "custom":
            function = {**chosen(tool, ("name", "description")), "parameters": FREE}
        else:
            continue
        yield {"type": "function", "function": function}


# ---------------------------------------------------------------- out


def _output(call: ModelCall, message: Message) -> Iterator[dict[str, Any]]:
    if message.reasoning_content:
        summary = [{"type": "summary_text", "text": message.reasoning_content}]
        yield {"type": "reasoning", "id": f"rs_{uuid.uuid4().hex}", "summary": summary}
    if message.content or not message.tool_calls:
        said = {"type": "output_text", "text": message.content, "annotations": []}
        yield {**_head("message", "msg"), "role": "assistant", "content": [said]}
    custom = {t.get("name") for t in items(call.raw, "tools") if t.get("type") == "custom"}
    for each in message.tool_calls:
        named = {"call_id": each.id, "name": each.name}
        if each.name in custom:
            given = str(loaded(each.arguments).get("input", each.arguments))
            yield {**_head("custom_tool_call", "ctc"), **named, "input": given}
        else:
            yield {**_head("function_call", "fc"), **named, "arguments": each.arguments}


def _head(kind: str, prefix: str) -> dict[str, Any]:
    return {"type": kind, "id": f"{prefix}_{uuid.uuid4().hex}", "status": "completed"}


def _item_events(index: int, item: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    at = {"output_index": index}
    texts = item.get("content") or []
    empty = {key: [] if key == "content" else value for key, value in item.items()}
    for key in ("arguments", "input"):
        if key in empty:
            empty[key] = ""
    if "status" in empty:
        empty["status"] = "in_progress"
    yield {"type": "response.output_item.added", **at, "item": empty}
    where = {**at, "item_id": item.get("id")}
    for number, part in enumerate(texts):
        here = {**where, "content_index": number}
        blank = {**part, "text": ""}
        yield {"type": "response.content_part.added", **here, "part": blank}
        delta = {"delta": part["text"], "logprobs": []}
        yield {"type": "response.output_text.delta", **here, **delta}
        done = {"text": part["text"], "logprobs": []}
        yield {"type": "response.output_text.done", **here, **done}
        yield {"type": "response.content_part.done", **here, "part": part}
    if "arguments" in item:
        kind = "response.function_call_arguments"
        yield {"type": f"{kind}.delta", **where, "delta": item["arguments"]}
        yield {"type": f"{kind}.done", **where, "arguments": item["arguments"]}
    yield {"type": "response.output_item.done", **at, "item": item}
