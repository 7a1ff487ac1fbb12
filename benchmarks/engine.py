"""What a sandbox costs: the native engine, the floor below it, and Docker where a daemon answers.

    python benchmarks/engine.py [--quick]

The floor is a plain `posix_spawn` and wait of the same command on the host. Rounds of all subjects
take turns, so that other load on the machine falls on all alike. Times are milliseconds.
"""

import argparse
import asyncio
import io
import os
import platform
import shutil
import statistics
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from machine import used_mb
from rich.console import Console
from rich.table import Table

from rollout.config import EngineConf
from rollout.errors import SandboxError
from rollout.sandbox.base import Engine, Sandbox, SandboxSpec
from rollout.sandbox.docker.engine import DockerEngine
from rollout.sandbox.native import NativeEngine
from rollout.types import Blueprint, Resources

T = TypeVar("T")

CREATE, FIRST, TRUE, ECHO, DESTROY, EPISODE = STAGES = (
    "create until ready",
    "first exec",
    "exec true",
    "exec sh -c 'echo hi'",
    "destroy",
    "episode",
)
COMMANDS = {TRUE: ("true",), ECHO: ("sh", "-c", "echo hi")}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROGRAMS = {argv[0]: shutil.which(argv[0], path=PATH) or argv[0] for argv in COMMANDS.values()}
EXECS_PER_EPISODE = 10
LIMITS = Resources(memory_mb=512, pids=256)
ALL_LIMITS = Resources(memory_mb=512, pids=256, disk_mb=256)
IDLE = 100
"""Sandboxes alive at once to weigh one of them."""
PAUSE_S = 0.1
"""Before a round: what the one before left behind is then removed, by whoever does that."""
FILE = "/etc/hosts"
"""What an episode reads at its end."""
LABEL = f"rollout.benchmark={os.getpid()}"
OWN_IMAGE = f"rollout-benchmark:{os.getpid()}"
APPLETS = ("cat", "sh", "sleep", "true")
EXEC_GOAL = 1.5
CREATE_GOAL_MS = 2.0
DESTROY_GOAL_MS = 0.5
IDLE_GOAL_MB = 0.5
EPISODES_GOAL = 50.0
DOCKER_EXEC_GOAL = 40.0
INIT_EXEC_GOAL = 1.5


class Computer(Protocol):
    """One sandbox, container, or nothing at all on the host."""

    async def run(self, argv: tuple[str, ...]) -> None: ...

    async def read(self) -> None: ...

    async def destroy(self) -> None: ...


@dataclass
class Subject:
    """One way of running commands, and what was measured of it."""

    name: str
    create: Callable[[], Awaitable[Computer]]
    execs: int
    """Of each command in a round."""
    episodes: int
    """In a round, first one after the other, then `at_once` at a time."""
    lives: int = 5
    """Created and destroyed in a round; the first of them runs the commands."""
    at_once: int = 4
    samples: dict[str, list[float]] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    idle_mb: float | None = None
    """Of the machine's memory, of one that does nothing."""

    async def round(self) -> None:
        await asyncio.sleep(PAUSE_S)
        for life in range(self.lives):
            computer = await self._timed(CREATE, self.create())
            await self._timed(FIRST, computer.run(COMMANDS[TRUE]))
            for _ in range(self.execs if life == 0 else 0):
                for stage, argv in COMMANDS.items():
                    await self._timed(stage, computer.run(argv))
            await self._timed(DESTROY, computer.destroy())
        for _ in range(self.episodes):
            await self._timed(EPISODE, self._episode())
        await self._episodes_at_once()

    async def _episode(self) -> None:
        computer = await self.create()
        for _ in range(EXECS_PER_EPISODE):
            await computer.run(COMMANDS[ECHO])
        await computer.read()
        await computer.destroy()

    async def _episodes_at_once(self) -> None:
        count = self.episodes * self.at_once
        turns = asyncio.Semaphore(self.at_once)

        async def one() -> None:
            async with turns:
                await self._episode()

        started = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(count)))
        self.rates.append(count / (time.perf_counter() - started))

    async def _timed(self, stage: str, work: Awaitable[T]) -> T:
        started = time.perf_counter()
        result = await work
        self.samples.setdefault(stage, []).append((time.perf_counter() - started) * 1000)
        return result

    async def weigh(self) -> None:
        before_mb = used_mb()
        idle = [await self.create() for _ in range(IDLE)]
        self.idle_mb = (used_mb() - before_mb) / IDLE
        for computer in idle:
            await computer.destroy()

    def p50_ms(self, stage: str) -> float:
        return statistics.median(self.samples[stage])

    def p95_ms(self, stage: str) -> float:
        ordered = sorted(self.samples[stage])
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]


