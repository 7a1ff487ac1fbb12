"""Steps of a blueprint, done in a container and committed.

What a command is offered (secrets, roots of trust, the names of proxies) is mounted where no image
holds it, or written before the command and removed after it; a container that still holds a
secret's value is not committed.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rollout.aio import shielded
from rollout.errors import BuildError
from rollout.sandbox.base import Image, Objects, SandboxSpec
from rollout.sandbox.build_log import BuildLog
from rollout.sandbox.build_secrets import Given, read_secrets, traces
from rollout.sandbox.builder import BUILD_LIMITS, Step
from rollout.sandbox.docker.handover import INSIDE
from rollout.sandbox.docker.sandbox import DockerSandbox
from rollout.sandbox.offers import BUNDLE_ENV, BUNDLES, LIMIT_BYTES, NETWORK_ENV
from rollout.sandbox.steps import apply_step, run_step
from rollout.types import Blueprint

BUNDLE = "ca-certificates.crt"
APT = "apt.conf"


@dataclass(frozen=True, slots=True)
class Offered:
    """What a command of a build finds besides its image."""

    files: dict[str, bytes] = field(default_factory=dict)
    """Below INSIDE, for as long as the container lives."""
    env: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_network(cls) -> "Offered":
        """What it takes to trust the hosts that this machine trusts. Blocks."""
        offered = cls(env={name: os.environ[name] for name in NETWORK_ENV if name in os.environ})
        for path in (os.environ.get("SSL_CERT_FILE", ""), *BUNDLES):
            if path and (content := _content(Path(path))):
                offered.files[BUNDLE] = content
                offered.files[APT] = f'Acquire::https::CAInfo "{INSIDE}/{BUNDLE}";\n'.encode()
                offered.env.update((name, f"{INSIDE}/{BUNDLE}") for name in BUNDLE_ENV)
                offered.env["APT_CONFIG"] = f"{INSIDE}/{APT}"
                break
        return offered


class Engine(Protocol):
    """The engine's part of a build."""

    async def create_for_build(
        self, spec: SandboxSpec, files: Mapping[str, bytes]
    ) -> DockerSandbox: ...

    async def commit(self, sandbox: DockerSandbox, name: str) -> str:
        """The id of the image with its files, under this name and nobody's."""

    async def finds(self, sandbox: DockerSandbox, found: Sequence[bytes]) -> bool:
        """Whether any of these stands anywhere in its files, or in a name of one."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Steps that make one image: a command, or those before it that put files."""

    blueprint: Blueprint
    steps: Sequence[Step]
    below: Image
    """Its base, bare."""

    @property
    def runs(self) -> bool:
        return self.steps[0].step.op == "run"

    @property
    def network(self) -> str:
        return self.blueprint.build_network if self.runs else "none"

    def where(self, step: Step) -> str:
        name, count = self.blueprint.name, len(self.blueprint.steps)
        return f"blueprint {name!r}, step {step.number} of {count}"


async def make_segment(
    engine: Engine, segment: Segment, name: str, objects: Objects | None, log: Path
) -> str:
    """The id of a new image called `name`; BuildError."""
    offered = Offered()
    if segment.network == "host":
        offered = await asyncio.to_thread(Offered.of_network)
    spec = SandboxSpec(
        image=segment.below, resources=BUILD_LIMITS, network=segment.network, sudo=True
    )
    sandbox = await engine.create_for_build(spec, offered.files)
    try:
        if segment.runs:
            await _run(engine, sandbox, segment, offered.env, log)
        else:
            for each in segment.steps:
                await apply_step(
                    sandbox,
                    each.step,
                    segment.where(each),
                    setting=each.setting,
                    objects=objects,
                )
        return await engine.commit(sandbox, name)
    finally:
        await shielded(sandbox.close())


async def _run(
    engine: Engine, sandbox: DockerSandbox, segment: Segment, env: Mapping[str, str], log: Path
) -> None:
    (each,) = segment.steps
    where = segment.where(each)
    given = read_secrets(each.step, dict(segment.blueprint.secrets), where)
    values = traces(secret.value for secret in given)
    undo = [await _put(sandbox, secret, where) for secret in given if secret.target]
    variables = {secret.secret.env: secret.value for secret in given if secret.secret.env}
    await run_step(
        sandbox,
        each.step,
        where,
        each.setting,
        env={**env, **variables},
        log=BuildLog(log, values),
    )
    await sandbox.kill_all()
    for take_away in undo:
        await take_away()
    if values and await engine.finds(sandbox, values):
        raise BuildError(f"{where}: its files hold the value of a secret; nothing was kept of it")


async def _put(sandbox: DockerSandbox, given: Given, where: str) -> Callable[[], Awaitable[None]]:
    """Write the secret's file; what takes away it and the folders made for it."""
    parts = given.target.strip("/").split("/")
    paths = ["/" + "/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    there = [(await sandbox.exec(["test", "-e", path], user="root")).ok for path in paths]
    if there[-1]:
        raise BuildError(f"{where}: {given.target} of the secret {given.secret.id!r} is a file")
    made = paths[there.index(False)]
    await sandbox.write_file(given.target, given.value.encode(), mode=0o444)
    return lambda: sandbox.remove(made)


def _content(path: Path) -> bytes:
    try:
        if path.is_file() and path.stat().st_size <= LIMIT_BYTES:
            return path.read_bytes()
    except OSError:
        pass
    return b""
