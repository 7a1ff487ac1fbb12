"""What the log and the dataset cost at size: `python benchmarks/dataset.py [1000000]`.

Synthetic trajectories, no sandboxes. First the log: so many rollouts are leased and committed
through the real coordinator into the real log, then read back by readers in processes of their
own. Then the data: rows go through the writer into S3 (moto_server on 127.0.0.1), against bare
boto3 puts of the same bytes to the same server, and against pyarrow writing them to memory.
"""

import argparse
import asyncio
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from rollout.config import (
    EngineConf,
    ExecutorConf,
    PoolConf,
    RetryConf,
    StoreConf,
    TimeoutsConf,
)
from rollout.dataset.base import CommitReply, CommitRequest, Part
from rollout.dataset.log import CommitLog
from rollout.dataset.reader import RolloutDataset
from rollout.dataset.rows import to_batch
from rollout.dataset.store import LocalStore, Store, open_store
from rollout.dataset.writer import DatasetWriter, row_bytes
from rollout.executor.base import Heartbeat, RunPlan
from rollout.executor.coordinator import RunCoordinator
from rollout.plan import make_specs
from rollout.types import (
    Arm,
    Attempt,
    Blueprint,
    Lease,
    Message,
    Outcome,
    Plugin,
    RolloutSpec,
    Task,
    Trajectory,
    Verifier,
)

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = 8
TURNS = 16
LIST_PAGE = 1_000
"""Names that one S3 request lists."""
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
READERS = {
    "a reader opens the run": "state = RolloutDataset(store).state",
    "a coordinator loads it": "log = CommitLog(store, 'next'); state = log.load()",
}


class Counting:
    """A store, and how many requests of each kind S3 would have been sent in its place."""

    def __init__(self, inner: Store) -> None:
        self.inner, self.uri = inner, inner.uri
        self.asked: Counter[str] = Counter()

    def put_if_absent(self, path: str, data: bytes) -> bool:
        self.asked["put"] += 1
        return self.inner.put_if_absent(path, data)

    def get(self, path: str) -> bytes:
        self.asked["get"] += 1
        return self.inner.get(path)

    def list(self, prefix: str, after: str = "") -> list[str]:
        found = self.inner.list(prefix, after)
        self.asked["list"] += max(1, math.ceil(len(found) / LIST_PAGE))
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


# ---------------------------------------------------------------- the log


@dataclass(frozen=True)
class Size:
    """How much is run."""

    rows: int
    workers: int
    rows_per_part: int


def make_plan(uri: str, size: Size) -> RunPlan:
    """A run of generated tasks; nobody will ever work on them."""
    arm = Arm(
        name="default",
        agent=Plugin(target="rollout.agents.nop.Nop"),
        scorer=Plugin(target="rollout.scorers.command.Command"),
    )
    tasks = tuple(
        Task(
            id=f"task-{number:06d}",
            instruction="Do nothing.",
            blueprint=Blueprint(),
            verifier=Verifier(command="true"),
        )
        for number in range(math.ceil(size.rows / SAMPLES))
    )
    return RunPlan(
        run_id="dataset",
        run_uri=uri,
        arms=(arm,),
        tasks=tasks,
        specs=make_specs("dataset", (arm,), tasks, SAMPLES)[: size.rows],
        engine=EngineConf(),
        pool=PoolConf(),
        retry=RetryConf(),
        timeouts=TimeoutsConf(),
        executor=ExecutorConf(kind="local", lease_ttl_s=3600.0),
        store=StoreConf(uri=uri),
    )


async def fill(coordinator: RunCoordinator, size: Size) -> list[float]:
    """Lease and commit all there is, as so many workers would; seconds that each commit took."""
    waited: list[float] = []

    async def work(name: str) -> None:
        await coordinator.register(name, "here", 0)
        for number in range(sys.maxsize):
            leases = await leased(coordinator, name, size.rows_per_part)
            if not leases:
                return
            held = tuple(lease.spec.trajectory_id for lease in leases)
            await coordinator.heartbeat(Heartbeat(worker=name, epoch=1, state="", held=held))
            start = time.perf_counter()
            reply = await coordinator.commit(request_of(name, number, leases))
            waited.append(time.perf_counter() - start)
            if not reply.accepted:
                raise SystemExit(f"a part was refused: {reply}")

    await asyncio.gather(*(work(f"w{number:04d}") for number in range(size.workers)))
    return waited


async def leased(coordinator: RunCoordinator, worker: str, count: int) -> list[Lease]:
    """As many leases as make one part, or what is left."""
    leases: list[Lease] = []
    while len(leases) < count:
        reply = await coordinator.lease(worker, min(16, count - len(leases)))
        if not reply.leases:
            break
        leases += reply.leases
    return leases


