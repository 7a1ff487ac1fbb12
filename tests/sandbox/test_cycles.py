"""Sandboxes by the thousand leave nothing behind, and neither does a kill in the midst of them."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rollout.sandbox.cgroups import Hierarchies
from rollout.sandbox.native import NativeEngine
from rollout.types import Resources
from tests.sandbox.harness import until_empty
from tests.sandbox.test_native import RANGE, conf, leftovers, make, out

pytestmark = pytest.mark.native

CYCLES = 1_000
WARM_UP = 100
AT_ONCE = 4
LIMITS = Resources(memory_mb=256, pids=64)
BATCH = re.compile(r"b\d+")
MEMORY_SLACK_MB = 8
"""Of each process; a leak of 10 KB a sandbox would be more."""
DESCRIPTOR_SLACK = 8
"""Things made ahead come and go."""
CGROUP_SLACK = 300
"""Memory directories that the kernel keeps for a moment, and those of whoever else is at work."""


async def cycle(engine: NativeEngine, count: int) -> None:
    turns = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with turns:
            box = await make(engine, resources=LIMITS)
            await out(box, "mkdir -p /tmp/a/b && ln -s / /tmp/a/b/root && echo x > /usr/x")
            await box.close()

    await asyncio.gather(*(one() for _ in range(count)))


def helpers() -> list[psutil.Process]:
    """The launcher with its own processes, and the clearer."""
    return [p for p in psutil.Process().children(recursive=True) if "rollout-b" in p.name()]


def descriptors() -> list[int]:
    return [process.num_fds() for process in (psutil.Process(), *helpers())]


def memory_mb() -> list[float]:
    return [p.memory_info().rss / 2**20 for p in (psutil.Process(), *helpers())]


def zombies() -> list[tuple[int, str]]:
    """Below the helpers; of this process they may be another test's, that it reaps in its time."""
    children = [child for helper in helpers() for child in helper.children(recursive=True)]
    return [(p.pid, p.name()) for p in children if p.status() == psutil.STATUS_ZOMBIE]


def memory_cgroups() -> int:
    """Those that the kernel knows of, removed ones that it could not yet let go included."""
    lines = [line.split() for line in Path("/proc/cgroups").read_text().splitlines()]
    return next((int(line[2]) for line in lines if line[0] == "memory"), 0)


def standing(owner: Path) -> Iterator[str]:
    """Folders, mounts and cgroups of the engine that come and go with sandboxes."""
    yield from (str(path) for path in (owner / "b").iterdir())
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    yield from (line for line in mounts if str(owner.parents[1]) in line)
    for point in Hierarchies.of_machine().mount_points:
        for folder, _, _ in os.walk(point / "rollout" / owner.name):
            if not BATCH.fullmatch(Path(folder).name):  # of which one is open at any time
                yield folder


async def test_a_thousand_sandboxes_leave_no_trace(tmp_path: Path) -> None:
    engine = NativeEngine(conf(tmp_path))
    await engine.start()
    try:
        (owner,) = (tmp_path / "owners").iterdir()
        await cycle(engine, WARM_UP)
        await until_empty(lambda: list((owner / "b").iterdir()), "left by the first")
        stood, open_before, held_mb = sorted(standing(owner)), descriptors(), memory_mb()
        cgroups_before = memory_cgroups()
        await cycle(engine, CYCLES)
        await until_empty(
            lambda: set(standing(owner)) ^ set(stood),
            "other folders, mounts or cgroups than before",
        )
        await until_empty(zombies, "not reaped")
        assert len(helpers()) == len(held_mb) - 1
        more = [now - was for now, was in zip(descriptors(), open_before, strict=True)]
        assert max(more) <= DESCRIPTOR_SLACK, more
        grown = [now - was for now, was in zip(memory_mb(), held_mb, strict=True)]
        assert max(grown) < MEMORY_SLACK_MB, grown
    finally:
        await engine.close()
    await until_empty(lambda: leftovers(tmp_path), "left behind")
    await until_empty(
        lambda: memory_cgroups() > cgroups_before + CGROUP_SLACK and memory_cgroups(),
        f"memory cgroups; there were {cgroups_before}",
    )


async def test_kills_amid_many_sandboxes_leave_nothing_after_the_next_start(
    tmp_path: Path,
) -> None:
    uid_base = conf(tmp_path).uid_base
    cycling = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.sandbox.native_cycles", str(tmp_path), str(uid_base)),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    out = cycling.stdout
    assert out is not None
    for _ in range(50):
        assert await out.readline() not in (b"", b"lost\n")
    (launcher,) = [p for p in psutil.Process(cycling.pid).children() if "launch" in p.cmdline()]
    launcher.kill()
    lines = [await out.readline() for _ in range(50)]
    assert b"lost\n" in lines
    assert lines[-1] not in (b"", b"lost\n")  # it goes on with another launcher
    os.kill(cycling.pid, signal.SIGKILL)
    await cycling.wait()
    engine = NativeEngine(conf(tmp_path))
    await engine.start()
    try:
        (living,) = (tmp_path / "owners").iterdir()
        await until_empty(lambda: in_range(uid_base), "processes of dead sandboxes")
        assert [p for p in living.parent.iterdir() if p != living] == []
    finally:
        await engine.close()
    assert leftovers(tmp_path) == []


def in_range(uid_base: int) -> list[int]:
    """Processes of the sandboxes that one block of uid ranges is for, but those that `engine`,
    which has none alive, may still be ending."""
    found = []
    for process in psutil.process_iter():
        try:
            if uid_base <= process.uids().real < uid_base + 64 * RANGE:
                found.append(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found
