"""Sandboxes of the Docker engine, as they are and without some of their walls."""

import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from rollout.sandbox.base import SandboxSpec
from rollout.sandbox.docker import container
from rollout.sandbox.docker.engine import DockerEngine
from rollout.sandbox.docker.sandbox import DockerSandbox
from rollout.types import Blueprint, Resources
from tests.security.host import SECRET
from tests.security.probes.privileges import CUT

UNKNOWN = 38
"""From this capability on daemons before 20.10.13 know none."""
DEBIAN = "rollout-test-debian"
BLUEPRINT = Blueprint(name="debian", base=f"image:{DEBIAN}")
_walls: ContextVar[str] = ContextVar("walls", default="")


class WeakenedDocker(DockerEngine):
    """Started with `running_docker`, which sees to it that `walls` are left out."""

    async def without(
        self, walls: str, *, sudo: bool = False, resources: Resources | None = None
    ) -> DockerSandbox:
        """A sandbox without these `walls`, split at commas."""
        image = await self.build(BLUEPRINT)
        spec = SandboxSpec(image=image, sudo=sudo, resources=resources or Resources())
        token = _walls.set(walls)
        try:
            return await self.create(spec)
        finally:
            _walls.reset(token)

    async def upper(self, box: DockerSandbox) -> Path:
        """Where the host has what this sandbox writes."""
        has = self._started()
        about = await has.calls.run(lambda: has.daemon.inspect(f"rollout-{box.id}"))
        return Path(about["GraphDriver"]["Data"]["UpperDir"])


@asynccontextmanager
async def running_docker(
    engine: WeakenedDocker, program: Path, secret_path: str
) -> AsyncIterator[None]:
    """`engine` started with the init out of `program`."""
    with listening(f"{secret_path}.socket"), pytest.MonkeyPatch.context() as patch:
        as_shipped = container.config

        def config(wanted: container.Wanted) -> dict[str, Any]:
            made = as_shipped(wanted)
            walls = set(filter(None, _walls.get().split(",")))
            return weaken(made, walls, secret_path) if walls else made

        patch.setattr(container, "config", config)
        patch.setattr("rollout.sandbox.docker.engine.binary", lambda: program)
        try:
            await engine.start()
            yield
        finally:
            await engine.close()


def all_capabilities() -> list[str]:
    """Those that this machine gives to anybody and that every version of Docker knows."""
    status = Path("/proc/self/status").read_text()
    bounding = int(status.partition("CapBnd:")[2].split()[0], 16)
    held = [name for number, name in CUT.items() if bounding >> number & 1 and number < UNKNOWN]
    return [*container.CAPABILITIES, *(name.upper() for name in held)]


@contextmanager
def listening(path: str) -> Iterator[None]:
    """A daemon's socket, so to say."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        try:
            yield
        finally:
            Path(path).unlink()


def weaken(config: Mapping[str, Any], walls: set[str], secret_path: str) -> dict[str, Any]:
    """The same container without `walls`: what a careless engine might have asked for."""
    host = dict(config["HostConfig"])
    made = {**config, "HostConfig": host, "Cmd": [*config["Cmd"], f"weaken={','.join(walls)}"]}
    modes = {"pid": "PidMode", "ipc": "IpcMode", "uts": "UTSMode", "cgroup": "CgroupnsMode"}
    host |= {setting: "host" for wall, setting in modes.items() if wall in walls}
    if "net" in walls:
        host["NetworkMode"], made["NetworkDisabled"] = "host", False
    if {"uts", "net"} & walls:
        made.pop("Hostname")
    if "environment" in walls:
        made["Env"] = [f"SECRET={SECRET}"]
    if "no_new_privs" in walls:
        host["SecurityOpt"] = ["seccomp=unconfined"]
    if {"caps", "bounding"} & walls:
        host["CapAdd"] = all_capabilities()
    if "caps" in walls:
        host |= {"MaskedPaths": [], "ReadonlyPaths": [], "DeviceCgroupRules": ["a *:* rwm"]}
    if "laid" in walls:
        host["Mounts"] = [
            *host["Mounts"],
            *(
                {"Type": "bind", "Source": source, "Target": target}
                for source, target in (
                    (secret_path, secret_path),
                    (f"{secret_path}.socket", "/run/laid.socket"),
                )
            ),
        ]
        host["Devices"] = [
            {
                "PathOnHost": "/dev/zero",
                "PathInContainer": "/dev/laid-disk",
                "CgroupPermissions": "r",
            }
        ]
    return made
