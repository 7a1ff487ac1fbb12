"""How many sandboxes fit, what each costs, and whether all of it goes again.

    python benchmarks/density.py [N] [--limits] [--plot FILE.png]

Makes N sandboxes (default 6000) that are alive at once, through the Python engine, asks each to
echo a word of its own, ends all, and compares the machine with what it was before. What the kernel
gives back late (network namespaces, 40 s for thousands) is waited for. As root.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from machine import Machine, census_of_engine, used_mb
from rich.console import Console
from rich.table import Table

from rollout.config import EngineConf
from rollout.sandbox.alerts import BATCH, BATCH_PAUSE_S, CORE_SHARE
from rollout.sandbox.base import Sandbox, SandboxSpec
from rollout.sandbox.native import NativeEngine
from rollout.sandbox.native_sandbox import NativeSandbox
from rollout.types import Blueprint, Resources

MARKS = (100, 250, 500, 1_000, 2_000, 3_000, 4_000, 5_000, 6_000, 8_000, 10_000)
AT_ONCE = 8
LIMITS = Resources(memory_mb=512, pids=256)
SETTLE_S = 90.0


@dataclass(frozen=True)
class Mark:
    """The machine while `live` sandboxes were alive."""

    live: int
    create_ms: float
    """Each, of those made since the last mark, `AT_ONCE` at a time."""
    each_kb: float
    """Of the machine's memory, of all so far, this process left out."""
    python_kb: float
    """Of this process, each."""


async def in_turns(work: Sequence[Callable[[], Awaitable[None]]], at_once: int = AT_ONCE) -> float:
    """Do all of it, so many at a time; seconds it took."""
    turns = asyncio.Semaphore(at_once)

    async def one(piece: Callable[[], Awaitable[None]]) -> None:
        async with turns:
            await piece()

    started = time.perf_counter()
    await asyncio.gather(*(one(piece) for piece in work))
    return time.perf_counter() - started


class Crowd:
    """The sandboxes, and what they cost."""

    def __init__(self, engine: NativeEngine, spec: SandboxSpec) -> None:
        self._engine = engine
        self._spec = spec
        self._process = psutil.Process()
        self._own_mb = self._process.memory_info().rss / 2**20
        self._used_mb = used_mb()
        self.live: list[NativeSandbox] = []
        self.wrong = 0

    async def grow(self, live: int) -> Mark:
        count = live - len(self.live)
        took_s = await in_turns([self._make] * count)
        own_mb = self._process.memory_info().rss / 2**20 - self._own_mb
        all_mb = used_mb() - self._used_mb - own_mb
        return Mark(live, took_s / count * 1000, all_mb * 1024 / live, own_mb * 1024 / live)

    async def _make(self) -> None:
        self.live.append(await self._engine.create(self._spec))

    async def ask_all(self) -> float:
        return await in_turns([lambda box=box: self._ask(box) for box in self.live])

    async def _ask(self, box: Sandbox) -> None:
        result = await box.exec(["echo", box.id])
        self.wrong += result.stdout != f"{box.id}\n".encode()

    async def look_at_all(self) -> float | None:
        """Milliseconds of a core that one look at each one's limits takes, all together, as it is
        done again and again for alerts; None where nothing is limited."""
        looks = [look.look for box in self.live if (look := box.usage_alerts) is not None]

        def timed() -> float:
            started = time.thread_time()
            for look in looks:
                look()
            return (time.thread_time() - started) * 1000

        return await asyncio.to_thread(timed) if looks else None

    async def end_all(self) -> float:
        took_s = await in_turns([box.close for box in self.live])
        self.live.clear()
        return took_s


async def settle(before: Machine, found: object, root_dir: Path) -> tuple[float, Machine, bool]:
    """Wait until the machine is as before, or the patience is over."""
    started = time.perf_counter()
    while True:
        after, same = Machine.now(), census_of_engine(root_dir) == found
        waited_s = time.perf_counter() - started
        if (same and after.like(before)) or waited_s > SETTLE_S:
            return waited_s, after, same
        await asyncio.sleep(0.5)


