"""A store at 1 MB/s: less is claimed, the memory stays bounded, and no result is dropped."""

import asyncio
import base64
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from rollout.config import StoreConf
from rollout.dataset.reader import open_dataset
from rollout.dataset.store import LocalStore
from rollout.executor.local import LocalExecutor
from tests.chaos.faulty_store import FaultyStore
from tests.dataset.examples import a_row
from tests.dataset.test_writer import Commits, Spoiled, writing
from tests.executor.plans import make_arm, make_plan, until
from tests.s3_server import BUCKET

MB = 1 << 20
SLOW = MB
"""Bytes per second."""


@pytest.fixture
def slow_endpoint(s3_endpoint: str) -> Iterator[FaultyStore]:
    store = FaultyStore(s3_endpoint)
    store.bytes_per_s = SLOW
    yield store
    store.close()


@pytest.mark.s3
async def test_a_slow_store_slows_claiming_and_drops_nothing(
    slow_endpoint: FaultyStore, tmp_path: Path
) -> None:
    """All that is claimed runs, or is buffered: and that is bounded by what a worker may hold."""
    kb, at_once, flush_mb = 64, 4, 0.25
    arm = make_arm("talker", "tests.executor.agents.Talker", kb=kb)
    plan = make_plan(tmp_path, [arm], tasks=4, samples=8, workers=1, episodes_per_worker=at_once)
    plan = replace(
        plan,
        run_uri=f"s3://{BUCKET}/{tmp_path.name}",
        store=StoreConf(endpoint_url=slow_endpoint.url, flush_mb=flush_mb, flush_s=60.0),
    )
    most_rows = 2 * flush_mb * 1024 / kb
    looks = [look async for look in LocalExecutor().run(plan)]
    assert max(look.running for look in looks) <= at_once + most_rows < len(plan.specs) / 2
    assert max(look.counts.get("buffered_mb", 0.0) for look in looks) <= 2 * flush_mb
    assert looks[-1].finished
    assert slow_endpoint.put_bytes > len(plan.specs) * kb * 1024 * 0.7
    with open_dataset(plan.run_uri, endpoint_url=slow_endpoint.url) as dataset:
        rows = dataset.scan(columns=["trajectory_id", "reward"]).to_pylist()
    assert sorted(row["trajectory_id"] for row in rows) == sorted(
        s.trajectory_id for s in plan.specs
    )
    assert {row["reward"] for row in rows} == {1.0}


@pytest.mark.s3
@pytest.mark.long
@pytest.mark.parametrize("inline_kb", [64, 4096])
async def test_a_workers_memory_stays_bounded_however_long_the_store_is_slow(
    slow_endpoint: FaultyStore, tmp_path: Path, inline_kb: int
) -> None:
    """A hundred and fifty rollouts of a megabyte, in their rows or beside them, in as many
    seconds."""
    arm = make_arm("talker", "tests.executor.agents.Talker", kb=1024)
    plan = make_plan(tmp_path, [arm], tasks=5, samples=30, workers=1, episodes_per_worker=8)
    store = StoreConf(endpoint_url=slow_endpoint.url, flush_mb=4, flush_s=5.0, inline_kb=inline_kb)
    plan = replace(plan, run_uri=f"s3://{BUCKET}/{tmp_path.name}", store=store)
    held: list[int] = []
    async for look in LocalExecutor().run(plan):
        below = psutil.Process().children(recursive=True)
        workers = [each for each in below if "local_worker" in " ".join(each.cmdline())]
        if look.workers and workers:  # it has begun: what it imports is there
            held.append(workers[0].memory_info().rss)
    assert look.finished
    assert look.done == len(plan.specs)
    assert slow_endpoint.put_bytes > 100 * MB
    # With its writer's bound taken away it grew by 300 MB; with it by 121 MB, at once and no more.
    assert max(held) - held[0] < 200 * MB, f"{held[0] / MB:.0f} MB, then {max(held) / MB:.0f} MB"


async def test_the_memory_stays_bounded_while_the_store_stands_still(tmp_path: Path) -> None:
    """A hundred rows of a megabyte are offered; what is taken of them, and what it takes."""
    gate, at_gate = threading.Event(), threading.Event()
    store = LocalStore(tmp_path / "run")
    commits = Commits(store)

    def wait_at_gate() -> None:
        at_gate.set()
        gate.wait(120)

    writer = writing(Spoiled(store, wait_at_gate), commits, flush_bytes=4 * MB)
    before = psutil.Process().memory_info().rss

    async def offer() -> None:
        for number in range(100):
            text = base64.b64encode(os.urandom(MB * 3 // 4)).decode()
            await writer.add(a_row(f"row{number:03}", text=text))

    offering = asyncio.create_task(offer())
    try:
        await until(at_gate.is_set)
        await until(lambda: writer.buffered_bytes > 7 * MB)
        await asyncio.sleep(0.2)
        assert writer.buffered_bytes <= 8 * MB
        assert psutil.Process().memory_info().rss - before < 64 * MB
    finally:
        gate.set()
    await offering
    await writer.close()
    assert len(commits.log.state.accepted) == 100
    assert writer.buffered_bytes == 0
