"""One suite for both executors: real workers in processes of their own, a real dataset."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rollout.config import RetryConf
from rollout.errors import ConfigError
from rollout.executor.base import Executor, Progress, RunPlan
from rollout.executor.local import LocalExecutor
from tests.executor.plans import (
    assert_complete,
    committed_rows,
    gated_plan,
    load_state,
    make_arm,
    make_plan,
    until,
)

SCRIPT = make_arm("script", "rollout.agents.script.Script", script="touch /tmp/done")
NOP = make_arm("nop", "rollout.agents.nop.Nop")

Make = Callable[[], Executor]


async def finish(executor: Executor, plan: RunPlan) -> Progress:
    """Run to the end; the last look at it."""
    last = None
    async for progress in executor.run(plan):
        last = progress
    assert last is not None
    return last


def begun(tmp_path: Path) -> list[Path]:
    return list(tmp_path.glob("begun-*"))


def open_gate(tmp_path: Path) -> None:
    (tmp_path / "open").touch()


async def test_every_planned_rollout_becomes_one_row(executor: Make, tmp_path: Path) -> None:
    plan = make_plan(tmp_path, [SCRIPT, NOP], tasks=3, samples=3, cpus_per_worker=1)
    last = await finish(executor(), plan)
    rows = assert_complete(plan)
    assert {(row["arm"], row["outcome"], row["reward"]) for row in rows} == {
        ("script", "ok", 1.0),
        ("nop", "ok", 0.0),
    }
    assert (last.done, last.total, last.finished) == (18, 18, True)
    assert last.arms == {"script": (9, 9, 9.0), "nop": (9, 9, 0.0)}
    assert load_state(plan).finished


async def test_draining_commits_what_runs_and_the_next_start_does_the_rest(
    executor: Make, tmp_path: Path
) -> None:
    plan = gated_plan(tmp_path)
    first = executor()
    running = asyncio.create_task(finish(first, plan))
    await until(lambda: len(begun(tmp_path)) == 4)
    first.drain()
    open_gate(tmp_path)
    last = await running
    assert (last.done, last.finished, last.attempts_failed) == (4, False, 0)
    assert len(committed_rows(plan)) == 4
    last = await finish(executor(), plan)
    assert last.finished
    assert len(begun(tmp_path)) == 12, "only what was missing ran"
    assert sorted(row["epoch"] for row in assert_complete(plan)) == [1] * 4 + [2] * 8


async def test_a_stop_ends_at_once_and_leaves_a_dataset_that_opens(
    executor: Make, tmp_path: Path
) -> None:
    plan = gated_plan(tmp_path)
    first = executor()
    running = asyncio.create_task(finish(first, plan))
    await until(lambda: len(begun(tmp_path)) == 4)
    first.stop()
    last = await running
    assert (last.done, last.finished) == (0, False)
    assert committed_rows(plan) == []
    open_gate(tmp_path)
    await finish(executor(), plan)
    assert_complete(plan)


async def test_leaving_the_iterator_stops_the_run(executor: Make, tmp_path: Path) -> None:
    plan = gated_plan(tmp_path)
    looks = executor().run(plan)
    async for _ in looks:
        if begun(tmp_path):
            break
    await looks.aclose()  # type: ignore[attr-defined]
    pids = {int(path.name.split("-")[1]) for path in begun(tmp_path)}
    assert pids
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


async def test_a_killed_worker_costs_an_attempt_and_no_row(executor: Make, tmp_path: Path) -> None:
    plan = gated_plan(tmp_path)
    running = asyncio.create_task(finish(executor(), plan))
    await until(lambda: len(begun(tmp_path)) == 4)
    [pid] = {int(path.name.split("-")[1]) for path in begun(tmp_path)}
    os.kill(pid, signal.SIGKILL)
    open_gate(tmp_path)
    last = await running
    assert last.finished
    assert any("w0000" in note for note in last.notes)
    told = [[a["outcome"] for a in row["attempts"]] for row in assert_complete(plan)]
    assert sorted(told) == [["ok"]] * 8 + [["sandbox_lost", "ok"]] * 4


async def test_only_our_own_failures_are_tried_again(executor: Make, tmp_path: Path) -> None:
    arms = [
        make_arm("flaky", "tests.executor.agents.Flaky", folder=str(tmp_path), fails=1),
        make_arm("buggy", "tests.executor.agents.Buggy"),
    ]
    down = tmp_path / "down"
    down.mkdir()
    arms.append(make_arm("down", "tests.executor.agents.Flaky", folder=str(down), fails=99))
    plan = make_plan(tmp_path, arms, tasks=2, samples=1)
    last = await finish(executor(), plan)
    told = {
        (row["arm"], row["outcome"], row["reward"], tuple(a["outcome"] for a in row["attempts"]))
        for row in assert_complete(plan)
    }
    assert told == {
        ("flaky", "ok", 1.0, ("model_error", "ok")),
        ("buggy", "agent_error", 0.0, ("agent_error",)),
        ("down", "model_error", None, ("model_error", "model_error", "model_error")),
    }
    assert (last.finished, last.attempts_failed) == (True, 6)


async def test_a_storm_of_our_own_failures_ends_the_run(executor: Make, tmp_path: Path) -> None:
    arm = make_arm("down", "tests.executor.agents.Flaky", folder=str(tmp_path), fails=9999)
    retry = RetryConf(backoff_s=0.01, storm_window=50)
    plan = make_plan(tmp_path, [arm], tasks=5, samples=60, retry=retry)
    last = await finish(executor(), plan)
    assert "the model endpoint is down" in last.paused
    assert not last.finished
    assert last.done < last.total
    assert len(committed_rows(plan)) == last.done
    assert len(load_state(plan).attempts) >= 1


async def test_a_worker_that_cannot_work_is_told_before_anything_runs(
    executor: Make, tmp_path: Path
) -> None:
    plan = make_plan(tmp_path, [make_arm("typo", "rollout.agents.nop.Nope")])
    with pytest.raises(ConfigError, match='has no "Nope"'):
        await finish(executor(), plan)


async def test_a_killed_driver_takes_its_workers_along_and_the_next_start_goes_on(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "tests.executor.drive", "local", str(tmp_path)]
    with subprocess.Popen(command) as driver:
        await until(lambda: len(begun(tmp_path)) == 4)
        driver.kill()
    [pid] = {int(path.name.split("-")[1]) for path in begun(tmp_path)}
    await until(lambda: not Path(f"/proc/{pid}").exists())
    open_gate(tmp_path)
    plan = gated_plan(tmp_path)
    last = await finish(LocalExecutor(), plan)
    assert last.finished
    assert {row["epoch"] for row in assert_complete(plan)} == {2}
