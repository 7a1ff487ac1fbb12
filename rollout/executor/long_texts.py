"""Long texts are taken out of a row before it is buffered, so that it weighs no more than others.

A command that prints a hundred megabytes, or a harness that sends as much, costs its own rollout
the time to put that beside the dataset. The rows of its neighbours wait for none of it.
"""

import json
from collections.abc import Iterator
from dataclasses import replace

from rollout.dataset.long_texts import long_text_name
from rollout.transcript import clip
from rollout.types import Message, Trajectory

SHOWN_SHARE = 4
"""Head and tail that stay are this part of what is the longest text that may."""


def shortened(row: Trajectory, limit_chars: int) -> tuple[Trajectory, dict[str, str]]:
    """The row without texts of messages longer than that, and these by their artifacts' names.

    What was JSON stays JSON: of `content_parts` one part of text, of a call's arguments a string.
    """
    texts: dict[str, str] = {}
    messages = []
    for number, message in enumerate(row.messages):
        long = dict(_long_fields(message, limit_chars))
        texts |= {long_text_name(number, field): text for field, text in long.items()}
        messages.append(_short(message, long, limit_chars // SHOWN_SHARE) if long else message)
    return replace(row, messages=tuple(messages)) if texts else row, texts


def _long_fields(message: Message, limit_chars: int) -> Iterator[tuple[str, str]]:
    """Names as artifacts have them, and texts."""
    fields = {name: getattr(message, name) for name in ("content", "content_parts")}
    fields["reasoning_content"] = message.reasoning_content
    fields |= {f"arguments-{at}": call.arguments for at, call in enumerate(message.tool_calls)}
    for name, text in fields.items():
        if text is not None and len(text) > limit_chars:
            yield name, text


def _short(message: Message, long: dict[str, str], shown_chars: int) -> Message:
    shown = {name: clip(text, shown_chars) for name, text in long.items()}
    calls = tuple(
        replace(call, arguments=json.dumps(shown[f"arguments-{at}"]))
        if f"arguments-{at}" in shown
        else call
        for at, call in enumerate(message.tool_calls)
    )
    parts = message.content_parts
    if "content_parts" in shown:
        parts = json.dumps([{"type": "text", "text": shown["content_parts"]}])
    return replace(
        message,
        content=shown.get("content", message.content),
        content_parts=parts,
        reasoning_content=shown.get("reasoning_content", message.reasoning_content),
        tool_calls=calls,
    )
