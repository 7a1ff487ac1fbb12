"""Whatever an agent leaves in the way of its scorer, it earns its zero and not "no reward"."""

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rollout.agents.script import Script
from rollout.capacity import Capacity
from rollout.config import EngineConf, PoolConf, TimeoutsConf
from rollout.episode import Bench, run_episode
from rollout.pool import WarmPool
from rollout.sandbox.base import Engine
from rollout.sandbox.memory import MemoryEngine
from rollout.sandbox.native import NativeEngine
from rollout.scorers.harbor import HarborVerifier
from rollout.types import (
    Arm,
    Blueprint,
    BuildStep,
    Lease,
    Output,
    Plugin,
    RolloutSpec,
    ScoreMode,
    Task,
    Trajectory,
    Tree,
)

VERIFIER = """#!/bin/sh
if test -f /srv/app/solved; then echo 1; else echo 0; fi > /logs/verifier/reward.txt
"""
TASK = Task(
    id="one",
    instruction="make solved",
    blueprint=Blueprint(steps=(BuildStep(op="workdir", dest="/srv/app"),)),
    tests=Tree.of({"test.sh": VERIFIER}),
    outputs=(Output(source="/srv/app"),),
    agent_timeout_s=20,
)
SPEC = RolloutSpec(
    trajectory_id="t" * 32, group_id="g" * 32, arm="a", task_id="one", sample=0, group_size=1
)
ARM = Arm(name="a", agent=Plugin(target="a.B"), scorer=Plugin(target="c.D"))
ROOM = Capacity(cpu=8, memory_mb=8000, disk_mb=8000, pids=8000)


@pytest.fixture(params=["memory", pytest.param("native", marks=pytest.mark.native)])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    native = NativeEngine(EngineConf(root_dir=str(tmp_path), uid_base=1_900_000_000))
    engine: Engine = MemoryEngine() if request.param == "memory" else native
    await engine.start()
    pool = WarmPool(engine, PoolConf(), ROOM)
    await pool.start()
    yield Bench(engine=engine, pool=pool, timeouts=TimeoutsConf(), run_id="r", node="n", worker="w")
    await pool.close()
    await engine.close()


async def roll(bench: Bench, script: str, mode: ScoreMode) -> Trajectory:
    arm = dataclasses.replace(ARM, score_mode=mode)
    lease = Lease(spec=SPEC, epoch=1, n=1, last=True)
    agent, scorer = Script(script=script), HarborVerifier()
    return (await run_episode(lease, TASK, arm, agent, scorer, bench)).trajectory


@pytest.mark.parametrize("mode", [ScoreMode.FORK, ScoreMode.FRESH, ScoreMode.SHARED])
@pytest.mark.parametrize(
    "debris",
    [
        "rm -rf /srv/app",
        "rm -rf /srv/app; echo x > /srv/app",
        "rm -rf /srv/app; ln -s /nowhere /srv/app",
        "rm -rf /srv; echo x > /srv",
        "rm -rf /srv/app; ln -s app /srv/app",
        "rm -rf /logs; echo x > /logs",
        "rm -rf /logs; ln -s /nowhere /logs",
        "mkdir -p /logs; rm -rf /logs/agent; echo x > /logs/agent",
        "mkdir -p /logs/verifier; echo 1 > /logs/verifier/reward.txt",
        "mkdir -p /logs/verifier; echo '{\"reward\": 1}' > /logs/verifier/reward.json",
        "rm -rf /tests; echo x > /tests",
        "rm -rf /tests; ln -s /nowhere /tests",
    ],
)
async def test_debris_earns_a_zero(bench: Bench, debris: str, mode: ScoreMode) -> None:
    row = await roll(bench, debris, mode)
    assert (row.outcome, row.reward, row.error_message) == ("ok", 0.0, "")


@pytest.mark.parametrize("mode", [ScoreMode.FORK, ScoreMode.SHARED])
async def test_what_is_a_folder_stays(bench: Bench, mode: ScoreMode) -> None:
    """Clearing the way for one folder takes nothing from another."""
    script = "touch /srv/app/solved; rm -rf /logs; echo x > /logs"
    row = await roll(bench, script, mode)
    assert (row.outcome, row.reward) == ("ok", 1.0)
