"""Reading a body that anybody may have sent: each field what it must be, or one clear refusal."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from rollout.gateway.base import CallRefused


def invalid(what: str) -> CallRefused:
    return CallRefused(what, "invalid")


def text(body: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = body.get(key, default)
    if not isinstance(value, str):
        raise invalid(f"{key}: must be a string")
    return value


def items(body: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """A list of objects; what is missing or null is an empty one."""
    value = body.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise invalid(f"{key}: must be a list of objects")
    return value


def chosen(body: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Those of the fields that are there and not null."""
    return {name: body[name] for name in names if body.get(name) is not None}


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def loaded(arguments: str) -> Any:
    """Arguments of a tool call as an object; what a model wrote may be none."""
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return {"arguments": arguments}
    return value if isinstance(value, dict) else {"arguments": value}


def joined(parts: Iterable[Mapping[str, Any]], kinds: Iterable[str]) -> str:
    """The text of those parts that are text."""
    wanted = tuple(kinds)
    return "".join(str(part.get("text", "")) for part in parts if part.get("type") in wanted)
