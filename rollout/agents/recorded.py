"""One command of an agent, run and written down as a tool call."""

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from rollout.agents.base import Recorder
from rollout.aio import Deadline
from rollout.errors import AgentError
from rollout.sandbox.base import ExecResult, Sandbox
from rollout.sandbox.output import text_of
from rollout.transcript import clip
from rollout.types import AgentStep, Message, StopReason, Task, ToolCall

MESSAGE_CHARS = 16_000
ERROR_CHARS = 2_000


def record_instruction(task: Task, record: Recorder) -> None:
    """The task as the user's message."""
    at = record.message(Message(role="user", content=task.instruction))
    record.step(AgentStep(source="user", message_start=at, message_end=at + 1, started_at=_now()))


async def run_recorded(
    sandbox: Sandbox,
    argv: Sequence[str],
    *,
    shown: str,
    env: Mapping[str, str],
    user: str,
    deadline: Deadline,
    record: Recorder,
) -> StopReason:
    """Run `argv` until it ends or the deadline passes; `shown` is the command as people read it.

    Raises AgentError for an exit code other than 0, once all is on record.
    """
    if deadline.passed:
        return StopReason.TIMEOUT
    call = ToolCall(id="call_1", name="bash", arguments=json.dumps({"command": shown}))
    start = record.message(Message(role="assistant", tool_calls=(call,)))
    started_at, clock = _now(), time.perf_counter()
    result = await sandbox.exec(argv, env=env, user=user, timeout_s=deadline.left_s)
    output = text_of(result)
    end = record.message(
        Message(
            role="tool",
            tool_call_id=call.id,
            content=clip(output, MESSAGE_CHARS) + _ending(result),
        )
    )
    record.step(
        AgentStep(
            source="agent",
            message_start=start,
            message_end=end + 1,
            started_at=started_at,
            env_ms=(time.perf_counter() - clock) * 1000,
            error=None if result.ok else _ending(result).strip(),
        )
    )
    if result.timed_out:
        return StopReason.TIMEOUT
    if result.exit_code != 0:
        raise AgentError(
            f"`{clip(shown, 200)}` ended with exit code {result.exit_code}; it printed: "
            f"{clip(output.strip(), ERROR_CHARS) or 'nothing'}"
        )
    return StopReason.COMPLETED


def _ending(result: ExecResult) -> str:
    if result.timed_out:
        return f"\n[cut off by the deadline after {result.duration_s:.1f} s]"
    return "" if result.exit_code == 0 else f"\n[exit code {result.exit_code}]"


def _now() -> datetime:
    return datetime.now(UTC)
