"""The coordinator by itself, over a real log in a folder; a test plays the workers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rollout.config import RetryConf
from rollout.dataset.store import LocalStore
from rollout.dataset.writer import DatasetWriter
from rollout.errors import Fenced
from rollout.executor.base import Heartbeat, RunPlan
from rollout.executor.coordinator import RunCoordinator
from rollout.types import Attempt, Lease, Outcome, Trajectory
from tests.executor.plans import (
    assert_complete,
    committed_rows,
    load_state,
    make_arm,
    make_plan,
    until,
)

ARM = make_arm("default", "rollout.agents.nop.Nop")


@asynccontextmanager
async def running(plan: RunPlan) -> AsyncIterator[RunCoordinator]:
    coordinator = await RunCoordinator.begin(plan)
    try:
        yield coordinator
    finally:
        await coordinator.close()


def ended(lease: Lease, outcome: Outcome = Outcome.OK, worker: str = "w") -> Attempt:
    now = datetime.now(UTC)
    return Attempt(
        epoch=lease.epoch,
        n=lease.n,
        outcome=outcome,
        worker=worker,
        started_at=now,
        finished_at=now,
        error="" if outcome.scored else "it broke",
    )


def row(lease: Lease, outcome: Outcome = Outcome.OK, worker: str = "w") -> Trajectory:
    attempt = ended(lease, outcome, worker)
    return Trajectory(
        run_id="run",
        spec=lease.spec,
        epoch=lease.epoch,
        attempt=lease.n,
        outcome=outcome,
        reward=1.0 if outcome.scored else None,
        attempts=(*lease.attempts, attempt),
        started_at=attempt.started_at,
        finished_at=attempt.finished_at,
    )


class Hand:
    """As much of a worker as these tests need; its writer is the real one."""

    def __init__(
        self, plan: RunPlan, coordinator: RunCoordinator, name: str, epoch: int = 0
    ) -> None:
        self.name, self.coordinator = name, coordinator
        self.writer = DatasetWriter(
            LocalStore(plan.run_uri),
            worker=name,
            epoch=epoch or coordinator.epoch,
            format="parquet",
            flush_bytes=1 << 20,
            flush_s=60.0,
            commit=coordinator.commit,
        )

    async def lease(self, count: int) -> list[Lease]:
        return list((await self.coordinator.lease(self.name, count)).leases)

    async def commit(self, *leases: Lease, outcome: Outcome = Outcome.OK) -> None:
        for lease in leases:
            await self.writer.add(row(lease, outcome, self.name))
        await self.writer.flush()

    async def beat(self, *held: Lease, epoch: int | None = None):
        return await self.coordinator.heartbeat(
            Heartbeat(
                worker=self.name,
                epoch=epoch or self.coordinator.epoch,
                state="running",
                counts={"warm": 2.0},
                held=tuple(lease.spec.trajectory_id for lease in held),
            )
        )


async def test_a_run_ends_when_all_is_committed_and_a_second_start_has_nothing_to_do(
    tmp_path: Path,
) -> None:
    plan = make_plan(tmp_path, [ARM])
    async with running(plan) as coordinator:
        hand = Hand(plan, coordinator, "a")
        await coordinator.register("a", "node", 1)
        await hand.commit(*await hand.lease(2))
        assert not coordinator.ended
        await hand.commit(*await hand.lease(9))
        assert coordinator.ended
        assert (await coordinator.lease("a", 1)).done
        await hand.writer.close()
    assert coordinator.progress().finished
    assert load_state(plan).finished
    assert_complete(plan)
    async with running(plan) as again:
        assert again.ended
        assert again.epoch == coordinator.epoch + 1
        assert again.progress().done == 4


async def test_leases_are_shared_fairly_among_the_living(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, [ARM], tasks=4, samples=2)
    async with running(plan) as coordinator:
        await coordinator.register("a", "node", 1)
        await coordinator.register("b", "node", 2)
        reply = await coordinator.lease("a", 99)
        assert len(reply.leases) == 4
        assert sum(count for _, count in reply.coming) == 4


async def test_a_silent_worker_loses_its_leases_and_its_late_row_still_counts_once(
    tmp_path: Path,
) -> None:
    plan = make_plan(tmp_path, [ARM], tasks=1, samples=2, lease_ttl_s=0.3)
    async with running(plan) as coordinator:
        silent, good = Hand(plan, coordinator, "silent"), Hand(plan, coordinator, "good")
        await coordinator.register("silent", "node", 1)
        leases = await silent.lease(2)
        await until(lambda: coordinator.progress().pending == 2)
        assert "silent" in coordinator.progress().notes[0]
        again: list[Lease] = []
        while len(again) < 2:
            again += await good.lease(2)
            await asyncio.sleep(0.02)
        assert [(lease.n, lease.attempts[0].worker) for lease in again] == [(2, "silent")] * 2
        assert again[0].attempts[0].outcome is Outcome.SANDBOX_LOST
        # The zombie is first with one row: it counts, and the good worker hears that it does.
        late = next(x for x in leases if x.spec == again[0].spec)
        await silent.commit(late)
        assert (await good.beat(*again)).lost == (late.spec.trajectory_id,)
        assert (await silent.beat(*leases)).lost == tuple(x.spec.trajectory_id for x in leases)
        await good.commit(*again)
        assert coordinator.ended
        await silent.writer.close()
        await good.writer.close()
    assert_complete(plan)


async def test_who_is_heard_keeps_what_it_runs_however_long_it_takes(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, [ARM], tasks=1, samples=2, lease_ttl_s=0.5)
    async with running(plan) as coordinator:
        slow, idle = Hand(plan, coordinator, "slow"), Hand(plan, coordinator, "idle")
        leases = await slow.lease(2)
        for _ in range(30):  # three times as long as a silent worker would have
            assert (await slow.beat(*leases)).lost == ()
            assert await idle.lease(2) == []
            await asyncio.sleep(0.05)
        await slow.commit(*leases)
        await slow.writer.close()
    assert [len(row["attempts"]) for row in assert_complete(plan)] == [1, 1]


async def test_a_lost_reply_strands_no_lease(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, [ARM], tasks=1, samples=1, lease_ttl_s=0.3)
    async with running(plan) as coordinator:
        hand = Hand(plan, coordinator, "a")
        await hand.lease(1)  # Its reply is lost: the worker never says that it holds anything.

        async def beats_until_it_is_back() -> Lease:
            while True:
                await hand.beat()
                if leases := await hand.lease(1):
                    return leases[0]
                await asyncio.sleep(0.05)

        lease = await asyncio.wait_for(beats_until_it_is_back(), 30)
        assert (lease.n, lease.attempts) == (1, ())


async def test_our_own_failures_are_tried_again_and_stay_on_record(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, [ARM], tasks=1, samples=1, retry=RetryConf(backoff_s=0.01))
    async with running(plan) as coordinator:
        hand = Hand(plan, coordinator, "a")
        lasts = []
        while not coordinator.ended:
            for lease in await hand.lease(1):
                lasts.append(lease.last)
                if lease.last:
                    await hand.commit(lease, outcome=Outcome.MODEL_ERROR)
                else:
                    attempt = ended(lease, Outcome.MODEL_ERROR, "a")
                    await coordinator.attempt_failed("a", lease.spec.trajectory_id, attempt)
            await asyncio.sleep(0.005)
        assert lasts == [False, False, True]
        assert coordinator.progress().attempts_failed == 2
        await hand.writer.close()
    [only] = assert_complete(plan)
    assert (only["outcome"], only["reward"], len(only["attempts"])) == ("model_error", None, 3)


async def test_failed_attempts_are_on_record_even_when_nothing_is_committed(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, [ARM], tasks=1, samples=1)
    async with running(plan) as coordinator:
        hand = Hand(plan, coordinator, "a")
        [lease] = await hand.lease(1)
        await coordinator.attempt_failed(
            "a", lease.spec.trajectory_id, ended(lease, Outcome.SETUP_ERROR)
        )
        coordinator.stop()
    assert not coordinator.progress().finished
    [[attempt]] = load_state(plan).attempts.values()
    assert (attempt.n, attempt.outcome) == (1, Outcome.SETUP_ERROR)


async def test_a_storm_of_our_own_failures_pauses_leasing_and_ends_the_run(tmp_path: Path) -> None:
    retry = RetryConf(storm_window=40, storm_share=0.2)
    plan = make_plan(tmp_path, [ARM], tasks=10, samples=10, retry=retry)
    async with running(plan) as coordinator:
        hand = Hand(plan, coordinator, "a")
        leases = await hand.lease(30)
        await hand.commit(*leases[:16])
        for lease in leases[16:20]:
            await coordinator.attempt_failed(
                "a", lease.spec.trajectory_id, ended(lease, Outcome.SANDBOX_LOST)
            )
        assert coordinator.progress().paused == ""
        for lease in leases[20:21]:
            await coordinator.attempt_failed(
                "a", lease.spec.trajectory_id, ended(lease, Outcome.SANDBOX_LOST)
            )
        assert "5 of the last 21" in coordinator.progress().paused
        assert "it broke" in coordinator.progress().paused
        assert (await coordinator.lease("a", 9)).done
        assert (await hand.beat(*leases[21:])).drain
        assert not coordinator.ended
        await hand.commit(*leases[21:])
        assert await coordinator.wait_ended(10)
        await hand.writer.close()
    assert not coordinator.progress().finished
    assert len(committed_rows(plan)) == 25


async def test_a_lost_worker_is_one_failure_however_much_it_held(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, [ARM], tasks=10, samples=10)
    async with running(plan) as coordinator:
        hand = Hand(plan, coordinator, "a")
        await hand.commit(*await hand.lease(20))
        await hand.lease(60)
        coordinator.worker_lost("a", "was killed by signal 9")
        progress = coordinator.progress()
        assert (progress.attempts_failed, progress.paused, progress.workers) == (60, "", 0)
        await hand.writer.close()


async def test_draining_lets_what_runs_end(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, [ARM])
    async with running(plan) as coordinator:
        hand = Hand(plan, coordinator, "a")
        begun, unbegun = await hand.lease(2)
        coordinator.drain()
        assert (await hand.beat(begun, unbegun)).drain
        assert (await coordinator.lease("a", 1)).done
        await coordinator.give_back("a", [unbegun.spec.trajectory_id])
        assert not coordinator.ended
        await hand.commit(begun)
        assert await coordinator.wait_ended(10)
        await hand.writer.close()
    assert [row["trajectory_id"] for row in committed_rows(plan)] == [begun.spec.trajectory_id]
    assert load_state(plan).attempts.keys() == {begun.spec.trajectory_id}


async def test_the_next_coordinator_fences_this_one_and_its_workers(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, [ARM])
    async with running(plan) as old:
        hand = Hand(plan, old, "a")
        leases = await hand.lease(2)
        async with running(plan) as new:
            with pytest.raises(Fenced):
                await hand.commit(*leases)
            assert old.ended
            assert "taken this run over" in old.progress().notes[0]
            assert (await hand.beat(*leases)).stop
            with pytest.raises(Fenced, match="epoch"):
                await Hand(plan, new, "a", epoch=old.epoch).commit(*leases)
            heir = Hand(plan, new, "b")
            assert (await heir.beat(epoch=old.epoch)).stop
            await heir.commit(*await heir.lease(9))
            await heir.writer.close()
    assert_complete(plan)
