"""A finished run of a dozen rollouts, made by the real log and writer, without sandboxes."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rollout.dataset.base import CommitReply, CommitRequest
from rollout.dataset.log import CommitLog
from rollout.dataset.run import begin
from rollout.dataset.store import open_store
from rollout.dataset.writer import DatasetWriter
from rollout.types import (
    Attempt,
    Message,
    Outcome,
    Phase,
    RolloutSpec,
    Score,
    StopReason,
    Trajectory,
    group_id,
    trajectory_id,
)

ARMS = {"agent=oracle": "a" * 64, "agent=nop": "b" * 64}
TASKS = {name: digit * 64 for name, digit in (("count", "1"), ("sort", "2"), ("merge", "3"))}
SAMPLES = 2
START = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)


async def write_small_run(folder: Path) -> None:
    """Two arms, three tasks, two samples; one rollout of `nop` has no reward."""
    store = open_store(str(folder))
    begin(store, {"name": folder.name}, {"arms": ARMS, "tasks": TASKS})
    log = CommitLog(store, "test")
    epoch = log.announce()
    log.plan({arm: {"digest": digest} for arm, digest in ARMS.items()}, TASKS, SAMPLES)

    async def commit(request: CommitRequest) -> CommitReply:
        return (await asyncio.to_thread(log.commit, [request], {}))[0]

    writer = DatasetWriter(
        store,
        worker="w0001",
        epoch=epoch,
        format="parquet",
        flush_bytes=1 << 20,
        flush_s=60.0,
        commit=commit,
    )
    for trajectory in trajectories(folder.name, epoch):
        await writer.add(trajectory)
    await writer.close()
    log.finish({})


def trajectories(run_id: str, epoch: int) -> Iterator[Trajectory]:
    """In the order of the plan; the last one failed by us."""
    for arm in ARMS:
        for task in TASKS:
            for sample in range(SAMPLES):
                made = a_trajectory(run_id, epoch, arm, task, sample)
                last = (arm, task, sample) == ("agent=nop", "merge", SAMPLES - 1)
                yield lost(made) if last else made


def a_trajectory(run_id: str, epoch: int, arm: str, task: str, sample: int) -> Trajectory:
    reward = 1.0 if arm == "agent=oracle" else 0.0
    ended = START + timedelta(seconds=1 + sample)
    return Trajectory(
        run_id=run_id,
        spec=RolloutSpec(
            trajectory_id=trajectory_id(run_id, ARMS[arm], TASKS[task], sample),
            group_id=group_id(run_id, ARMS[arm], TASKS[task]),
            arm=arm,
            task_id=task,
            sample=sample,
            group_size=SAMPLES,
        ),
        epoch=epoch,
        attempt=1,
        outcome=Outcome.OK,
        stop_reason=StopReason.COMPLETED,
        reward=reward,
        scores=(Score(name="tests", value=reward),),
        messages=(Message(role="user", content=f"solve {task}"),),
        phases=(
            Phase(name="claim", start=START, ms=2.0 + sample),
            Phase(name="agent", start=START, ms=100.0 + sample),
        ),
        attempts=(attempt(epoch, Outcome.OK, ended),),
        blueprint="host",
        agent_name=arm.removeprefix("agent="),
        arm_digest=ARMS[arm],
        task_digest=TASKS[task],
        started_at=START,
        finished_at=ended,
    )


def lost(made: Trajectory) -> Trajectory:
    return replace(
        made,
        outcome=Outcome.SANDBOX_LOST,
        stop_reason=None,
        reward=None,
        scores=(),
        attempts=(attempt(made.epoch, Outcome.SANDBOX_LOST, made.finished_at),),
    )


def attempt(epoch: int, outcome: Outcome, ended: datetime) -> Attempt:
    return Attempt(
        epoch=epoch, n=1, outcome=outcome, worker="w0001", started_at=START, finished_at=ended
    )
