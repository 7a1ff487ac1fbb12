"""Limits of the native engine as the kernel holds them: groups, the watcher, alerts, ends."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from rollout.errors import OutOfMemory, SandboxLost
from rollout.sandbox.base import SandboxSpec
from rollout.sandbox.controllers import MIB
from rollout.sandbox.native import NativeEngine
from rollout.sandbox.native_sandbox import NativeSandbox
from rollout.sandbox.watcher import Watcher
from rollout.types import Resources
from tests.sandbox.harness import PATIENCE_S, exists, needs_btrfs, until_empty
from tests.sandbox.test_native import conf, engine, leftovers, make, out

__all__ = ["engine"]

pytestmark = pytest.mark.native

HOLD = (
    "import sys, time\n"
    "held = []\n"
    "for n, size in enumerate(sys.argv[1:]):\n"
    "    held.append(b'x' * (int(size) << 20))\n"
    "    open(f'/tmp/held{n}', 'w').close()\n"
    "    while n + 2 < len(sys.argv) and not __import__('os').path.exists('/tmp/more'):\n"
    "        time.sleep(0.01)\n"
    "time.sleep(100)\n"
)
"""Holds so many MiB, and after the file /tmp/more is there so many more."""


@asynccontextmanager
async def running(root_dir: Path, **settings: object) -> AsyncIterator[NativeEngine]:
    made = NativeEngine(replace(conf(root_dir), **settings))
    await made.start()
    try:
        if "memory" not in made.limits:
            pytest.skip("this machine has no memory controller")
        yield made
    finally:
        await made.close()
    await until_empty(lambda: leftovers(root_dir), "left behind")


@pytest.fixture
async def grouping(tmp_path: Path) -> AsyncIterator[NativeEngine]:
    """Two sandboxes share each memory directory."""
    async with running(tmp_path, memory_cgroups="group", memory_group_size=2) as made:
        yield made


async def limited(engine: NativeEngine, **resources: float) -> NativeSandbox:
    if not engine.limits >= {name.removesuffix("_mb") for name in resources}:
        pytest.skip(f"this machine cannot limit {', '.join(resources)}")
    return await make(engine, resources=Resources(**resources))  # type: ignore[arg-type]


async def hold(box: NativeSandbox, *megabytes: int, times: int = 1) -> None:
    """Processes that hold so much each, left running in the background."""
    sizes = " ".join(str(size) for size in megabytes)
    start = f'python3 -c "$code" {sizes} >/dev/null 2>&1 &'
    await out(
        box, f"rm -f /tmp/held*; for i in $(seq {times}); do {start} done", env={"code": HOLD}
    )
    await exists(box, "/tmp/held0")


async def until(look: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await look():
            await asyncio.sleep(0.05)


async def fails_to_exec(box: NativeSandbox, script: str) -> bool:
    """Never true: for waiting until it raises."""
    await box.exec(["sh", "-c", script])
    return False


# ---------------------------------------------------------------- one each


async def test_the_kernel_takes_children_before_init(engine: NativeEngine) -> None:
    box = await make(engine)
    own = Path("/proc/self/oom_score_adj").read_text().strip()
    of_init = Path(f"/proc/{box.init_pid}/oom_score_adj")
    child = (await out(box, "cat /proc/self/oom_score_adj")).strip()
    assert (of_init.read_text().strip(), child) == (own, str(max(int(own), 500)))
    await box.write_file("/tmp/x", b"x")
    assert of_init.read_text().strip() == own


async def test_a_kill_for_memory_is_told_with_its_figures(engine: NativeEngine) -> None:
    box = await limited(engine, memory_mb=100)
    code = "a = b'x' * (200 << 20)"
    assert (await box.exec(["python3", "-c", code])).exit_code == 128 + signal.SIGKILL
    reasons = await box.limit_reasons()
    assert reasons["memory"].startswith("1 of its processes killed at the limit of 100 MiB; ")
    assert not box.out_of_memory
    assert (await out(box, "echo on")) == "on\n"


async def test_files_outlive_a_sandbox_that_memory_ended(tmp_path: Path) -> None:
    """Memory that no kill gives back: in the end the kernel takes init itself."""
    async with running(tmp_path, scratch="tmpfs") as engine:
        box = await limited(engine, memory_mb=48, disk_mb=200)
        await box.write_file("/app/kept", b"kept")
        fill = "head -c 100000000 /dev/zero >> /big"
        with pytest.raises(OutOfMemory, match=r"memory: .* killed at the limit of 48 MiB"):
            await until(lambda: fails_to_exec(box, fill))
        assert box.out_of_memory
        assert "memory" in await box.limits_hit()
        with pytest.raises(OutOfMemory):
            await box.read_file("/app/kept")
        image = await box.end_as_image()
        fork = await engine.create(SandboxSpec(image=image))
        assert await fork.read_file("/app/kept") == b"kept"


# ---------------------------------------------------------------- by group


async def test_a_group_holds_the_sum_and_goes_with_its_last_member(
    grouping: NativeEngine,
) -> None:
    one, two = await limited(grouping, memory_mb=100), await limited(grouping, memory_mb=28)
    three = await limited(grouping, memory_mb=64)
    group = _group_of(one)
    assert _group_of(two) == group
    assert _group_of(three) != group
    assert one.limits_enforced == ("memory (group)",)
    assert _limit_of(group) == 128 * MIB
    await one.close()
    assert _limit_of(group) == 28 * MIB
    four = await limited(grouping, memory_mb=10)
    assert _group_of(four) == group
    assert _limit_of(group) == 38 * MIB
    assert (await out(two, "echo lives")) == "lives\n"
    await two.close()
    await four.close()
    await until_empty(group.exists, "the group is still there")


async def test_in_a_group_no_process_passes_its_part(grouping: NativeEngine) -> None:
    box, roomy = await limited(grouping, memory_mb=100), await limited(grouping, memory_mb=300)
    code = "b'x' * (150 << 20)"
    refused = await box.exec(["python3", "-c", code])
    assert refused.stderr.rstrip().endswith(b"MemoryError")
    assert (await roomy.exec(["python3", "-c", code])).ok
    assert await box.limits_hit() == ()


async def test_in_a_group_many_processes_have_no_more_than_the_sum(
    grouping: NativeEngine,
) -> None:
    box, other = await limited(grouping, memory_mb=64), await limited(grouping, memory_mb=64)
    await out(other, "sleep 100 >/dev/null 2>&1 &")
    await hold(box, 40, times=5)
    await until(box.limits_hit)
    reasons = await box.limit_reasons()
    assert "processes of its memory group killed at the summed limit" in reasons["memory"]
    assert (await out(other, "echo lives; pgrep sleep | wc -l")).split() == ["lives", "1"]


def _group_of(box: NativeSandbox) -> Path:
    (limit,) = box._plan.limits
    return limit.folder  # type: ignore[attr-defined,no-any-return]


def _limit_of(group: Path) -> int:
    files = (group / "memory.limit_in_bytes", group / "memory.max")
    return next(int(file.read_text()) for file in files if file.exists())


# ---------------------------------------------------------------- the watcher


@contextmanager
def meminfo(tmp_path: Path, left_mb: int) -> Iterator[Path]:
    """A machine that says it has so much left."""
    file = tmp_path / "meminfo"
    file.write_text(f"MemTotal: 99999999 kB\nMemAvailable: {left_mb << 10} kB\n")
    yield file


@asynccontextmanager
async def watching(tmp_path: Path, left_mb: int, *boxes: NativeSandbox) -> AsyncIterator[None]:
    """With a reserve of 100 MiB."""
    with meminfo(tmp_path, left_mb) as file:
        watcher = Watcher(lambda: boxes, reserve_mb=100, meminfo=file)
        watcher.start()
        try:
            yield
        finally:
            await watcher.close()


async def test_the_watcher_ends_who_is_over_its_own_limit(
    grouping: NativeEngine, tmp_path: Path
) -> None:
    hog, large = await limited(grouping, memory_mb=64), await limited(grouping, memory_mb=300)
    await hold(hog, 40, times=3)
    await hold(large, 180)
    await asyncio.sleep(0.5)
    async with watching(tmp_path, 99, hog, large):
        with pytest.raises(OutOfMemory, match=r"ended by the watcher: the machine had 99 MiB left"):
            await until(lambda: fails_to_exec(hog, "sleep 0.1"))
        await asyncio.sleep(1.5)
        assert (await out(large, "echo lives")) == "lives\n"
    assert hog.out_of_memory
    reason = (await hog.limit_reasons())["memory"]
    assert " MiB of its 64 MiB" in reason
    image = await hog.end_as_image()
    assert await (await grouping.create(SandboxSpec(image=image))).read_file("/tmp/held0") == b""


async def test_the_largest_goes_only_when_the_machine_is_about_to_run_out(
    engine: NativeEngine, tmp_path: Path
) -> None:
    small, large = await limited(engine, memory_mb=100), await limited(engine, memory_mb=300)
    await hold(small, 40)
    await hold(large, 100)
    async with watching(tmp_path, 51, small, large):
        await asyncio.sleep(1.5)
        assert (await out(large, "echo lives")) == "lives\n"
    async with watching(tmp_path, 49, large, small):
        await asyncio.wait({large._launched.ended}, timeout=PATIENCE_S)
    with pytest.raises(SandboxLost, match="ended by the watcher") as lost:
        await large.exec(["true"])
    # It was within its limit, so this is no doing of its own.
    assert not isinstance(lost.value, OutOfMemory)
    assert not large.out_of_memory
    assert await large.limits_hit() == ()
    assert (await out(small, "echo lives")) == "lives\n"


async def test_every_engine_has_a_watcher(tmp_path: Path) -> None:
    """With a reserve that no machine has, so that it acts at once."""
    async with running(tmp_path, memory_reserve_mb=1 << 30) as engine:
        idle, hog = await make(engine), await make(engine)
        with pytest.raises(SandboxLost, match="and has no limit"):
            await hog.exec(["python3", "-c", HOLD, "60"], timeout_s=PATIENCE_S)
        assert (await out(idle, "echo lives")) == "lives\n"


async def test_pages_shared_since_a_fork_count_once(engine: NativeEngine) -> None:
    box = await make(engine)
    fork = "import os, time; a = b'x' * (60 << 20); [os.fork() for _ in range(2)]; " + (
        "open('/tmp/forked' + str(os.getpid()), 'w'); time.sleep(100)"
    )
    await out(box, 'python3 -c "$code" >/dev/null 2>&1 &', env={"code": fork})
    await until(lambda: _four_forks(box))
    assert box.held_bytes() > 240 * MIB
    assert 60 * MIB < box.held_bytes(closer=True) < 120 * MIB


async def test_files_in_memory_count_as_held(tmp_path: Path) -> None:
    async with running(tmp_path, scratch="tmpfs") as engine:
        box = await make(engine)
        await out(box, "head -c 50000000 /dev/zero > /srv/big")
        assert 50_000_000 <= box.held_bytes() < 60_000_000


async def _four_forks(box: NativeSandbox) -> bool:
    return (await out(box, "ls /tmp | grep -c forked || true")).strip() == "4"


# ---------------------------------------------------------------- alerts


async def levels(box: NativeSandbox, resource: str) -> list[int]:
    await asyncio.to_thread(box._alerts.look)
    return [alert.level for alert in box.alerts if alert.resource == resource]


async def test_each_level_of_memory_is_told_once(engine: NativeEngine) -> None:
    box = await limited(engine, memory_mb=300)
    assert await levels(box, "memory") == []
    await hold(box, 246, 26)
    assert await levels(box, "memory") == [80]
    assert await levels(box, "memory") == [80]
    await box.write_file("/tmp/more", b"")
    await exists(box, "/tmp/held1")
    assert await levels(box, "memory") == [80, 90]
    await box.kill_all()
    await hold(box, 275)
    assert await levels(box, "memory") == [80, 90]
    detail = box.alerts[-1].detail
    assert detail.startswith("memory at 9")
    assert detail.endswith(" of 300 MiB")


async def test_what_is_cached_of_files_is_no_cause_for_alert(engine: NativeEngine) -> None:
    box = await limited(engine, memory_mb=100)
    await out(box, "head -c 300000000 /dev/zero > /srv/big && cat /srv/big > /dev/null")
    assert await levels(box, "memory") == []


async def test_pids_alert_and_their_limit_is_told_with_its_count(engine: NativeEngine) -> None:
    box = await limited(engine, pids=20)
    start = "for i in $(seq {}); do sleep 100 >/dev/null 2>&1 & done"
    await out(box, start.format(17))
    assert await levels(box, "pids") == [80]
    await box.exec(["sh", "-c", start.format(30)], timeout_s=5)
    assert await levels(box, "pids") == [80, 90]
    reasons = await box.limit_reasons()
    assert "refused a new process at the limit of 20; " in reasons["pids"]


async def test_cpu_alerts_when_it_is_held_back_most_of_the_time(engine: NativeEngine) -> None:
    box = await limited(engine, cpu=0.2)
    idle = await limited(engine, cpu=1)
    for each in (box, idle):
        assert await levels(each, "cpu") == []
    await box.exec(["sh", "-c", "while :; do :; done"], timeout_s=2.5)
    assert await levels(box, "cpu") == [90]
    assert await levels(idle, "cpu") == []


@pytest.mark.parametrize("scratch", ["tmpfs", pytest.param("btrfs", marks=needs_btrfs)])
async def test_disk_alerts(tmp_path: Path, scratch: str) -> None:
    async with running(tmp_path, scratch=scratch) as engine:
        box = await limited(engine, disk_mb=40)
        await out(box, "head -c 35000000 /dev/zero > /srv/most")
        assert await levels(box, "disk") == [80]
        assert not (await box.exec(["sh", "-c", "head -c 35000000 /dev/zero > /srv/more"])).ok
        assert await levels(box, "disk") == [80, 90]
        assert (await box.limit_reasons())["disk"] == "was full; 40 of 40 MiB are used now"


async def test_alerts_come_by_themselves(engine: NativeEngine) -> None:
    box = await limited(engine, pids=10)
    await out(box, "for i in $(seq 9); do sleep 100 >/dev/null 2>&1 & done")
    async with asyncio.timeout(PATIENCE_S):
        while not box.alerts:
            await asyncio.sleep(0.05)
    assert [(alert.resource, alert.level) for alert in box.alerts] == [("pids", 90)]
