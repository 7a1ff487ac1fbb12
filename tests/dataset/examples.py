"""Small trajectories and commit requests."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa

from rollout.dataset.base import CommitRequest, Part
from rollout.dataset.parts import make_part
from rollout.dataset.rows import to_batch
from rollout.dataset.store import Store
from rollout.types import Attempt, Message, Outcome, RolloutSpec, Trajectory

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def an_attempt(n: int = 1, *, epoch: int = 1, outcome: Outcome = Outcome.OK) -> Attempt:
    return Attempt(
        epoch=epoch,
        n=n,
        outcome=outcome,
        worker="w0001",
        started_at=AT,
        finished_at=AT + timedelta(seconds=n),
        error="" if outcome.scored else "the sandbox went away",
    )


def a_row(
    name: str, *, reward: float | None = 1.0, outcome: Outcome = Outcome.OK, text: str = "hello"
) -> Trajectory:
    return Trajectory(
        run_id="run",
        spec=RolloutSpec(
            trajectory_id=name,
            group_id="group",
            arm="default",
            task_id="task",
            sample=0,
            group_size=4,
        ),
        epoch=1,
        attempt=1,
        outcome=outcome,
        reward=reward,
        messages=(Message(role="user", content=text),),
        attempts=(an_attempt(outcome=outcome),),
        blueprint="host",
        agent_name="oracle",
        arm_digest="a" * 64,
        task_digest="b" * 64,
        started_at=AT,
        finished_at=AT + timedelta(seconds=1),
    )


def put_rows(
    store: Store,
    *rows: Trajectory,
    epoch: int = 1,
    number: int = 0,
    worker: str = "w0001",
    format: str = "parquet",
) -> CommitRequest:
    """Write one part and give the request that would make it visible."""
    part, data = make_part(
        to_batch(rows),
        name="trajectories",
        writer=worker,
        epoch=epoch,
        number=number,
        format=format,
    )
    store.put_if_absent(part.path, data)
    return request_for(part, rows, epoch=epoch, worker=worker)


def request_for(
    part: Part, rows: tuple[Trajectory, ...], *, epoch: int = 1, worker: str = "w0001"
) -> CommitRequest:
    return CommitRequest(
        worker=worker,
        epoch=epoch,
        parts=(part,),
        trajectory_ids=tuple(row.spec.trajectory_id for row in rows),
        outcomes=tuple(row.outcome for row in rows),
        rewards=tuple(row.reward for row in rows),
        attempts=tuple(row.attempts for row in rows),
    )


def ids_of(table: pa.Table) -> list[str]:
    found: list[str] = table["trajectory_id"].to_pylist()
    return found
