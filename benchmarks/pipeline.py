"""Where the time of a rollout goes: `python benchmarks/pipeline.py` (as root).

One-command rollouts (a script agent, a command that scores in a clean sandbox on the agent's
frozen files, limits on memory and pids) through both executors on the native engine, into a
dataset on disk; and, in the same run, the sandbox operations that such a rollout is made of, done
directly on the engine. What is left between the two is the price of everything around them.
"""

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from rollout.config import (
    EngineConf,
    ExecutorConf,
    PoolConf,
    RetryConf,
    StoreConf,
    TimeoutsConf,
)
from rollout.dataset.reader import RolloutDataset, open_dataset
from rollout.dataset.run import begin
from rollout.dataset.store import open_store
from rollout.executor.base import Executor, RunPlan
from rollout.executor.local import LocalExecutor
from rollout.executor.ray import RayExecutor
from rollout.plan import make_specs
from rollout.report.render import duration
from rollout.report.summary import summarise
from rollout.sandbox.base import SandboxSpec
from rollout.sandbox.native import NativeEngine
from rollout.types import (
    Arm,
    Blueprint,
    BuildStep,
    Plugin,
    Resources,
    ScoreMode,
    Task,
    Verifier,
    canonical_json,
)

AGENT = "echo hi > /app/out"
SCORE = 'test "$(cat /app/out)" = hi'
BLUEPRINT = Blueprint(
    steps=(BuildStep(op="workdir", dest="/app"),),
    resources=Resources(memory_mb=256, pids=64),
)
SAMPLE_S = 0.2
EXECUTORS: dict[str, Callable[[], Executor]] = {"local": LocalExecutor, "ray": RayExecutor}
RAW_STEPS = ("create", "exec", "end as image", "create on it", "exec again", "close", "discard")


@dataclass(frozen=True)
class Size:
    """How much is run."""

    tasks: int
    samples: int
    at_once: int
    raw: int

    @property
    def rollouts(self) -> int:
        return self.tasks * self.samples


# ---------------------------------------------------------------- the operations alone


async def measure_raw(root_dir: str, size: Size) -> tuple[dict[str, list[float]], float]:
    """Milliseconds of each operation done one after another, and rounds a second at once."""
    engine = NativeEngine(EngineConf(root_dir=root_dir), owner="pipeline")
    times: dict[str, list[float]] = {name: [] for name in RAW_STEPS}
    await engine.start()
    try:
        image = await engine.build(BLUEPRINT)
        spec = SandboxSpec.for_blueprint(image, BLUEPRINT)
        await raw_round(engine, spec, {name: [] for name in RAW_STEPS})
        for _ in range(size.raw // 4):
            await raw_round(engine, spec, times)
        rate = await raw_rate(engine, spec, size)
    finally:
        await engine.close()
    return times, rate


async def raw_round(engine: NativeEngine, spec: SandboxSpec, times: dict[str, list[float]]) -> None:
    """What one rollout asks of the engine."""
    clock = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        times[name].append((now - clock) * 1_000)
        clock = now

    box = await engine.create(spec)
    lap("create")
    await box.exec(["sh", "-c", AGENT])
    lap("exec")
    scene = await box.end_as_image()
    lap("end as image")
    box = await engine.create(SandboxSpec(image=scene, resources=spec.resources))
    lap("create on it")
    verdict = await box.exec(["sh", "-c", SCORE])
    lap("exec again")
    await box.close()
    lap("close")
    await engine.discard(scene)
    lap("discard")
    if not verdict.ok:
        raise SystemExit(f"the bare operations do not work: {verdict}")


async def raw_rate(engine: NativeEngine, spec: SandboxSpec, size: Size) -> float:
    """Rounds a second with as many at once as one worker has episodes."""
    left = iter(range(size.raw))

    async def work() -> None:
        for _ in left:
            await raw_round(engine, spec, {name: [] for name in RAW_STEPS})

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(size.at_once)))
    return size.raw / (time.perf_counter() - start)


# ---------------------------------------------------------------- the whole path


def make_plan(kind: str, folder: Path, root_dir: str, size: Size) -> RunPlan:
    """A run of generated tasks, all of one blueprint."""
    arm = Arm(
        name="default",
        agent=Plugin(
            target="rollout.agents.script.Script", params=canonical_json({"script": AGENT})
        ),
        scorer=Plugin(target="rollout.scorers.command.Command"),
        score_mode=ScoreMode.FORK,
    )
    tasks = tuple(
        Task(
            id=f"echo-{number:04d}",
            instruction="Write hi into /app/out.",
            blueprint=BLUEPRINT,
            verifier=Verifier(command=SCORE),
            agent_timeout_s=60.0,
        )
        for number in range(size.tasks)
    )
    return RunPlan(
        run_id=kind,
        run_uri=str(folder / kind),
        arms=(arm,),
        tasks=tasks,
        specs=make_specs(kind, (arm,), tasks, size.samples),
        engine=EngineConf(kind="native", root_dir=root_dir),
        pool=PoolConf(),
        retry=RetryConf(),
        timeouts=TimeoutsConf(),
        executor=ExecutorConf(kind=kind, episodes_per_worker=size.at_once, dashboard=False),
        store=StoreConf(uri=str(folder)),
    )


