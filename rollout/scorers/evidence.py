"""What a judge is shown of a rollout: files of its end state, and what the agent said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rollout.errors import SandboxError, SandboxLost
from rollout.sandbox.base import Sandbox
from rollout.scorers.verdicts import no_verdict
from rollout.transcript import clip
from rollout.types import Message, Task

MESSAGES = ("none", "last", "all")
FILE_LIMIT_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Which of it."""

    files: tuple[str, ...]
    messages: str
    chars: int
    """Of each piece."""


async def gathered(
    evidence: Evidence, task: Task, sandbox: Sandbox, messages: Sequence[Message]
) -> Mapping[str, str]:
    """What each piece is, in words of ours, and its content, which is the agent's."""
    shown: dict[str, str] = {}
    with no_verdict(task):
        for path in evidence.files:
            shown[f"The file {path}"] = clip(await _file(sandbox, path), evidence.chars)
    if evidence.messages == "last":
        spoken = [message for message in messages if message.role == "assistant"]
        shown["The agent's last message"] = clip(_said(spoken[-1:]), evidence.chars)
    elif evidence.messages == "all":
        shown["The agent's conversation"] = clip(_said(messages), evidence.chars)
    return shown


async def _file(sandbox: Sandbox, path: str) -> str:
    try:
        data = await sandbox.read_file(path, limit_bytes=FILE_LIMIT_BYTES)
    except FileNotFoundError:
        return "[there is no such file]"
    except SandboxLost:
        raise
    except SandboxError as exc:
        return f"[it cannot be shown: {exc}]"
    return data.decode(errors="replace")


def _said(messages: Sequence[Message]) -> str:
    lines = []
    for message in messages:
        lines.append(f"[{message.role}] {message.content}")
        lines += [f"[calls {call.name}] {call.arguments}" for call in message.tool_calls]
    return "\n".join(lines) or "[it said nothing]"
