"""The story of one rollout as a person reads it."""

import io
from datetime import UTC, datetime, timedelta

import pyarrow as pa
from rich.console import RenderableType

from rollout.report.render import show
from rollout.report.story import CLIP_CHARS, ROWS_SHOWN, rollouts_table, story
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

START = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def trajectory(**changed: object) -> Trajectory:
    plain = {
        "run_id": "q",
        "spec": RolloutSpec(
            trajectory_id="ab" * 16,
            group_id="cd" * 16,
            arm="agent=script",
            task_id="count-words",
            sample=2,
            group_size=8,
        ),
        "epoch": 1,
        "attempt": 2,
        "outcome": Outcome.AGENT_TIMEOUT,
        "stop_reason": StopReason.TIMEOUT,
        "reward": 0.5,
        "scores": (Score(name="tests", value=0.5), Score(name="style", value=None, error="none")),
        "scorer_output": "2 passed, 2 failed\n",
        "messages": (
            Message(role="user", content="count the words"),
            Message(
                role="assistant",
                reasoning_content="wc will do",
                tool_calls=(ToolCall(id="1", name="bash", arguments='{"cmd": "wc -w f"}'),),
            ),
            Message(role="tool", name="bash", content="7 f", tool_call_id="1"),
        ),
        "steps": (
            AgentStep(source="agent", message_start=1, message_end=3, model_ms=1500, env_ms=2.5),
        ),
        "events": (Event(at=at(3), kind="resource_alert", detail="memory 90 %"),),
        "phases": (
            Phase(name="agent", start=at(1), ms=3000),
            Phase(name="score", start=at(4), ms=1000),
        ),
        "attempts": (
            Attempt(
                epoch=1,
                n=1,
                outcome=Outcome.SANDBOX_LOST,
                worker="w0001",
                started_at=at(-5),
                finished_at=at(-4),
                error="its init does not answer",
            ),
            Attempt(
                epoch=1,
                n=2,
                outcome=Outcome.AGENT_TIMEOUT,
                worker="w0002",
                started_at=at(0),
                finished_at=at(5),
            ),
        ),
        "artifacts": (Artifact(name="diff", uri="artifacts/ab/1-2/diff", sha256="0", bytes=12),),
        "limits_enforced": ("memory", "pids"),
        "integrity": ("the tests' folder existed before scoring",),
        "blueprint": "host",
        "agent_name": "script",
        "started_at": at(0),
        "finished_at": at(5),
        "node": "n1",
        "sandbox_id": "s-17",
    }
    return Trajectory(**(plain | changed))  # type: ignore[arg-type]


def printed(part: RenderableType) -> str:
    stream = io.StringIO()
    assert show(stream, part)
    return stream.getvalue()


def test_everything_that_happened_is_told_in_order() -> None:
    out = printed(story(trajectory()))
    told = [
        "count-words  agent=script  sample 3 of 8",
        "agent_timeout, the agent ended with timeout",
        "0.500  (tests 0.500, style – none)",
        "memory, pids",
        "sandbox s-17 on n1",
        "2026-11-24 03:00:00 UTC, 5.0 s",
        "the tests' folder existed before scoring",
        "count the words",
        "wc will do",
        '→ bash {"cmd": "wc -w f"}',
        "7 f",
        "model 1.5 s, sandbox 2.5 ms",
        "03:00:03  resource_alert  memory 90 %",
        "2 passed, 2 failed",
        "1. sandbox_lost after 1.0 s on w0001: its init does not answer",
        "2. agent_timeout after 5.0 s on w0002",
        "artifacts/ab/1-2/diff  12 bytes",
    ]
    places = [out.index(words) for words in told]
    assert places == sorted(places)


def test_stages_are_bars_on_one_axis() -> None:
    lines = printed(story(trajectory())).splitlines()
    agent = next(line for line in lines if line.startswith("agent  ") and "━" in line)
    score = next(line for line in lines if line.startswith("score  ") and "━" in line)
    assert (agent.count("━"), score.count("━")) == (30, 10)
    assert score.index("━") == agent.rindex("━") + 1


def test_a_failure_of_ours_shows_its_error_and_no_number() -> None:
    failed = trajectory(
        outcome=Outcome.SETUP_ERROR,
        stop_reason=None,
        reward=None,
        scores=(),
        error_type="BuildError",
        error_message="step 2 of blueprint 'x': no such base",
    )
    out = printed(story(failed))
    assert "BuildError: step 2 of blueprint 'x': no such base" in out
    reward = next(line for line in out.splitlines() if line.startswith("reward"))
    assert reward.split() == ["reward", "–"]


def test_a_bare_trajectory_has_a_story_too() -> None:
    bare = trajectory(
        messages=(),
        steps=(),
        events=(),
        phases=(),
        attempts=(),
        artifacts=(),
        scores=(),
        scorer_output="",
        node="",
        sandbox_id="",
        limits_enforced=(),
        integrity=(),
        outcome=Outcome.OK,
    )
    out = printed(story(bare))
    assert "sandbox – on –" in out
    assert "messages" not in out


def test_long_and_hostile_text_is_clipped_and_spelled_out() -> None:
    hostile = "\x1b[2J[red]" + "x" * 100_000
    out = printed(story(trajectory(messages=(Message(role="tool", content=hostile),))))
    assert "\x1b" not in out
    assert "\\x1b[2J[red]xxx" in out
    assert "characters left out" in out
    assert len(out) < 3 * CLIP_CHARS


def test_rollouts_are_listed_and_the_list_ends_somewhere() -> None:
    rows = [
        {
            "trajectory_id": f"{n:032x}",
            "arm": "[b]a",
            "task_id": "t",
            "sample_index": n,
            "outcome": "ok" if n else "model_error",
            "reward": 1.0 if n else None,
            "integrity": None if n else ["preload_set:/x", "preload_set:/y"],
        }
        for n in range(ROWS_SHOWN + 5)
    ]
    lines = printed(rollouts_table(pa.Table.from_pylist(rows))).splitlines()
    assert lines[2].split() == ["0" * 32, "[b]a", "t", "0", "model_error", "–", "preload_set"]
    assert lines[3].split()[-1] == "1.000"
    assert lines[-1] == "… and 5 more"
