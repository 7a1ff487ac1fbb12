"""The summary by arm over small tables whose answers were worked out by hand."""

from typing import Any

import pyarrow as pa
import pytest

from rollout.dataset.state import RunState
from rollout.report.estimates import mean_interval, wilson
from rollout.report.summary import ArmSummary, planned_counts, summarise_table

SCHEMA = pa.schema(
    {
        "arm": pa.string(),
        "task_id": pa.string(),
        "sample_index": pa.int32(),
        "group_size": pa.int32(),
        "outcome": pa.string(),
        "reward": pa.float64(),
        "phases": pa.list_(pa.struct({"name": pa.string(), "ms": pa.float64()})),
        "attempts": pa.list_(pa.struct({"n": pa.int32(), "outcome": pa.string()})),
        "integrity": pa.list_(pa.string()),
    }
)


def row(task: str, sample: int, reward: float | None, **changed: Any) -> dict[str, Any]:
    outcome = changed.pop("outcome", "ok" if reward is not None else "scoring_error")
    plain = {
        "arm": "a",
        "task_id": task,
        "sample_index": sample,
        "group_size": 2,
        "outcome": outcome,
        "reward": reward,
        "phases": [],
        "attempts": [{"n": 1, "outcome": outcome}],
        "integrity": None,
    }
    return plain | changed


def summary_of(*rows: dict[str, Any], planned: int = 4, samples: int = 2) -> ArmSummary:
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    (arm,) = summarise_table(table, {"a": planned}, samples).arms
    return arm


def test_two_tasks_of_two_samples() -> None:
    arm = summary_of(row("x", 0, 1.0), row("x", 1, 0.0), row("y", 0, 0.0), row("y", 1, 0.5))
    assert (arm.planned, arm.committed, arm.scored, arm.tasks) == (4, 4, 4, 2)
    assert arm.coverage == 1.0
    assert arm.mean_reward == pytest.approx(0.375)
    assert arm.pass_at_1 == pytest.approx(0.25)
    assert (arm.k, arm.pass_at_k, arm.pass_at_k_tasks) == (2, 0.5, 2)
    # Deviations sum to +1/4 and -1/4: SE² = 2·(1/16 + 1/16)/16 = 1/64; t(0.975, 1) = 12.7062.
    assert arm.interval is not None
    assert arm.interval.high == pytest.approx(0.375 + 12.7062 / 8, rel=1e-4)


def test_signs_of_tampering_are_counted_by_rollout() -> None:
    signs = ["preload_set:/etc/ld.so.preload", "logs_is_link:/logs", "logs_is_link:/logs/verifier"]
    arm = summary_of(row("x", 0, 1.0, integrity=signs), row("x", 1, 0.0, integrity=signs[1:]))
    assert (arm.flagged, arm.signs) == (2, {"logs_is_link": 2, "preload_set": 1})
    assert summary_of(row("x", 0, 1.0), row("x", 1, 0.0, integrity=[])).flagged == 0


def test_a_rollout_without_reward_is_no_zero() -> None:
    arm = summary_of(row("x", 0, 1.0), row("x", 1, None), row("y", 0, 1.0), row("y", 1, 1.0))
    assert (arm.committed, arm.scored) == (4, 3)
    assert arm.coverage == 0.75
    assert arm.mean_reward == 1.0
    assert arm.interval == wilson(1.0, 2)
    assert arm.pass_at_1 == 1.0
    assert (arm.pass_at_k, arm.pass_at_k_tasks) == (1.0, 1)
    assert arm.outcomes == {"ok": 3, "scoring_error": 1}


def test_a_reward_on_an_outcome_of_ours_does_not_count() -> None:
    arm = summary_of(row("x", 0, 0.0, outcome="sandbox_lost"), row("x", 1, 1.0))
    assert (arm.scored, arm.mean_reward) == (1, 1.0)


def test_an_agent_that_timed_out_counts() -> None:
    arm = summary_of(row("x", 0, 1.0, outcome="agent_timeout"), row("x", 1, 0.0))
    assert (arm.scored, arm.mean_reward) == (2, 0.5)