def request_of(worker: str, number: int, leases: Sequence[Lease]) -> CommitRequest:
    """The part is named and never written: this is about the log."""
    path = f"trajectories/writer={worker}/e0001-{number:06d}-00000000.parquet"
    part = Part(table="trajectories", path=path, rows=len(leases), bytes=1 << 20, sha256="0" * 64)
    return CommitRequest(
        worker=worker,
        epoch=1,
        parts=(part,),
        trajectory_ids=tuple(lease.spec.trajectory_id for lease in leases),
        outcomes=(Outcome.OK,) * len(leases),
        rewards=(1.0,) * len(leases),
        attempts=tuple((attempt_of(worker),) for _ in leases),
    )


def attempt_of(worker: str) -> Attempt:
    ok = Outcome.OK
    return Attempt(epoch=1, n=1, outcome=ok, worker=worker, started_at=AT, finished_at=AT)


async def measure_log(folder: Path, size: Size) -> None:
    store = Counting(LocalStore(folder))
    before_mb = used_mb()
    plan = make_plan(str(folder), size)
    print(f"\nthe log: {len(plan.specs):,} rollouts, {size.rows_per_part} in a part")
    tell("memory of the plan", f"{used_mb() - before_mb:,.0f} MB")
    coordinator = RunCoordinator(plan, CommitLog(store, "benchmark"))
    start = time.perf_counter()
    await coordinator.start()
    tell("start on an empty log", f"{time.perf_counter() - start:.2f} s")
    planned_mb, start = used_mb(), time.perf_counter()
    waited = await fill(coordinator, size)
    took_s = time.perf_counter() - start
    tell("commits", f"{len(waited) / took_s:,.0f} parts/s, {len(plan.specs) / took_s:,.0f} rows/s")
    waited.sort()
    p50_ms, p99_ms = waited[len(waited) // 2] * 1e3, waited[len(waited) * 99 // 100] * 1e3
    tell("one commit", f"{p50_ms:.0f} ms p50, {p99_ms:.0f} ms p99")
    tell("memory it took more", f"{used_mb() - planned_mb:,.0f} MB")
    start = time.perf_counter()
    await coordinator.close()
    tell("finish", f"{time.perf_counter() - start:.2f} s")
    tell_requests("requests to the store", store.asked, len(plan.specs))
    logged = [path for path in (folder / "_log").rglob("*") if path.is_file()]
    bytes_ = sum(path.stat().st_size for path in logged)
    each = bytes_ / len(plan.specs)
    tell("the log", f"{len(logged):,} objects, {bytes_ / 2**20:,.1f} MB, {each:.0f} bytes a row")


def measure_readers(folder: Path, size: Size) -> None:
    """Each in a process of its own: its time, its memory, its requests."""
    for what, code in READERS.items():
        command = [sys.executable, __file__, "--read", code, str(folder)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seen = json.loads(done.stdout)
        if seen["rows"] != size.rows:
            raise SystemExit(f"{what} and sees {seen['rows']} rows of {size.rows}")
        tell(what, f"{seen['s']:.2f} s, {seen['mb']:,.0f} MB")
        tell_requests("  its requests", Counter(seen["asked"]), size.rows)


def read(code: str, folder: str) -> None:
    """What `measure_readers` has run."""
    store = Counting(LocalStore(folder))
    names = {"RolloutDataset": RolloutDataset, "CommitLog": CommitLog, "store": store}
    before_mb, start = used_mb(), time.perf_counter()
    exec(code, names)
    took_s = time.perf_counter() - start
    rows = len(names["state"].accepted)
    told = {"s": took_s, "mb": used_mb() - before_mb, "rows": rows, "asked": store.asked}
    print(json.dumps(told))


# ---------------------------------------------------------------- the data


def make_rows(count: int, row_kb: int) -> list[Trajectory]:
    """Conversations of random words, which compress about as texts do."""
    drawn = random.Random(0)
    words = [f"{drawn.getrandbits(17):x}" for _ in range(20_000)]
    each = row_kb * 1024 // TURNS

    def message() -> Message:
        text = " ".join(drawn.choices(words, k=each // 5))
        return Message(role="tool", content=text[:each])

    return [row_of(number, tuple(message() for _ in range(TURNS))) for number in range(count)]


def row_of(number: int, messages: tuple[Message, ...]) -> Trajectory:
    spec = RolloutSpec(
        trajectory_id=f"{number:032x}",
        group_id=f"{number // SAMPLES:032x}",
        arm="default",
        task_id=f"task-{number // SAMPLES}",
        sample=number % SAMPLES,
        group_size=SAMPLES,
    )
    return Trajectory(
        run_id="dataset",
        spec=spec,
        epoch=1,
        attempt=1,
        outcome=Outcome.OK,
        reward=1.0,
        messages=messages,
        attempts=(attempt_of("w0000"),),
        started_at=AT,
        finished_at=AT,
    )


async def write_all(store: Store, rows: Sequence[Trajectory], flush_mb: float) -> float:
    """Seconds that the writer takes until all of it is committed."""
    log = CommitLog(store, "benchmark")
    log.announce()

    async def commit(request: CommitRequest) -> CommitReply:
        (reply,) = await asyncio.to_thread(log.commit, [request], {})
        return reply

    writer = DatasetWriter(
        store,
        worker="w0000",
        epoch=log.epoch,
        format="parquet",
        flush_bytes=int(flush_mb * 2**20),
        flush_s=3600.0,
        commit=commit,
    )
    start = time.perf_counter()
    for row in rows:
        await writer.add(row)
    await writer.close()
    return time.perf_counter() - start


def put_bare(endpoint: str, bucket: str, bodies: Sequence[bytes]) -> float:
    """Seconds for the same bytes, by boto3 as its manual says."""
    client = boto3.session.Session().client("s3", endpoint_url=endpoint)
    start = time.perf_counter()
    for number, body in enumerate(bodies):
        client.put_object(Bucket=bucket, Key=f"bare/{number}", Body=body)
    took_s = time.perf_counter() - start
    client.close()
    return took_s


def encode_only(rows: Sequence[Trajectory], tables: int) -> tuple[float, float]:
    """Seconds to make tables of the rows, and then for pyarrow to write these as Parquet."""
    start, step = time.perf_counter(), math.ceil(len(rows) / tables)
    made = [to_batch(rows[at : at + step]) for at in range(0, len(rows), step)]
    built_s, start = time.perf_counter() - start, time.perf_counter()
    for table in made:
        pq.write_table(table, pa.BufferOutputStream(), compression="zstd")
    return built_s, time.perf_counter() - start


async def measure_data(folder: Path, mb: int, row_kb: int, flush_mb: float) -> None:
    sys.path.append(str(ROOT))
    from tests.s3_server import BUCKET, CREDENTIALS, s3_server

    os.environ.update(CREDENTIALS)
    rows = make_rows(mb * 1024 // row_kb, row_kb)
    raw_mb = sum(map(row_bytes, rows)) / 2**20
    print(f"\nthe data: {len(rows):,} rows of {row_kb} kB, {flush_mb:g} MB buffered for a part")
    with s3_server(folder / "moto") as endpoint:
        store = open_store(f"s3://{BUCKET}/run", endpoint_url=endpoint)
        writer_s = await write_all(store, rows, flush_mb)
        bodies = [store.get(path) for path in store.list("trajectories/")]
        bare_s = put_bare(endpoint, BUCKET, bodies)
        store.close()
    built_s, encoded_s = encode_only(rows, len(bodies))
    put_mb = sum(map(len, bodies)) / 2**20
    tell("parts", f"{len(bodies)} of {put_mb / len(bodies):.1f} MB each")
    tell("the writer into S3", f"{writer_s:.2f} s, {put_mb / writer_s:.1f} MB/s of parts")
    tell("bare puts of the parts", f"{bare_s:.2f} s, {put_mb / bare_s:.1f} MB/s of parts")
    tell("rows to tables", f"{built_s:.2f} s, {raw_mb / built_s:.1f} MB/s of rows")
    tell("tables to Parquet", f"{encoded_s:.2f} s, {raw_mb / encoded_s:.1f} MB/s of rows")
    tell("against the bare puts", f"{bare_s / writer_s:.0%} (goal: 80 %)")
    tell("against writing Parquet", f"{encoded_s / writer_s:.0%}")


# ---------------------------------------------------------------- what is printed


def used_mb() -> float:
    return psutil.Process().memory_info().rss / 2**20


def tell(what: str, figure: str) -> None:
    print(f"  {what:<26} {figure}", flush=True)


def tell_requests(what: str, asked: Counter[str], rows: int) -> None:
    each = ", ".join(f"{count:,} {kind}" for kind, count in asked.most_common())
    tell(what, f"{each}: {sum(asked.values()) * 1_000 / rows:.2f} for 1,000 rows")


def main(argv: Sequence[str]) -> None:
    options = parse(argv)
    if options.read:
        read(*options.read)
        return
    size = Size(options.rows, options.workers, options.rows_per_part)
    with tempfile.TemporaryDirectory(prefix="rollout-dataset-") as place:
        folder = Path(place)
        asyncio.run(measure_log(folder / "run", size))
        measure_readers(folder / "run", size)
        asyncio.run(measure_data(folder, options.mb, options.row_kb, options.flush_mb))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("rows", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--rows-per-part", type=int, default=100)
    parser.add_argument("--mb", type=int, default=512, help="of rows that the writer gets")
    parser.add_argument("--row-kb", type=int, default=128)
    parser.add_argument("--flush-mb", type=float, default=StoreConf().flush_mb)
    parser.add_argument("--read", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(sys.argv[1:])
