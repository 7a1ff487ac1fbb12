"""Whether this machine's daemon can make our sandboxes: found out once for each boot."""

import asyncio
import io
import json
import tarfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from rollout.errors import BuildError, SandboxError
from rollout.sandbox.base import Image, Sandbox, SandboxSpec
from rollout.sandbox.docker.daemon import Daemon, Facts
from rollout.sandbox.init.build import binary
from rollout.types import Resources, digest_of

PROBE_NAME = "rollout-probe:1"
"""An empty image: what runs in it is mounted."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
TRIAL_DISK_MB = 64
NEEDS = (
    "a daemon on this machine that mounts folders of engine.root_dir into its containers, and a "
    "runtime whose containers share this kernel (runc, crun): runtimes with a kernel of their own "
    "(runsc, kata) pass no socket through"
)


class Maker(Protocol):
    """An engine, as far as a trial needs it."""

    @property
    def name(self) -> str: ...

    async def create(self, spec: SandboxSpec) -> Sandbox: ...


def check_runtime(runtime: str | None, facts: Facts) -> None:
    if runtime and runtime not in facts.runtimes:
        raise SandboxError(
            f"engine.runtime: the Docker daemon has no {runtime!r}; it has "
            f"{', '.join(facts.runtimes)} (default {facts.default_runtime})"
        )


async def prove(
    engine: Maker, daemon: Daemon, facts: Facts, root_dir: Path, runtime: str | None
) -> Facts:
    """One sandbox, unless one was made before under the same circumstances.

    The facts, without disk where only the trial told that it cannot be limited. SandboxError.
    """
    mark = await asyncio.to_thread(_mark, facts, root_dir, runtime)
    with suppress(FileNotFoundError):
        return replace(facts, limits=frozenset(json.loads(mark.read_text())))
    image_id = await asyncio.to_thread(_empty_image, daemon)
    spec = SandboxSpec(image=Image(engine=engine.name, digest=image_id, layers=(image_id,)))
    try:
        if "disk" in facts.limits:
            facts = await _with_disk(engine, spec, facts)
        await (await engine.create(spec)).close()
    except SandboxError as exc:
        raise SandboxError(
            f"this machine cannot make sandboxes of the docker engine: {exc}. It needs {NEEDS}"
        ) from exc
    mark.write_text(json.dumps(sorted(facts.limits)))
    return facts


def _empty_image(daemon: Daemon) -> str:
    with suppress(BuildError):
        return daemon.image_id(PROBE_NAME, pull=False)
    with io.BytesIO() as empty:
        tarfile.open(fileobj=empty, mode="w").close()
        empty.seek(0)
        return daemon.import_root(empty, PROBE_NAME, {})


def _mark(facts: Facts, root_dir: Path, runtime: str | None) -> Path:
    boot, program = BOOT_ID.read_text().strip(), binary().stat().st_mtime_ns
    told = [facts.version, facts.storage_driver, facts.runtimes, runtime, boot, program]
    return root_dir / f"docker-{digest_of(told)[:16]}.json"


async def _with_disk(engine: Maker, spec: SandboxSpec, facts: Facts) -> Facts:
    """xfs needs the mount option `pquota`, which only a container with a limit tells."""
    limited = replace(spec, resources=Resources(disk_mb=TRIAL_DISK_MB))
    try:
        await (await engine.create(limited)).close()
    except SandboxError:
        return replace(facts, limits=facts.limits - {"disk"})
    return facts