def test_missing_rollouts_lower_the_coverage_only() -> None:
    arm = summary_of(row("x", 0, 1.0), planned=10)
    assert arm.coverage == pytest.approx(0.1)
    assert (arm.mean_reward, arm.interval) == (1.0, None)
    assert (arm.pass_at_1, arm.pass_at_k, arm.pass_at_k_tasks) == (1.0, None, 0)


def test_nothing_scored_has_no_mean() -> None:
    arm = summary_of(row("x", 0, None), row("y", 0, None))
    assert (arm.mean_reward, arm.interval, arm.pass_at_1, arm.pass_at_k) == (None,) * 4
    assert arm.coverage == 0.0


def test_an_arm_without_rows_is_still_told() -> None:
    table = pa.Table.from_pylist([row("x", 0, 1.0)], schema=SCHEMA)
    summary = summarise_table(table, {"b": 3, "a": 1}, 1)
    assert [(arm.arm, arm.planned, arm.committed) for arm in summary.arms] == [
        ("b", 3, 0),
        ("a", 1, 1),
    ]
    assert (summary.planned, summary.committed, summary.scored) == (4, 1, 1)
    assert not summary.complete


def test_an_arm_outside_the_plan_has_no_coverage() -> None:
    table = pa.Table.from_pylist([row("x", 0, 1.0)], schema=SCHEMA)
    (arm,) = summarise_table(table, {}, 1).arms
    assert (arm.planned, arm.coverage, arm.mean_reward) == (0, None, 1.0)


def test_no_rows_at_all() -> None:
    summary = summarise_table(SCHEMA.empty_table(), {"a": 5}, 1)
    assert (summary.planned, summary.committed, dict(summary.stages)) == (5, 0, {})


def test_stage_times_by_arm_and_over_all() -> None:
    def phases(agent_ms: float, score_ms: float) -> list[dict[str, Any]]:
        return [{"name": "agent", "ms": agent_ms}, {"name": "score", "ms": score_ms}]

    rows = [row("x", n, 1.0, phases=phases(n, 10.0 * n)) for n in range(1, 102)]
    rows.append(row("x", 0, None, arm="b", phases=[{"name": "agent", "ms": 7.0}]))
    summary = summarise_table(pa.Table.from_pylist(rows, schema=SCHEMA), {}, 0)
    first, second = summary.arms
    assert list(first.stages) == ["agent", "score"]
    assert (first.stages["agent"].p50_ms, first.stages["agent"].p95_ms) == (51.0, 96.0)
    assert (first.stages["score"].p50_ms, first.stages["score"].n) == (510.0, 101)
    assert (second.stages["agent"].p95_ms, list(second.stages)) == (7.0, ["agent"])
    assert summary.stages["agent"].n == 102


def test_failed_attempts_are_those_of_ours() -> None:
    tries = ["sandbox_lost", "setup_error", "agent_timeout"]
    attempts = [{"n": n, "outcome": outcome} for n, outcome in enumerate(tries, 1)]
    arm = summary_of(row("x", 0, 0.0, outcome="agent_timeout", attempts=attempts))
    assert arm.attempts_failed == 2
    assert summary_of(row("x", 0, None)).attempts_failed == 1


def test_null_lists_are_empty_lists() -> None:
    arm = summary_of(row("x", 0, 1.0, phases=None, attempts=None))
    assert (dict(arm.stages), arm.attempts_failed) == ({}, 0)


def test_group_size_of_the_rows_when_no_plan_tells_it() -> None:
    rows = [row("x", n, 1.0, group_size=4) for n in range(4)]
    assert summary_of(*rows, samples=0).k == 4


def test_the_interval_is_the_one_of_estimates() -> None:
    rewards = [1.0, 0.0, 1.0, 1.0, 0.25, 0.0]
    tasks = ["x", "x", "y", "y", "z", "z"]
    arm = summary_of(
        *(row(t, n % 2, r) for n, (t, r) in enumerate(zip(tasks, rewards, strict=True)))
    )
    table = pa.array(rewards).to_numpy()
    assert arm.interval == mean_interval(table, pa.array([0, 0, 1, 1, 2, 2]).to_numpy())


def test_the_plan_of_the_log() -> None:
    state = RunState(arms={"a": {}, "b": {}}, tasks={"x": "1", "y": "2"}, samples=8)
    assert planned_counts(state) == {"a": 16, "b": 16}
