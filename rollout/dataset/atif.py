"""Trajectories in Harbor's format, ATIF v1.7: https://www.harborframework.com/docs/agents/trajectory-format

One document for each trajectory. Its steps are the messages in the order they came; what tools said
stands as observation with the reply that called them. What ATIF has no field for is under `extra`.
"""

import json
from typing import Any

from rollout.dataset.conversations import ROOT, Said, said
from rollout.dataset.sft import arguments_of
from rollout.types import AgentStep, Message, Trajectory

VERSION = "ATIF-v1.7"
_SOURCES = {"assistant": "agent", "user": "user"}


def to_atif(t: Trajectory) -> dict[str, Any]:
    """The document, as JSON values; it has at least one step."""
    steps = _steps(said(t))
    return {
        "schema_version": VERSION,
        "session_id": t.run_id,
        "trajectory_id": t.spec.trajectory_id,
        "agent": _bare(
            {
                "name": t.agent_name,
                "version": t.agent_version or "unknown",
                "model_name": t.model_name or None,
                "tool_definitions": json.loads(t.tools) if t.tools else None,
            }
        ),
        "steps": steps or [{"step_id": 1, "source": "system", "message": "(nothing was said)"}],
        "final_metrics": _bare(
            {
                "total_prompt_tokens": t.prompt_tokens,
                "total_completion_tokens": t.completion_tokens,
                "total_cost_usd": t.cost_usd,
                "total_steps": len(steps) or 1,
            }
        ),
        "extra": {
            "task_id": t.spec.task_id,
            "group_id": t.spec.group_id,
            "arm": t.spec.arm,
            "sample": t.spec.sample,
            "outcome": t.outcome.value,
            "stop_reason": t.stop_reason.value if t.stop_reason else None,
            "reward": t.reward,
            "rewards": {score.name: score.value for score in t.scores},
        },
    }


def _steps(messages: list[Said]) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    by_message: dict[int, dict[str, Any]] = {}
    for each in messages:
        caller = _caller(messages, each)
        if caller is not None:
            observed = by_message[caller].setdefault("observation", {"results": []})
            told = {"source_call_id": each.message.tool_call_id, "content": each.message.content}
            observed["results"].append(told)
            continue
        by_message[each.index] = _step(len(steps) + 1, each)
        steps.append(by_message[each.index])
    return steps


def _caller(messages: list[Said], each: Said) -> int | None:
    """Of what a tool said: the message that called it, among those it goes on from."""
    if each.message.role != "tool" or each.message.tool_call_id is None:
        return None
    at = each.parent
    while at != ROOT:
        before = messages[at]
        if any(call.id == each.message.tool_call_id for call in before.message.tool_calls):
            return at
        at = before.parent if before.message.role == "tool" else ROOT
    return None


def _step(number: int, each: Said) -> dict[str, Any]:
    message, step = each.message, each.step
    source = _SOURCES.get(message.role, "system")
    told: dict[str, Any] = {
        "step_id": number,
        "source": source,
        "message": message.content,
        "timestamp": step.started_at.isoformat() if step and step.started_at else None,
        "extra": _beside(each),
    }
    if source == "agent":
        told |= _of_agent(message, step)
    return _bare(told)


def _of_agent(message: Message, step: AgentStep | None) -> dict[str, Any]:
    calls = [
        {"tool_call_id": call.id, "function_name": call.name, "arguments": arguments_of(call)}
        for call in message.tool_calls
    ]
    told: dict[str, Any] = {
        "reasoning_content": message.reasoning_content,
        "tool_calls": calls or None,
    }
    if step is not None and step.model_name:
        told["model_name"] = step.model_name
        told["metrics"] = _bare(
            {
                "prompt_tokens": step.prompt_tokens,
                "completion_tokens": step.completion_tokens,
                "cached_tokens": step.cached_tokens,
                "cost_usd": step.cost_usd,
            }
        )
    return told


def _beside(each: Said) -> dict[str, Any] | None:
    beside: dict[str, Any] = {}
    if each.message.role not in ("assistant", "user", "system"):
        beside["role"] = each.message.role
    if each.message.content_parts is not None:
        beside["content_parts"] = each.message.content_parts
    if each.parent != each.index - 1:
        beside["follows_message"] = each.parent
    if each.step is not None and each.step.thread:
        beside["thread"] = each.step.thread
    return beside or None


def _bare(told: dict[str, Any]) -> dict[str, Any]:
    """Without what is not known: readers of ATIF know no nulls but their own defaults."""
    return {key: value for key, value in told.items() if value is not None}
