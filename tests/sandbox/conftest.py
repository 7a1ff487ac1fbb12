"""Engines for the contract suite, and the proof that each leaves nothing behind."""

import asyncio
import functools
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from rollout.config import EngineConf
from rollout.sandbox.base import Engine, Image, Sandbox
from rollout.sandbox.docker.engine import DockerEngine
from rollout.sandbox.memory import MemoryEngine
from rollout.sandbox.native import NativeEngine
from rollout.types import Blueprint
from tests.census import cgroups, loop_devices
from tests.conftest import DEBIAN
from tests.sandbox.docker_daemon import left_in_daemon
from tests.sandbox.harness import Bench, Sh, needs_btrfs, shell_in, until_empty

SLOTS = 64
UIDS_EACH = 65_536
LACKING: dict[str, frozenset[str]] = {
    "memory": frozenset({"pty", "ports", "programs", "states", "dockerfile"}),
    "native": frozenset({"dockerfile", "users", "states"} if os.geteuid() != 0 else {"dockerfile"}),
    "docker": frozenset({"states"}),
}
"""The features an engine may do without. What it refuses then is a test like any other."""


@pytest.fixture(
    params=[
        "memory",
        pytest.param("native", marks=pytest.mark.native),
        pytest.param("docker", marks=pytest.mark.docker),
    ]
)
def kind(request: pytest.FixtureRequest) -> str:
    """Every test below this runs once for each engine; tests/conftest.py says when one is left."""
    kind: str = request.param
    wanted = {marker.args[0] for marker in request.node.iter_markers("feature")}
    if lacking := sorted(wanted & LACKING[kind]):
        pytest.skip(f"the {kind} engine has no {', '.join(lacking)}, and says so")
    return kind


@pytest.fixture(scope="session")
def shared_root_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture
def root_dir(shared_root_dir: Path) -> Path:
    """The same for all tests, since a host base takes its time; owners are each test's own."""
    return shared_root_dir


@pytest.fixture
async def engine(kind: str, root_dir: Path) -> AsyncIterator[Engine]:
    async with running(kind, root_dir) as made:
        yield made


@asynccontextmanager
async def running(kind: str, root_dir: Path, scratch: str = "auto") -> AsyncIterator[Engine]:
    """A started engine; once closed, nothing of it may be left."""
    tasks = asyncio.all_tasks()
    before = {path.name for path in root_dir.glob("owners/*")}
    async with AsyncExitStack() as ending:
        made = make_engine(kind, root_dir, scratch)
        ending.push_async_callback(made.close)
        await made.start()
        owners = {path.name for path in root_dir.glob("owners/*")}
        yield made
    await until_empty(lambda: asyncio.all_tasks() - tasks - own_task(), "tasks left behind")
    if kind == "native":
        await until_empty(lambda: left_behind(root_dir, owners), "left behind")
    if kind == "docker":
        assert left_in_daemon(owners - before) == []
        assert not {path.name for path in root_dir.glob("owners/*")} - before


def make_engine(kind: str, root_dir: Path, scratch: str = "auto") -> Engine:
    if kind == "memory":
        return MemoryEngine()
    if kind == "docker":
        return OnDebian(EngineConf(kind=kind, root_dir=str(root_dir)), owner="tests")
    return NativeEngine(
        EngineConf(
            kind=kind,
            root_dir=str(root_dir),
            uid_base=uid_base(),
            max_slots=SLOTS,
            scratch=scratch,
        )
    )


class OnDebian(DockerEngine):
    """With an image in the place of the host, which it has not."""

    async def build(self, blueprint: Blueprint) -> Image:
        if blueprint.base == "host":
            blueprint = replace(blueprint, base=f"image:{DEBIAN}")
        return await super().build(blueprint)


def own_task() -> set[asyncio.Task[object] | None]:
    """A fixture ends in another task than it began in."""
    return {asyncio.current_task()}


@functools.cache
def uid_base() -> int:
    """Uids for this test process alone, so that its sandboxes can be told from others: twice 64
    ranges, held as long as it lives by a name that no two processes can bind."""
    for number in range(250):
        with socket.socket(socket.AF_UNIX) as claim, suppress(OSError):
            claim.bind(f"\0rollout-tests-uids-{number}")
            claim.detach()
            return 1_000_000_000 + number * 2 * SLOTS * UIDS_EACH
    pytest.fail("250 test processes on one machine")


def left_behind(root_dir: Path, owners: set[str]) -> list[str]:
    """What a closed engine must not leave: processes, mounts, control groups, its folder."""
    found = [f"process {p.pid} {p.name()}" for p in psutil.process_iter() if _ours(p)]
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    found += [f"mount {line}" for line in mounts if str(root_dir) in line]
    found += [group for group in cgroups(root_dir) if owners & set(Path(group).parts)]
    found += loop_devices(root_dir)
    found += [f"folder {path}" for path in root_dir.glob("owners/*")]
    return found


def _ours(process: psutil.Process) -> bool:
    """In our range of uids, or a child of this process that is not Python."""
    try:
        uid = process.uids().real
        launcher = process.ppid() == os.getpid() and process.name().startswith("rollout-box")
    except psutil.NoSuchProcess:
        return False
    return launcher or uid_base() <= uid < uid_base() + SLOTS * UIDS_EACH


@pytest.fixture
async def bench(engine: Engine) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as ending:
        yield Bench(engine, ending)


ON_TMPFS = pytest.param(("native", "tmpfs"), marks=pytest.mark.native, id="native-tmpfs")
ON_BTRFS = pytest.param(
    ("native", "btrfs"), marks=[pytest.mark.native, needs_btrfs], id="native-btrfs"
)


@pytest.fixture(params=[pytest.param(("memory", "auto"), id="memory"), ON_TMPFS, ON_BTRFS])
async def small_disks(request: pytest.FixtureRequest, root_dir: Path) -> AsyncIterator[Bench]:
    """Of an engine set up so that it limits disk, in each way that it can."""
    kind, scratch = request.param
    async with running(kind, root_dir, scratch) as engine, AsyncExitStack() as ending:
        yield Bench(engine, ending)


@pytest.fixture
async def box(bench: Bench) -> Sandbox:
    return await bench.sandbox()


@pytest.fixture
def real_box(engine: Engine, box: Sandbox) -> Sandbox:
    """A sandbox that runs real programs on a kernel; an engine that emulates both has none."""
    if "programs" not in engine.features:
        pytest.skip(f"the {engine.name} engine runs no real programs")
    return box


@pytest.fixture
def sh(box: Sandbox) -> Sh:
    return shell_in(box)
