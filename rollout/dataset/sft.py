"""Trajectories as conversations to fine-tune on, as TRL and chat templates read them."""

import json
from collections.abc import Iterator
from typing import Any

from rollout.dataset.conversations import branches
from rollout.types import Message, ToolCall, Trajectory


def to_sft(t: Trajectory) -> Iterator[dict[str, Any]]:
    """A row for each branch that ends with the model's word: `messages`, `tools` and whose it is.

    Arguments of tool calls are objects, as templates want them; what is no JSON object stays under
    `_raw`.
    """
    for number, branch in enumerate(branches(t)):
        messages = [each.message for each in branch]
        while messages and messages[-1].role != "assistant":
            messages.pop()  # nobody answered it
        if messages:
            yield {
                "messages": [_chat(message) for message in messages],
                "tools": json.loads(t.tools) if t.tools else None,
                "trajectory_id": t.spec.trajectory_id,
                "branch": number,
                "task_id": t.spec.task_id,
                "arm": t.spec.arm,
                "reward": t.reward,
            }


def arguments_of(call: ToolCall) -> dict[str, Any]:
    """As an object, whatever the model wrote."""
    try:
        found = json.loads(call.arguments)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"_raw": call.arguments}


def _chat(message: Message) -> dict[str, Any]:
    chat: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning_content is not None:
        chat["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        chat["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": arguments_of(call)},
            }
            for call in message.tool_calls
        ]
    for key in ("tool_call_id", "name"):
        if (value := getattr(message, key)) is not None:
            chat[key] = value
    return chat