# ---------------------------------------------------------------- the subjects


@dataclass(frozen=True)
class InSandbox:
    sandbox: Sandbox

    async def run(self, argv: tuple[str, ...]) -> None:
        result = await self.sandbox.exec(argv)
        if not result.ok:
            raise SandboxError(f"{argv} ended with {result}")

    async def read(self) -> None:
        await self.sandbox.read_file(FILE)

    async def destroy(self) -> None:
        await self.sandbox.close()


class OnHost:
    """`posix_spawn` and `waitpid`, output read from a pipe as a caller would want it.

    The program's path and the environment are those a sandbox has: a long PATH of the host's would
    be searched at each start and make the floor look higher than it is.
    """

    async def run(self, argv: tuple[str, ...]) -> None:
        reading, writing = os.pipe()
        actions = [(os.POSIX_SPAWN_DUP2, writing, 1), (os.POSIX_SPAWN_CLOSE, reading)]
        program = PROGRAMS[argv[0]]
        pid = os.posix_spawn(program, argv, {"PATH": PATH}, file_actions=actions)
        os.close(writing)
        while os.read(reading, 65_536):
            pass
        os.close(reading)
        os.waitpid(pid, 0)

    async def read(self) -> None:
        Path(FILE).read_bytes()

    async def destroy(self) -> None:
        return


@dataclass(frozen=True)
class InContainer:
    id: str

    async def run(self, argv: tuple[str, ...]) -> None:
        await docker("exec", self.id, *argv)

    async def read(self) -> None:
        await docker("exec", self.id, "cat", FILE)

    async def destroy(self) -> None:
        await docker("rm", "-f", self.id)


async def remove_containers() -> None:
    """Those that a round which failed has left."""
    left = (await docker("ps", "-aq", "--filter", f"label={LABEL}")).split()
    if left:
        await docker("rm", "-f", *left)


async def docker(*arguments: str, given: bytes = b"") -> str:
    pipe = subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "docker", *arguments, stdin=pipe, stdout=pipe, stderr=pipe
    )
    out, err = await process.communicate(given)
    if process.returncode != 0:
        raise SandboxError(f"docker {' '.join(arguments)}: {err.decode(errors='replace').strip()}")
    return out.decode().strip()


async def docker_image(ending: AsyncExitStack) -> tuple[str, str]:
    """An image that is already there or is made for now, or why Docker is left out."""
    if shutil.which("docker") is None:
        return "", "there is no docker command"
    try:
        images = (await docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}")).split()
        named = sorted((i for i in images if "<none>" not in i), key=lambda i: "busybox" not in i)
        return (named[0], "") if named else await made_image(ending)
    except SandboxError as exc:
        return "", str(exc)


async def made_image(ending: AsyncExitStack) -> tuple[str, str]:
    """One out of this machine's busybox, gone at the end."""
    lacking = "its daemon holds no image; to have one made: apt-get install busybox-static"
    busybox = shutil.which("busybox")
    if busybox is None:
        return "", lacking
    await docker("import", "-", OWN_IMAGE, given=root_of_busybox(Path(busybox)))
    ending.push_async_callback(docker, "image", "rm", "--force", OWN_IMAGE)
    try:
        await docker("run", "--rm", "--network", "none", OWN_IMAGE, "true")
    except SandboxError as exc:
        return "", f"{lacking} ({busybox} does not run alone: {exc})"
    return OWN_IMAGE, ""


