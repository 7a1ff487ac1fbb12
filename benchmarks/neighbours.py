"""What one sandbox that runs wild costs another, and the worker that serves both.

    python benchmarks/neighbours.py [--seconds N] [--engine KIND] [BOMB...]

One sandbox after the other does the worst that its limits allow; meanwhile another runs `true`
over and over, and this process's own event loop notes how late it is woken. Before each bomb the
same is measured in quiet, and the ratios are to that. Times are milliseconds.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from rollout.config import EngineConf
from rollout.errors import SandboxError
from rollout.executor.engines import make_engine
from rollout.sandbox.base import Engine, Sandbox, SandboxSpec
from rollout.types import Blueprint, Resources

LIMITS = Resources(cpu=1, memory_mb=256, pids=256, disk_mb=256)
SETTINGS = {"cpu": "cpu", "memory": "memory_mb", "pids": "pids", "disk": "disk_mb"}
TICK_S = 0.002
BUILDING_UP_S = 0.5
"""Until a bomb is what it is."""
TOO_LATE = 10.0
"""A p95 of so many times the quiet one is named at the end."""

Bomb = Callable[[Sandbox], Awaitable[None]]


def program(script: str) -> Bomb:
    """Again and again: the limits end most of them soon."""

    async def run(box: Sandbox) -> None:
        while True:
            with suppress(SandboxError):
                await box.exec(["sh", "-c", script], timeout_s=600)
            await asyncio.sleep(0.01)

    return run


async def flood_a_terminal(box: Sandbox) -> None:
    """Whose output is taken as fast as it comes, as `shell` does."""
    async with await box.start(["yes"], pty=True) as flood:
        async for _ in flood:
            pass


async def flood_untaken(box: Sandbox) -> None:
    async with await box.start(["yes"]):
        await asyncio.sleep(600)


PYTHON = "exec /usr/bin/python3 -c"
BOMBS: dict[str, Bomb] = {
    "fork bomb": program("bomb() { bomb | bomb & }; bomb; sleep 600"),
    "memory hog": program(f"{PYTHON} \"a = []\nwhile True: a.append(b'x' * (1 << 20))\""),
    "cpu hogs": program("for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done; wait"),
    "disk fill": program("cat /dev/zero > /srv/big; sync /srv/big; rm /srv/big"),
    "inode fill": program(
        f"{PYTHON} \"import itertools\nfor n in itertools.count(): open(f'/srv/{{n}}', 'w')\""
    ),
    "output flood": program("yes & yes >&2; wait"),
    "output flood, untaken": flood_untaken,
    "log flood": program("yes > /proc/1/fd/1 2>&1; (yes &) ; yes > /dev/console; sleep 1"),
    "pty flood": flood_a_terminal,
    "starting and ending": program(
        f'{PYTHON} "import os\nwhile True: os.wait() if os.fork() else os._exit(0)"'
    ),
}


@dataclass
class Seen:
    """Of one stretch of time."""

    exec_ms: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)
    failed: int = 0

    async def look(self, box: Sandbox, seconds: float) -> "Seen":
        ticking = asyncio.ensure_future(self._tick())
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            began = time.perf_counter()
            try:
                result = await box.exec(["true"], timeout_s=30)
                self.failed += not result.ok
            except SandboxError:
                self.failed += 1
            self.exec_ms.append((time.perf_counter() - began) * 1000)
        ticking.cancel()
        return self

    async def _tick(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(TICK_S)
            self.late_ms.append((time.perf_counter() - began - TICK_S) * 1000)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values) or [0.0]
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


async def suffer(
    engine: Engine, spec: SandboxSpec, bomb: Bomb, seconds: float
) -> tuple[Seen, Seen]:
    """In quiet and beside the bomb, which is gone afterwards."""
    victim, bomber = await engine.create(spec), await engine.create(spec)
    try:
        await Seen().look(victim, 0.2)  # the first ones are slower
        quiet = await Seen().look(victim, seconds)
        running = asyncio.ensure_future(bomb(bomber))
        await asyncio.sleep(BUILDING_UP_S)
        beside = await Seen().look(victim, seconds)
        running.cancel()
        with suppress(asyncio.CancelledError, SandboxError):
            await running
    finally:
        await bomber.close()
        await victim.close()
    return quiet, beside


async def main(kind: str, seconds: float, names: list[str]) -> None:
    console = Console(width=140)
    table = Table("beside", "exec p50", "p95", "p99", "loop p50", "p95", "p99", "failed", box=None)
    late: list[str] = []
    with tempfile.TemporaryDirectory(prefix="rollout-neighbours-") as folder:
        engine = make_engine(EngineConf(kind=kind, root_dir=folder), "neighbours")
        await engine.start()
        try:
            held = {
                setting: getattr(LIMITS, setting)
                for limit, setting in SETTINGS.items()
                if limit in engine.limits
            }
            blueprint = Blueprint(resources=Resources(**held))
            spec = SandboxSpec.for_blueprint(await engine.build(blueprint), blueprint)
            console.print(f"{kind}: each sandbox with {held}, {seconds:g} s each")
            for name in names:
                quiet, beside = await suffer(engine, spec, BOMBS[name], seconds)
                table.add_row(name, *cells(quiet, beside), str(beside.failed or ""))
                if percentile(beside.exec_ms, 0.95) > TOO_LATE * percentile(quiet.exec_ms, 0.95):
                    late.append(name)
        finally:
            await engine.close()
    console.print(table)
    if late:
        console.print(f"more than {TOO_LATE:g} times as slow at p95: {', '.join(late)}")


def cells(quiet: Seen, beside: Seen) -> list[str]:
    found = []
    for part in ("exec_ms", "late_ms"):
        for share in (0.5, 0.95, 0.99):
            before, now = (percentile(getattr(seen, part), share) for seen in (quiet, beside))
            found.append(f"{now:.2f} ({now / max(before, 0.01):.1f}×)")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bombs", nargs="*", metavar="BOMB", help=", ".join(BOMBS))
    parser.add_argument("--seconds", type=float, default=3.0, help="of each stretch")
    parser.add_argument("--engine", default="native")
    arguments = parser.parse_args()
    asked = arguments.bombs or list(BOMBS)
    if unknown := set(asked) - set(BOMBS):
        parser.error(f"{', '.join(sorted(unknown))}: none of {', '.join(BOMBS)}")
    asyncio.run(main(arguments.engine, arguments.seconds, asked))
