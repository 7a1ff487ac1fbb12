"""Trajectories as rows of the `trajectories` table and back, without loss.

Empty strings of optional columns are stored as null. `reward` is null on every row that is not
scored, whatever the value given: what is ours to answer for is never a zero.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from rollout.dataset.schema import TRAJECTORIES
from rollout.types import (
    AgentStep,
    Artifact,
    Attempt,
    Event,
    Message,
    Outcome,
    Phase,
    RolloutSpec,
    Score,
    StopReason,
    ToolCall,
    Trajectory,
)

_TRUNCATED = frozenset(
    {StopReason.MAX_TURNS, StopReason.BUDGET, StopReason.CONTEXT_OVERFLOW, StopReason.TIMEOUT}
)


def to_batch(rows: Sequence[Trajectory]) -> pa.Table:
    """The rows as one table of the `trajectories` schema, in the order given.

    Text that is not valid Unicode (lone surrogates out of undecodable bytes) is kept with
    replacement characters: a hostile sandbox must not be able to lose its row.
    """
    plain = [_row(row) for row in rows]
    try:
        return pa.Table.from_pylist(plain, TRAJECTORIES)
    except UnicodeEncodeError:
        return pa.Table.from_pylist([_valid(row) for row in plain], TRAJECTORIES)


def from_table(table: pa.Table) -> list[Trajectory]:
    """The inverse of `to_batch`."""
    return [_trajectory(row) for row in table.to_pylist()]


def _valid(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_valid(item) for item in value]
    if isinstance(value, dict):
        return {key: _valid(item) for key, item in value.items()}
    return value


# ---------------------------------------------------------------- to rows


def _row(t: Trajectory) -> dict[str, Any]:
    return {
        **identity(t),
        **_ending(t),
        **_story(t),
        "dataset": t.dataset or None,
        "blueprint": t.blueprint,
        "blueprint_digest": t.blueprint_digest or None,
        "agent_name": t.agent_name,
        "agent_version": t.agent_version or None,
        "agents": [
            {"name": name, "version": version, "source": source}
            for name, version, source in t.agents
        ],
        "model_name": t.model_name or None,
        "started_at": t.started_at,
        "finished_at": t.finished_at,
        "limits_enforced": list(t.limits_enforced),
        "node": t.node or None,
        "sandbox_id": t.sandbox_id or None,
        "artifacts": [
            {"name": a.name, "uri": a.uri, "sha256": a.sha256, "bytes": a.bytes}
            for a in t.artifacts
        ],
        "extra": json.dumps(dict(t.extra), default=str) if t.extra else None,
    }


def identity(t: Trajectory) -> dict[str, Any]:
    """Which rollout a row is of; the same columns in both tables."""
    return {
        "run_id": t.run_id,
        "trajectory_id": t.spec.trajectory_id,
        "group_id": t.spec.group_id,
        "group_size": t.spec.group_size,
        "sample_index": t.spec.sample,
        "epoch": t.epoch,
        "attempt": t.attempt,
        "arm": t.spec.arm,
        "arm_digest": t.arm_digest,
        "task_id": t.spec.task_id,
        "task_digest": t.task_digest,
        "split": t.split or None,
    }


def _ending(t: Trajectory) -> dict[str, Any]:
    return {
        "outcome": t.outcome.value,
        "stop_reason": t.stop_reason.value if t.stop_reason else None,
        "trainable": t.trainable,
        "truncated": t.stop_reason in _TRUNCATED,
        "error_type": t.error_type or None,
        "error_message": t.error_message or None,
        "reward": t.reward if t.outcome.scored else None,
        "rewards": [
            {"name": s.name, "score": s.value, "weight": s.weight, "error": s.error or None}
            for s in t.scores
        ],
        "scorer_output": t.scorer_output or None,
        "integrity": list(t.integrity),
        "attempts": [_attempt_row(attempt) for attempt in t.attempts],
    }


def _story(t: Trajectory) -> dict[str, Any]:
    return {
        "messages": [_message_row(message) for message in t.messages],
        "tools": t.tools,
        "steps": [_step_row(number, step) for number, step in enumerate(t.steps)],
        "num_turns": sum(step.source == "agent" for step in t.steps),
        "num_tool_calls": sum(len(message.tool_calls) for message in t.messages),
        "num_sequences": len(t.sequences),
        "capture_level": t.capture_level,
        "policy_version_min": t.policy_version_min,
        "policy_version_max": t.policy_version_max,
        "prompt_tokens": t.prompt_tokens,
        "completion_tokens": t.completion_tokens,
        "cost_usd": t.cost_usd,
        "phases": [{"name": p.name, "start": p.start, "ms": p.ms} for p in t.phases],
        "events": [{"at": e.at, "kind": e.kind, "detail": e.detail} for e in t.events],
    }


def _attempt_row(a: Attempt) -> dict[str, Any]:
    return {
        "epoch": a.epoch,
        "n": a.n,
        "outcome": a.outcome.value,
        "worker": a.worker,
        "started_at": a.started_at,
        "finished_at": a.finished_at,
        "error": a.error or None,
    }


def _message_row(m: Message) -> dict[str, Any]:
    return {
        "role": m.role,
        "content": m.content,
        "content_parts": m.content_parts,
        "reasoning_content": m.reasoning_content,
        "tool_calls": [
            {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
            for c in m.tool_calls
        ],
        "tool_call_id": m.tool_call_id,
        "name": m.name,
    }


def _step_row(number: int, s: AgentStep) -> dict[str, Any]:
    beside = {"thread": s.thread, "after": s.after, "logprobs": s.logprobs}
    extra = {name: value for name, value in beside.items() if value is not None}
    return {
        "step_id": number,
        "source": s.source,
        "message_start": s.message_start,
        "message_end": s.message_end,
        "started_at": s.started_at,
        "model_ms": s.model_ms,
        "env_ms": s.env_ms,
        "finish_reason": s.finish_reason,
        "error": s.error,
        "model_name": s.model_name,
        "api": s.api,
        "prompt_tokens": s.prompt_tokens,
        "completion_tokens": s.completion_tokens,
        "cached_tokens": s.cached_tokens,
        "cost_usd": s.cost_usd,
        "policy_version": s.policy_version,
        "sequence_index": s.sequence_index,
        "token_start": s.token_start,
        "token_end": s.token_end,
        "extra": json.dumps(extra) if extra else None,
    }


# ---------------------------------------------------------------- from rows


def _trajectory(row: Mapping[str, Any]) -> Trajectory:
    return Trajectory(
        run_id=row["run_id"],
        spec=_spec(row),
        epoch=row["epoch"],
        attempt=row["attempt"],
        outcome=Outcome(row["outcome"]),
        stop_reason=StopReason(row["stop_reason"]) if row["stop_reason"] else None,
        error_type=row["error_type"] or "",
        error_message=row["error_message"] or "",
        reward=row["reward"],
        scores=tuple(_scores(row)),
        scorer_output=row["scorer_output"] or "",
        messages=tuple(_message(m) for m in row["messages"]),
        tools=row["tools"],
        steps=tuple(_step(s) for s in row["steps"]),
        events=tuple(
            Event(at=_utc(e["at"]), kind=e["kind"], detail=e["detail"]) for e in row["events"] or ()
        ),
        integrity=tuple(row["integrity"] or ()),
        phases=tuple(
            Phase(name=p["name"], start=_utc(p["start"]), ms=p["ms"]) for p in row["phases"] or ()
        ),
        attempts=tuple(_attempt(a) for a in row["attempts"] or ()),
        artifacts=tuple(Artifact(**a) for a in row["artifacts"] or ()),
        limits_enforced=tuple(row["limits_enforced"] or ()),
        blueprint=row["blueprint"],
        blueprint_digest=row["blueprint_digest"] or "",
        task_digest=row["task_digest"],
        dataset=row["dataset"] or "",
        split=row["split"] or "",
        agent_name=row["agent_name"],
        agent_version=row["agent_version"] or "",
        agents=tuple((a["name"], a["version"], a["source"]) for a in row.get("agents") or ()),
        model_name=row["model_name"] or "",
        prompt_tokens=row["prompt_tokens"],
        completion_tokens=row["completion_tokens"],
        cost_usd=row["cost_usd"],
        capture_level=row["capture_level"],
        policy_version_min=row["policy_version_min"],
        policy_version_max=row["policy_version_max"],
        arm_digest=row["arm_digest"],
        started_at=_utc(row["started_at"]),
        finished_at=_utc(row["finished_at"]),
        node=row["node"] or "",
        sandbox_id=row["sandbox_id"] or "",
        extra=json.loads(row["extra"]) if row["extra"] else {},
    )


def _spec(row: Mapping[str, Any]) -> RolloutSpec:
    return RolloutSpec(
        trajectory_id=row["trajectory_id"],
        group_id=row["group_id"],
        arm=row["arm"],
        task_id=row["task_id"],
        sample=row["sample_index"],
        group_size=row["group_size"],
    )


def _scores(row: Mapping[str, Any]) -> Iterator[Score]:
    for s in row["rewards"] or ():
        yield Score(name=s["name"], value=s["score"], weight=s["weight"], error=s["error"] or "")


def _message(m: Mapping[str, Any]) -> Message:
    calls = (
        ToolCall(id=c["id"], name=c["function"]["name"], arguments=c["function"]["arguments"])
        for c in m["tool_calls"] or ()
    )
    return Message(**{**m, "tool_calls": tuple(calls)})


def _step(s: Mapping[str, Any]) -> AgentStep:
    extra = json.loads(s["extra"]) if s["extra"] else {}
    return AgentStep(
        source=s["source"],
        message_start=s["message_start"],
        message_end=s["message_end"],
        started_at=_utc(s["started_at"]) if s["started_at"] else None,
        model_ms=s["model_ms"],
        env_ms=s["env_ms"],
        finish_reason=s["finish_reason"],
        error=s["error"],
        model_name=s["model_name"],
        api=s["api"],
        prompt_tokens=s["prompt_tokens"],
        completion_tokens=s["completion_tokens"],
        cached_tokens=s["cached_tokens"],
        cost_usd=s["cost_usd"],
        thread=extra.get("thread"),
        after=extra.get("after"),
        policy_version=s["policy_version"],
        sequence_index=s["sequence_index"],
        token_start=s["token_start"],
        token_end=s["token_end"],
        logprobs=extra.get("logprobs"),
    )


def _attempt(a: Mapping[str, Any]) -> Attempt:
    return Attempt(
        epoch=a["epoch"],
        n=a["n"],
        outcome=Outcome(a["outcome"]),
        worker=a["worker"],
        started_at=_utc(a["started_at"]),
        finished_at=_utc(a["finished_at"]),
        error=a["error"] or "",
    )


def _utc(at: datetime) -> datetime:
    return at.astimezone(UTC)