def table(marks: Sequence[Mark]) -> Table:
    widest = max(mark.create_ms for mark in marks)
    made = Table("alive", "create, ms", "", "KB each", "Python, KB each")
    for mark in marks:
        bar = "█" * max(1, round(30 * mark.create_ms / widest))
        made.add_row(
            f"{mark.live:,}",
            f"{mark.create_ms:.2f}",
            bar,
            f"{mark.each_kb:,.0f}",
            f"{mark.python_kb:,.1f}",
        )
    return made


def plot(marks: Sequence[Mark], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, left = pyplot.subplots(figsize=(7, 4))
    live = [mark.live for mark in marks]
    left.plot(live, [mark.create_ms for mark in marks], "o-", label="create, ms")
    left.set(
        xlabel="sandboxes alive", ylabel=f"create, ms each ({AT_ONCE} at a time)", ylim=(0, None)
    )
    right = left.twinx()
    right.plot(live, [mark.each_kb for mark in marks], "s--", color="tab:orange")
    right.set(ylabel="memory, KB each (dashed)", ylim=(0, None))
    figure.tight_layout()
    figure.savefig(path, dpi=150)


async def run(count: int, resources: Resources, path: Path | None, console: Console) -> bool:
    """Whether every sandbox answered and the machine is as before."""
    with tempfile.TemporaryDirectory(prefix="rollout-bench-") as folder:
        root_dir = Path(folder)
        found, before = census_of_engine(root_dir), Machine.now()
        engine = NativeEngine(EngineConf(root_dir=folder, max_slots=2 * count + 64))
        await engine.start()
        try:
            blueprint = Blueprint(resources=resources)
            spec = SandboxSpec.for_blueprint(await engine.build(blueprint), blueprint)
            crowd = Crowd(engine, spec)
            marks = [await crowd.grow(n) for n in (*[m for m in MARKS if m < count], count)]
            held = ", ".join(crowd.live[0].limits_enforced) or "no limits"
            asked_s = await crowd.ask_all()
            looked_ms = await crowd.look_at_all()
            ended_s = await crowd.end_all()
        finally:
            await engine.close()
        waited_s, after, same = await settle(before, found, root_dir)
    made_s = sum(
        mark.create_ms / 1000 * (mark.live - last)
        for mark, last in zip(marks, [0, *(mark.live for mark in marks)], strict=False)
    )
    console.print(f"{count:,} sandboxes ({held}), {os.cpu_count()} cores, {os.uname().release}")
    console.print(table(marks))
    memory_mb = marks[-1].each_kb * count / 1024
    console.print(
        f"made in {made_s:.1f} s ({count / made_s:,.0f}/s), {memory_mb:,.0f} MB in all; "
        f"echo in each in {asked_s:.1f} s ({count / asked_s:,.0f}/s), {crowd.wrong} wrong; "
        f"ended in {ended_s:.1f} s ({count / ended_s:,.0f}/s)"
    )
    if looked_ms is not None:
        console.print(
            f"a look at the limits of all takes {looked_ms:,.0f} ms of a core, "
            f"{looked_ms / count * 1000:.0f} µs each; at most {BATCH / BATCH_PAUSE_S:,.0f} are "
            f"looked at in a second, and for {CORE_SHARE:.0%} of a core"
        )
    console.print(f"{waited_s:.0f} s later: {before} before, {after} now", highlight=False)
    console.print(
        "processes, mounts, cgroups, namespaces, loop devices and files are "
        + ("as before" if same else "NOT as before")
    )
    if path is not None:
        plot(marks, path)
        console.print(f"plotted to {path}")
    return same and after.like(before) and crowd.wrong == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("count", nargs="?", type=int, default=6_000)
    parser.add_argument("--limits", action="store_true", help="memory and pids limits for each")
    parser.add_argument("--plot", type=Path, help="a picture of the cost of each (matplotlib)")
    chosen = parser.parse_args()
    resources = LIMITS if chosen.limits else Resources()
    good = asyncio.run(run(chosen.count, resources, chosen.plot, Console(width=120)))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
