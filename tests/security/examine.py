"""Try everything on one engine, run one way. As a program: `python -m tests.security.examine MODE
FOLDER` prints what came of it as JSON: so it is done by another user."""

import asyncio
import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from rollout.config import EngineConf
from rollout.sandbox.base import Sandbox
from rollout.sandbox.docker.sandbox import DockerSandbox
from rollout.sandbox.init import build
from rollout.sandbox.native_sandbox import NativeSandbox
from rollout.types import Resources, Tree
from tests.sandbox.conftest import SLOTS, uid_base
from tests.security.docker import WeakenedDocker, running_docker
from tests.security.drills.drill import Makes
from tests.security.drills.table import Stage, do_all
from tests.security.host import host_with_secrets
from tests.security.probes.table import PROBES
from tests.security.weakened import (
    DEFINE,
    WeakenedEngine,
    lay_device,
    lay_things_of_the_host,
    running_weakened,
)

NATIVE, SUDO, USER, DOCKER = "native", "native, sudo", "native, ordinary user", "docker"
SOURCES = tuple((Path(__file__).parent / "probes").glob("*.py"))
INSIDE = "/tmp/probes"
RANGE = 65_536
PROBES_TIMEOUT_S = 240.0

Found = dict[str, tuple[str, str]]
"""For each probe and drill how it went, and what was seen."""
Survey = dict[str, Found]
"""For each way to run an engine."""


def conf(root_dir: Path) -> EngineConf:
    """With uids of this test process alone."""
    return EngineConf(root_dir=str(root_dir), uid_base=uid_base(), max_slots=SLOTS)


async def as_shipped(modes: Iterable[str], folder: Path, facts: Mapping[str, Any]) -> Survey:
    """All probes and drills in native sandboxes as anybody has them, of this process's user."""
    engine = WeakenedEngine(conf(folder / "shipped"))
    survey: Survey = {}
    async with running_weakened(engine, build.binary(), folder), AsyncExitStack() as ending:
        about = facts | await facts_of(await engine.without(""), ending)
        for mode in modes:
            make = partial(one_as_shipped, engine, sudo=mode == SUDO)
            box = await make("")
            if mode != USER:
                lay_device(box)
            found = await attempt(box, list(PROBES), about)
            stage = Stage(make, weak=False, places=(folder / "shipped",))
            survey[mode] = found | await do_all(stage)
    return survey


async def one_as_shipped(
    engine: WeakenedEngine, walls: str, *, sudo: bool = False, **resources: Any
) -> NativeSandbox:
    """Whatever walls would be left out if it could be."""
    return await engine.without("", sudo=sudo, resources=Resources(**resources))


async def weakened(folder: Path, facts: Mapping[str, Any]) -> Found:
    """Each probe and drill in a native sandbox without just what it must get past."""
    engine = WeakenedEngine(conf(folder / "weak"))
    program = build.build(folder / "box", DEFINE)
    found: Found = {}
    async with running_weakened(engine, program, folder), AsyncExitStack() as ending:

        async def make(walls: str, **resources: Any) -> Sandbox:
            return await engine.without(walls, resources=Resources(**resources))

        about = facts | await facts_of(await engine.without("net"), ending)
        for walls in {probe.without for probe in PROBES.values()}:
            names = [probe.name for probe in PROBES.values() if probe.without == walls]
            box = await engine.without(",".join(sorted(walls)))
            if "laid" in walls:
                lay_things_of_the_host(box, facts["secret_path"])
            elif "nodev" in walls:
                lay_device(box)
            found |= await attempt(box, names, about)
            await box.close()
        return found | await do_all(Stage(make, weak=True, places=(folder / "weak",)))


# ---------------------------------------------------------------- docker

OF_THE_HOST = {"pid", "net", "ipc", "uts"}
SHARED = "pid,net,ipc,uts,caps"
"""With processes and networks of the host; never asked to rename it or to look at its init."""
PRIVILEGED = "caps,seccomp,no_new_privs,bounding,dumpable,environment,cgroup,laid"


async def docker_as_shipped(folder: Path, facts: Mapping[str, Any]) -> Found:
    engine = WeakenedDocker(docker_conf(folder / "docker"))
    program, secret_path = build.binary(), facts["secret_path"]
    async with running_docker(engine, program, secret_path), AsyncExitStack() as ending:

        async def make(walls: str, **resources: Any) -> Sandbox:
            return await engine.without("", resources=Resources(**resources))

        about = facts | await facts_of(await engine.without(""), ending)
        found = await attempt(await make(""), list(PROBES), about)
        return found | await do_all(docker_stage(engine, make, folder / "docker", weak=False))


async def docker_weakened(folder: Path, facts: Mapping[str, Any]) -> Found:
    """In two kinds of containers: a container costs what thirty native sandboxes cost."""
    engine = WeakenedDocker(docker_conf(folder / "weak-docker"))
    program, secret_path = build.build(folder / "box", DEFINE), facts["secret_path"]
    async with running_docker(engine, program, secret_path), AsyncExitStack() as ending:

        async def make(walls: str, **resources: Any) -> Sandbox:
            return await engine.without(walls, resources=Resources(**resources))

        about = facts | await facts_of(await engine.without("net"), ending)
        shared = [probe.name for probe in PROBES.values() if probe.without & OF_THE_HOST]
        others = [name for name in PROBES if name not in shared]
        found = await attempt(await make(SHARED), shared, about)
        found |= await attempt(await make(PRIVILEGED), others, about)
        return found | await do_all(docker_stage(engine, make, folder / "weak-docker", weak=True))


def docker_conf(root_dir: Path) -> EngineConf:
    return EngineConf(kind="docker", root_dir=str(root_dir))


def docker_stage(engine: WeakenedDocker, make: Makes, root_dir: Path, *, weak: bool) -> Stage:
    places = (root_dir, Path("/var/lib/docker/containers"))
    return Stage(make, weak=weak, places=places, upper=engine.upper)


# ---------------------------------------------------------------- either


async def facts_of(
    neighbour: NativeSandbox | DockerSandbox, ending: AsyncExitStack
) -> dict[str, Any]:
    port = ending.enter_context(await neighbour.listen(0)).getsockname()[1]
    return {"neighbour_pid": neighbour.init_pid, "neighbour_port": port}


async def attempt(box: Sandbox, names: list[str], facts: Mapping[str, Any]) -> Found:
    sources = {f"tests/security/probes/{path.name}": path.read_text() for path in SOURCES}
    await box.put_tree(Tree.of(sources), INSIDE)
    result = await box.exec(
        ["/usr/bin/python3", "-m", "tests.security.probes"],
        cwd=INSIDE,
        stdin=json.dumps({"probes": names, "facts": facts}).encode(),
        timeout_s=PROBES_TIMEOUT_S,
    )
    assert result.ok, (box.spec, result.stderr.decode())
    return {name: (outcome, seen) for name, (outcome, seen) in json.loads(result.stdout).items()}


def main() -> None:
    mode, folder = sys.argv[1], Path(sys.argv[2])
    with host_with_secrets(folder) as facts:
        json.dump(asyncio.run(as_shipped([mode], folder, facts))[mode], sys.stdout)


if __name__ == "__main__":
    main()