async def run_plan(executor: Executor, plan: RunPlan) -> None:
    store = open_store(plan.run_uri)
    try:
        begin(store, {"name": plan.run_id}, {})
    finally:
        store.close()
    async for _ in executor.run(plan):
        pass


# ---------------------------------------------------------------- who used the processors


ROLES = (
    ("launcher", "rollout-box launch"),
    ("inits", "rollout-box init"),
    ("local worker", "rollout.executor.local_worker"),
    ("ray actors", "ray::"),
    ("ray itself", "ray/"),
)


@dataclass
class Processors:
    """CPU seconds by role, looked up again and again, since processes end."""

    seen: dict[tuple[int, float], tuple[str, float, float]] = field(default_factory=dict)

    def look(self) -> None:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                self._note(process)

    def _note(self, process: psutil.Process) -> None:
        command = " ".join(process.cmdline())
        role = next((role for role, sign in ROLES if sign in command), "")
        if process.pid == os.getpid():
            role = "driver"
        if role:
            used = process.cpu_times()
            own, reaped = used.user + used.system, used.children_user + used.children_system
            self.seen[process.pid, process.create_time()] = (role, own, reaped)

    def by_role(self) -> dict[str, float]:
        """What a launcher reaped were sandboxes; what others reaped stands under its own role."""
        seconds: dict[str, float] = {}
        for role, own, reaped in self.seen.values():
            seconds[role] = seconds.get(role, 0.0) + own
            if role == "launcher":
                seconds["sandboxes"] = seconds.get("sandboxes", 0.0) + reaped
        seconds.pop("inits", None)
        return seconds


@contextlib.contextmanager
def watched() -> Iterator[dict[str, float]]:
    """CPU seconds by role that the block used; filled when it ends."""
    used: dict[str, float] = {}
    before, after, ended = Processors(), Processors(), threading.Event()
    before.look()

    def watch() -> None:
        while not ended.wait(SAMPLE_S):
            after.look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield used
    finally:
        after.look()
        ended.set()
        thread.join()
        earlier = before.by_role()
        used.update({k: v - earlier.get(k, 0.0) for k, v in after.by_role().items()})


# ---------------------------------------------------------------- what is printed


def tell_raw(times: dict[str, list[float]], rate: float, size: Size) -> None:
    print(f"\nthe operations alone, one after another ({len(times['create'])} rounds)")
    tell_times(times)
    total = sum(float(np.median(values)) for values in times.values())
    print(f"  {'sum of medians':<14} {duration(total):>10}")
    print(f"  {rate:.1f} rounds/s with {size.at_once} at once")


def tell_times(times: dict[str, list[float]]) -> None:
    for name, values in times.items():
        p50, p95 = np.percentile(values, [50, 95])
        print(f"  {name:<14} {duration(p50):>10} p50 {duration(p95):>10} p95")


def tell_run(kind: str, dataset: RolloutDataset, wall_s: float, raw_per_s: float) -> float:
    summary = summarise(dataset)
    (arm,) = summary.arms
    times = dataset.scan(columns=["started_at", "finished_at"])
    first = min(times["started_at"].to_pylist())
    last = max(times["finished_at"].to_pylist())
    per_s = arm.committed / (last - first).total_seconds()
    print(f"\nexecutor={kind}: {arm.committed} rollouts in {wall_s:.1f} s with start and end")
    print(f"  outcomes {dict(arm.outcomes)}, mean reward {arm.mean_reward}")
    for name, stage in summary.stages.items():
        shown = f"{duration(stage.p50_ms):>10} p50 {duration(stage.p95_ms):>10} p95"
        print(f"  {name:<14} {shown}")
    print(
        f"  {per_s:.1f} rollouts/s after start-up, {per_s / raw_per_s:.2f} of the bare operations"
    )
    return per_s


def tell_processors(used: dict[str, float], rollouts: int) -> None:
    for role, seconds in sorted(used.items(), key=lambda pair: -pair[1]):
        if seconds >= 0.05:
            each = duration(seconds / rollouts * 1_000)
            print(f"  {role:<14} {seconds:>8.1f} s of processor, {each} each")


def main(argv: Sequence[str]) -> None:
    options = parse(argv)
    size = Size(options.tasks, options.samples, options.at_once, options.raw)
    with tempfile.TemporaryDirectory(prefix="rollout-pipeline-") as place:
        folder = Path(place)
        root_dir = options.root_dir or str(folder / "engine")
        times, raw_per_s = asyncio.run(measure_raw(root_dir, size))
        tell_raw(times, raw_per_s, size)
        for kind in options.executors:
            plan = make_plan(kind, folder, root_dir, size)
            start = time.perf_counter()
            with watched() as used:
                asyncio.run(run_plan(EXECUTORS[kind](), plan))
            wall_s = time.perf_counter() - start
            with open_dataset(plan.run_uri) as dataset:
                tell_run(kind, dataset, wall_s, raw_per_s)
            tell_processors(used, size.rollouts)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tasks", type=int, default=50)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--at-once", type=int, default=16, help="episodes of the one worker")
    parser.add_argument("--raw", type=int, default=200, help="rounds of the bare operations")
    parser.add_argument("--root-dir", default="", help="engine.root_dir; default: a new folder")
    parser.add_argument("--executors", nargs="+", choices=EXECUTORS, default=list(EXECUTORS))
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(sys.argv[1:])
