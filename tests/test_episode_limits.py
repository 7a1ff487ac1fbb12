"""Agents that run into limits, in real sandboxes: whose doing it was, and what is scored."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rollout.agents.base import Recorder
from rollout.aio import Deadline
from rollout.capacity import Capacity
from rollout.config import PoolConf, TimeoutsConf
from rollout.episode import Bench
from rollout.errors import AgentError
from rollout.pool import WarmPool
from rollout.sandbox.base import Sandbox
from rollout.sandbox.native import NativeEngine
from rollout.sandbox.native_sandbox import NativeSandbox
from rollout.scorers.base import Verdict
from rollout.types import Outcome, Output, Resources, ScoreMode, StopReason, Task, Verifier
from tests.sandbox.harness import PATIENCE_S, until_empty
from tests.sandbox.test_native import conf, leftovers
from tests.test_episode import HOME, TASK, Act, roll

pytestmark = pytest.mark.native

MODES = [ScoreMode.FORK, ScoreMode.FRESH, ScoreMode.SHARED]


@asynccontextmanager
async def working(root_dir: Path, **settings: object) -> AsyncIterator[Bench]:
    engine = NativeEngine(dataclasses.replace(conf(root_dir), **settings))
    await engine.start()
    if not engine.limits >= {"memory", "pids"}:
        await engine.close()
        pytest.skip("this machine has no controllers for memory and pids")
    roomy = Capacity(cpu=100, memory_mb=1e6, disk_mb=1e6, pids=1e6)
    pool = WarmPool(engine, PoolConf(), roomy)
    await pool.start()
    try:
        yield Bench(
            engine=engine, pool=pool, timeouts=TimeoutsConf(), run_id="r", node="n", worker="w"
        )
    finally:
        await pool.close()
        layers = list(root_dir.glob("owners/*/layers/*"))
        await engine.close()
    assert layers == []
    await until_empty(lambda: leftovers(root_dir), "left behind")


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with working(tmp_path) as made:
        yield made


def limited(mode: ScoreMode = ScoreMode.FORK, **resources: float) -> Task:
    blueprint = dataclasses.replace(HOME, resources=Resources(**resources))
    verifier = Verifier(mode=mode)
    outputs = (Output(source="/app/out"),)
    return dataclasses.replace(TASK, blueprint=blueprint, verifier=verifier, outputs=outputs)


def working_until(script: str) -> Act:
    """An agent that leaves its work and then fails with what a script of its says."""

    async def act(box: Sandbox, record: Recorder) -> StopReason:
        await box.write_file("/app/out", b"x")
        result = await box.exec(["sh", "-c", script], timeout_s=20)
        raise AgentError(f"exit code {result.exit_code}")

    return act


def ended_by_the_watcher(*, own_fault: bool, swallow: bool = False) -> Act:
    async def act(box: Sandbox, record: Recorder) -> StopReason:
        assert isinstance(box, NativeSandbox)
        await box.write_file("/app/out", b"x")
        box.end_for_memory("it held 99 MiB of its 64 MiB", own_fault=own_fault)
        try:
            await box.exec(["sleep", "9"])
        except Exception:
            if not swallow:
                raise
        return StopReason.COMPLETED

    return act


async def test_an_agent_killed_for_memory_is_scored_and_told_why(bench: Bench) -> None:
    act = working_until("python3 -c \"b'x' * (200 << 20)\"")
    ended = await roll(bench, act, task=limited(memory_mb=100))
    assert (ended.outcome, ended.reward) == (Outcome.OUT_OF_MEMORY, 1.0)
    assert ended.stop_reason is StopReason.ERROR
    assert ended.error_message.startswith("exit code 137; memory: 1 of its processes killed at the")
    assert ended.attempts[-1].error == ended.error_message
    (hit,) = [event.detail for event in ended.events if event.kind == "limit_hit"]
    assert hit.startswith("memory: 1 of its processes killed at the limit of 100 MiB")


async def test_an_agent_out_of_processes_failed_by_itself_and_is_told_why(bench: Bench) -> None:
    act = working_until("for i in $(seq 30); do sleep 9 & done")
    ended = await roll(bench, act, task=limited(pids=20))
    assert (ended.outcome, ended.reward) == (Outcome.AGENT_ERROR, 1.0)
    assert "pids: 1 times refused a new process at the limit of 20" in ended.error_message
    alerts = [event for event in ended.events if event.kind == "resource_alert"]
    assert [event.detail.split()[0] for event in alerts] == ["pids"]
    assert alerts[0].at <= ended.finished_at


async def test_an_agent_out_of_disk_is_scored_and_told_why(tmp_path: Path) -> None:
    async with working(tmp_path, scratch="tmpfs") as bench:
        act = working_until("head -c 50000000 /dev/zero > /srv/big")
        ended = await roll(bench, act, task=limited(disk_mb=20))
    assert (ended.outcome, ended.reward) == (Outcome.OUT_OF_DISK, 1.0)
    assert "disk: was full; 20 of 20 MiB are used now" in ended.error_message


NEAR_AND_BEYOND: dict[str, tuple[dict[str, float], str, str, Outcome]] = {
    "memory": (
        {"memory_mb": 100},
        "python3 -c \"import time; b = b'x' * (78 << 20); time.sleep(60)\" >/dev/null 2>&1 &",
        "python3 -c \"b'x' * (200 << 20)\"",
        Outcome.OUT_OF_MEMORY,
    ),
    "disk": (
        {"disk_mb": 20},
        "head -c 17500000 /dev/zero > /srv/most",
        "head -c 50000000 /dev/zero > /srv/more",
        Outcome.OUT_OF_DISK,
    ),
    "pids": (
        {"pids": 20},
        "for i in $(seq 16); do sleep 60 >/dev/null 2>&1 & done",
        "for i in $(seq 30); do sleep 60 & done",
        Outcome.AGENT_ERROR,
    ),
    "cpu": (
        {"cpu": 0.05},
        "while :; do :; done >/dev/null 2>&1 &",
        "exit 1",  # more than it has is never given, so there is nothing to run into
        Outcome.AGENT_ERROR,
    ),
}


@pytest.mark.parametrize("resource", NEAR_AND_BEYOND)
async def test_an_agent_is_told_of_before_its_limit_ends_it(tmp_path: Path, resource: str) -> None:
    limits, near, beyond, outcome = NEAR_AND_BEYOND[resource]

    async def act(box: Sandbox, record: Recorder) -> StopReason:
        await box.exec(["sh", "-c", near])
        async with asyncio.timeout(PATIENCE_S):
            while not [alert for alert in box.alerts if alert.resource == resource]:
                await asyncio.sleep(0.05)
        assert await box.limits_hit() == ()
        result = await box.exec(["sh", "-c", beyond], timeout_s=20)
        raise AgentError(f"exit code {result.exit_code}")

    async with working(tmp_path, scratch="tmpfs") as bench:
        patient = dataclasses.replace(limited(**limits), agent_timeout_s=60)
        ended = await roll(bench, act, task=patient)
    assert ended.outcome is outcome, ended.error_message
    told = [event for event in ended.events if event.kind in ("resource_alert", "limit_hit")]
    told.sort(key=lambda event: event.at)
    expected = ["resource_alert"] if resource == "cpu" else ["resource_alert", "limit_hit"]
    assert list(dict.fromkeys(event.kind for event in told)) == expected
    assert told[0].detail.startswith(f"{resource} at ")
    assert resource == "cpu" or f"{resource}: " in ended.error_message


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("swallow", [False, True])
async def test_an_agent_that_took_its_sandbox_down_is_scored_on_its_files(
    bench: Bench, mode: ScoreMode, swallow: bool
) -> None:
    act = ended_by_the_watcher(own_fault=True, swallow=swallow)
    ended = await roll(bench, act, task=limited(mode, memory_mb=64))
    assert (ended.outcome, ended.reward) == (Outcome.OUT_OF_MEMORY, 1.0)
    assert "memory: it held 99 MiB of its 64 MiB" in ended.error_message


@pytest.mark.parametrize("mode", MODES)
async def test_a_sandbox_ended_within_its_limit_is_ours(bench: Bench, mode: ScoreMode) -> None:
    act = ended_by_the_watcher(own_fault=False)
    ended = await roll(bench, act, task=limited(mode, memory_mb=100))
    assert (ended.outcome, ended.reward) == (Outcome.SANDBOX_LOST, None)
    assert "it held 99 MiB" in ended.error_message


@pytest.mark.parametrize("own_fault", [True, False])
@pytest.mark.parametrize("mode", [ScoreMode.FORK, ScoreMode.FRESH])
async def test_a_scorer_out_of_its_own_memory_gives_no_verdict(
    bench: Bench, mode: ScoreMode, own_fault: bool
) -> None:
    """And where the machine was short of it, the sandbox is lost."""

    class Hungry:
        async def score(self, task: Task, sandbox: Sandbox, deadline: Deadline) -> Verdict:
            assert isinstance(sandbox, NativeSandbox)
            sandbox.end_for_memory("it held 99 MiB of its 64 MiB", own_fault=own_fault)
            await sandbox.exec(["sleep", "9"])
            raise AssertionError("it lives")

    ended = await roll(bench, scorer=Hungry(), task=limited(mode, memory_mb=64))
    assert ended.outcome == (Outcome.SCORING_ERROR if own_fault else Outcome.SANDBOX_LOST)
    assert ended.reward is None
    assert "it held 99 MiB of its 64 MiB" in ended.error_message
    assert ("memory_mb" in ended.error_message) == own_fault


async def test_an_agent_that_ended_well_is_well_whatever_it_ran_into(bench: Bench) -> None:
    async def act(box: Sandbox, record: Recorder) -> StopReason:
        await box.exec(["python3", "-c", "b'x' * (200 << 20)"])
        await box.write_file("/app/out", b"x")
        return StopReason.COMPLETED

    ended = await roll(bench, act, task=limited(memory_mb=100))
    assert (ended.outcome, ended.reward, ended.error_message) == (Outcome.OK, 1.0, "")
    assert [event.kind for event in ended.events].count("limit_hit") == 1
