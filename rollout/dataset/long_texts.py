"""Texts of messages that are too long for a row: where they stand beside it, and back again.

The row has head and tail of such a text, and an artifact has all of it, named by its place:

    messages/<number>.<content | content_parts | reasoning_content>.txt
    messages/<number>.arguments-<call>.txt

No agent's own artifact can be named so, since those have no slash.
"""

import hashlib
import re
from dataclasses import replace
from typing import Any

from rollout.dataset.store_base import Store
from rollout.errors import StoreError
from rollout.types import Artifact, Message, Trajectory

_NAME = re.compile(
    r"messages/(\d+)\.(?:(content|content_parts|reasoning_content)|arguments-(\d+))\.txt"
)


def long_text_name(number: int, field: str) -> str:
    """The artifact's name for that field of that message, counted from 0."""
    return f"messages/{number}.{field}.txt"


def whole(store: Store, row: Trajectory) -> Trajectory:
    """The row with its long texts back in its messages; StoreError when one is not as it was."""
    messages = list(row.messages)
    for artifact in row.artifacts:
        if match := _NAME.fullmatch(artifact.name):
            number, field, call = int(match[1]), match[2], match[3]
            text = _text(store, artifact)
            messages[number] = _with(messages[number], field, call, text)
    return replace(row, messages=tuple(messages))


def _with(message: Message, field: str | None, call: str | None, text: str) -> Message:
    if field is not None:
        changed: dict[str, Any] = {field: text}
        return replace(message, **changed)
    calls = list(message.tool_calls)
    calls[int(call or 0)] = replace(calls[int(call or 0)], arguments=text)
    return replace(message, tool_calls=tuple(calls))


def _text(store: Store, artifact: Artifact) -> str:
    try:
        data = store.get(artifact.uri)
    except FileNotFoundError as exc:
        raise StoreError(f"{store.uri}/{artifact.uri}, which a row names, is gone") from exc
    if hashlib.sha256(data).hexdigest() != artifact.sha256:
        raise StoreError(f"{store.uri}/{artifact.uri} is not what its row says: it was changed")
    return data.decode()
