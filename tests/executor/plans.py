"""Small real plans for these tests, and what a finished run must look like."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rollout.config import (
    EngineConf,
    ExecutorConf,
    PoolConf,
    RetryConf,
    StoreConf,
    TimeoutsConf,
)
from rollout.dataset.log import CommitLog
from rollout.dataset.state import RunState
from rollout.dataset.store import LocalStore
from rollout.executor.base import RunPlan
from rollout.plan import make_specs
from rollout.types import Arm, Plugin, Task, Verifier, canonical_json


def make_task(name: str) -> Task:
    """Passes when the file /tmp/done exists."""
    return Task(
        id=name,
        instruction="make /tmp/done",
        agent_timeout_s=60,
        verifier=Verifier(timeout_s=60, command="test -f /tmp/done"),
    )


def make_arm(name: str, agent: str, **params: Any) -> Arm:
    return Arm(
        name=name,
        agent=Plugin(target=agent, params=canonical_json(params)),
        scorer=Plugin(target="rollout.scorers.command.Command"),
    )


def make_plan(
    root: Path,
    arms: Sequence[Arm],
    *,
    tasks: int = 2,
    samples: int = 2,
    retry: RetryConf | None = None,
    flush_s: float = 0.2,
    **executor: Any,
) -> RunPlan:
    problems = tuple(make_task(f"task-{number}") for number in range(tasks))
    settings: dict[str, Any] = {"kind": "local", "workers": 2, "episodes_per_worker": 8}
    return RunPlan(
        run_id=root.name,
        run_uri=str(root / "run"),
        arms=tuple(arms),
        tasks=problems,
        specs=make_specs(root.name, arms, problems, samples),
        engine=EngineConf(kind="memory", root_dir=str(root / "engine")),
        pool=PoolConf(),
        retry=retry or RetryConf(backoff_s=0.05),
        timeouts=TimeoutsConf(),
        executor=ExecutorConf(**{**settings, "lease_ttl_s": 2.0, "dashboard": False, **executor}),
        store=StoreConf(uri=str(root), flush_s=flush_s),
    )


def gated_plan(root: Path, **conf: Any) -> RunPlan:
    """Twelve rollouts, four at once, that wait until the file `open` exists in `root`."""
    arm = make_arm("gated", "tests.executor.agents.Gated", folder=str(root))
    settings: dict[str, Any] = {"workers": 1, "episodes_per_worker": 4}
    return make_plan(root, [arm], tasks=3, samples=4, **{**settings, **conf})


def load_state(plan: RunPlan) -> RunState:
    return CommitLog(LocalStore(plan.run_uri), "test").load()


def committed_rows(plan: RunPlan) -> list[dict[str, Any]]:
    """The rows of exactly the parts that the log names, read with plain pyarrow."""
    rows: list[dict[str, Any]] = []
    for path, part in load_state(plan).parts.items():
        if part.table == "trajectories":
            rows += pq.ParquetFile(Path(plan.run_uri) / path).read().to_pylist()
    return rows


def assert_complete(plan: RunPlan) -> list[dict[str, Any]]:
    """Every planned rollout is there once and nothing else is; its rows."""
    rows = committed_rows(plan)
    planned = sorted(spec.trajectory_id for spec in plan.specs)
    assert sorted(row["trajectory_id"] for row in rows) == planned
    return rows


async def until(condition: Any, timeout_s: float = 60.0) -> None:
    """Poll until `condition()` holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)
