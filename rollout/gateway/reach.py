"""What a call would have its endpoint fetch or do elsewhere.

A sandbox without a network must not have one through its model: not by the address of a picture
that the endpoint would get, and not by tools that the provider runs itself, such as web search.
"""

from collections.abc import Mapping
from typing import Any

SAID = frozenset({"text", "thinking", "input", "arguments", "id", "name", "type"})
"""Of a part, what only the model reads."""
ELSEWHERE = ("mcp_servers", "container", "web_search_options")
"""Fields of a body for tools that the provider runs."""
INLINE = "data:"
CALLERS = ("function", "custom", "bash_", "text_editor_", "computer_", "memory_")
"""How the types of tools begin that the caller runs; the rest are the provider's own."""


def remote_address(body: Mapping[str, Any]) -> str:
    """The first address in a call's messages that its endpoint would fetch; empty for none."""
    stack = [body.get("messages"), body.get("input")]
    while stack:
        found = stack.pop()
        if isinstance(found, list):
            stack.extend(found)
        elif isinstance(found, dict):
            for key, value in found.items():
                if key in SAID:
                    continue
                if key.endswith("url") and isinstance(value, str) and _is_remote(value):
                    return value
                if isinstance(value, list | dict):
                    stack.append(value)
    return ""


def without_providers_tools(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body as it may be sent on as it is."""
    kept = {key: value for key, value in body.items() if key not in ELSEWHERE}
    tools = kept.get("tools")
    if not isinstance(tools, list):
        return kept
    kept["tools"] = [tool for tool in tools if _is_callers(tool)]
    if not kept["tools"]:
        for key in ("tools", "tool_choice"):
            kept.pop(key, None)
    return kept


def _is_callers(tool: Any) -> bool:
    return isinstance(tool, dict) and str(tool.get("type", "custom")).startswith(CALLERS)


def _is_remote(address: str) -> bool:
    return bool(address) and not address.startswith(INLINE)