def root_of_busybox(busybox: Path) -> bytes:
    """A tar of a root folder that holds nothing else."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        program = tarfile.TarInfo("bin/busybox")
        program.mode, program.size = 0o755, busybox.stat().st_size
        with busybox.open("rb") as file:
            tar.addfile(program, file)
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return content.getvalue()


async def native(name: str, engine: Engine, limits: Resources, rounds: "Rounds") -> Subject:
    blueprint = Blueprint(resources=limits)
    spec = SandboxSpec.for_blueprint(await engine.build(blueprint), blueprint)
    sandbox = await engine.create(spec)
    held = ", ".join(sandbox.limits_enforced) or "no limits"
    await sandbox.close()

    async def create() -> Computer:
        return InSandbox(await engine.create(spec))

    return Subject(f"{name} ({held})", create, rounds.execs, rounds.episodes)


def floor(rounds: "Rounds") -> Subject:
    async def create() -> Computer:
        return OnHost()

    return Subject("floor: posix_spawn", create, rounds.execs, rounds.episodes)


def containers(image: str) -> Subject:
    async def create() -> Computer:
        arguments = ("-d", "--rm", "--label", LABEL, "--network", "none", "--log-driver", "none")
        return InContainer(await docker("run", *arguments, image, "sleep", "3600"))

    return Subject(f"docker ({image})", create, execs=3, episodes=1, lives=2)


async def containers_with_init(image: str, root_dir: Path, ending: AsyncExitStack) -> Subject:
    """The same containers with our init inside: `engine=docker`."""
    engine = DockerEngine(EngineConf(root_dir=str(root_dir)), owner="benchmark")
    ending.push_async_callback(engine.close)
    await engine.start()
    spec = SandboxSpec(image=await engine.build(Blueprint(base=f"image:{image}")))

    async def create() -> Computer:
        return InSandbox(await engine.create(spec))

    return Subject(f"docker + init ({image})", create, execs=20, episodes=1, lives=2)


# ---------------------------------------------------------------- measuring and telling


@dataclass(frozen=True)
class Rounds:
    count: int
    execs: int
    episodes: int


async def measure(subjects: list[Subject], rounds: Rounds) -> None:
    for subject in subjects:
        await subject.round()
        subject.samples.clear()
        subject.rates.clear()
    for number in range(rounds.count):
        # Another order each time, so that nobody always runs in the wake of the same other.
        for at in range(len(subjects)):
            await subjects[(at + number) % len(subjects)].round()


def times(subjects: list[Subject]) -> Table:
    table = Table("p50 / p95, ms", *(subject.name for subject in subjects))
    for stage in STAGES:
        label = f"{stage} of {EXECS_PER_EPISODE} execs" if stage == EPISODE else stage
        cells = (f"{s.p50_ms(stage):.2f} / {s.p95_ms(stage):.2f}" for s in subjects)
        table.add_row(label, *cells)
    for stage in (CREATE, TRUE, ECHO, EPISODE):
        cells = (f"{1000 / max(s.p50_ms(stage), 1e-3):,.0f}" for s in subjects)
        table.add_row(f"{stage}: a second, one after the other", *cells)
    at_once = (f"{statistics.median(s.rates):,.1f} ({s.at_once})" for s in subjects)
    table.add_row("episodes a second (so many at once)", *at_once)
    weights = ("" if s.idle_mb is None else f"{s.idle_mb:.2f}" for s in subjects)
    table.add_row("memory of an idle one, MB", *weights)
    return table


def ratios(over: list[Subject], under: Subject) -> Table:
    table = Table(f"p50 over that of {under.name}", *(subject.name for subject in over))
    for stage in (CREATE, TRUE, ECHO, DESTROY, EPISODE):
        # The floor makes and ends nothing: only commands can be compared with it.
        if under.p50_ms(stage) > 0.01:
            cells = (f"{s.p50_ms(stage) / under.p50_ms(stage):,.2f}" for s in over)
            table.add_row(stage, *cells)
    return table


def goals(subject: Subject, base: Subject) -> Table:
    """What was aimed at, and what this run measured."""
    exec_ratio = max(subject.p50_ms(stage) / base.p50_ms(stage) for stage in COMMANDS)
    rate = statistics.median(subject.rates)
    measured = [
        ("exec over the floor", exec_ratio, EXEC_GOAL, exec_ratio <= EXEC_GOAL),
        ("create, ms", subject.p50_ms(CREATE), CREATE_GOAL_MS, None),
        ("destroy, ms", subject.p50_ms(DESTROY), DESTROY_GOAL_MS, None),
        ("idle, MB", subject.idle_mb or 0.0, IDLE_GOAL_MB, None),
        ("episodes a second", rate, EPISODES_GOAL, rate >= EPISODES_GOAL),
    ]
    table = Table(subject.name, "measured", "goal", "")
    for name, value, goal, met in measured:
        held = value <= goal if met is None else met
        table.add_row(name, f"{value:.2f}", f"{goal:g}", "met" if held else "missed")
    return table


async def run(rounds: Rounds, root_dir: Path, scratch: str, console: Console) -> None:
    console.print(
        f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, "
        f"load {os.getloadavg()[0]:.1f}; {rounds.count} rounds; scratch on {scratch}"
    )
    async with AsyncExitStack() as ending:
        engine = NativeEngine(EngineConf(root_dir=str(root_dir), scratch=scratch))
        ending.push_async_callback(engine.close)
        await engine.start()
        base = floor(rounds)
        natives = [
            await native("native", engine, Resources(), rounds),
            await native("native", engine, LIMITS, rounds),
            await native("native", engine, ALL_LIMITS, rounds),
        ]
        image, reason = await docker_image(ending)
        dockers, inside = [], []
        if image:
            ending.push_async_callback(remove_containers)
            dockers = [containers(image)]
            inside = [await containers_with_init(image, root_dir, ending)]
        await measure([base, *natives, *inside, *dockers], rounds)
        for subject in natives:
            await subject.weigh()
        console.print(times([base, *natives, *inside, *dockers]))
        console.print(ratios([*natives, *inside, *dockers], base))
        for subject in [*inside, *dockers]:
            console.print(ratios([subject], natives[0]))
        if reason:
            console.print(f"Docker was left out: {' '.join(reason.split())}", markup=False)
        for subject in natives:
            console.print(goals(subject, base))
        for subject in inside:
            ratio = max(subject.p50_ms(stage) / natives[0].p50_ms(stage) for stage in COMMANDS)
            held = "met" if ratio <= INIT_EXEC_GOAL else "missed"
            console.print(f"exec by init in a container: {ratio:.2f} x native ({held})")
        for subject in dockers:
            ratio = min(subject.p50_ms(stage) / natives[0].p50_ms(stage) for stage in COMMANDS)
            console.print(f"docker exec takes {ratio:.0f} x as long (goal {DOCKER_EXEC_GOAL:g})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="a few seconds instead of a minute")
    parser.add_argument("--scratch", choices=("auto", "disk", "btrfs", "tmpfs"), default="auto")
    parser.add_argument("--root-dir", type=Path, help="for the engine; default: a temporary one")
    chosen = parser.parse_args()
    rounds = Rounds(5, 10, 2) if chosen.quick else Rounds(30, 20, 5)
    with tempfile.TemporaryDirectory(prefix="rollout-bench-") as temporary:
        root_dir = chosen.root_dir or Path(temporary)
        asyncio.run(run(rounds, root_dir, chosen.scratch, Console(width=140)))


if __name__ == "__main__":
    main()
