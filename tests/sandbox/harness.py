"""What the tests of engines and sandboxes share: sandboxes that end, a shell, waiting."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any

import pytest

from rollout.sandbox.base import Engine, ExecResult, Sandbox, SandboxSpec
from rollout.sandbox.volume import mkfs_program
from rollout.types import Blueprint, Resources

Sh = Callable[..., Awaitable[ExecResult]]

needs_btrfs = pytest.mark.skipif(
    os.geteuid() != 0 or (mkfs_program() is None and not os.environ.get("CI")),
    reason="needs root and mkfs.btrfs (btrfs-progs)",
)

PATIENCE_S = 20.0
"""For what another process brings about, on a machine that has much else to do."""


@dataclass(frozen=True)
class Bench:
    """Makes sandboxes of one engine; `ending` ends them after the test."""

    engine: Engine
    ending: AsyncExitStack

    async def sandbox(self, blueprint: Blueprint | None = None) -> Sandbox:
        blueprint = blueprint or Blueprint()
        image = await self.engine.build(blueprint)
        return await self.create(SandboxSpec.for_blueprint(image, blueprint))

    async def limited(self, **resources: Any) -> Sandbox:
        return await self.sandbox(Blueprint(resources=Resources(**resources)))

    async def create(self, spec: SandboxSpec) -> Sandbox:
        sandbox = await self.engine.create(spec)
        self.ending.push_async_callback(sandbox.close)
        return sandbox


def shell_in(box: Sandbox) -> Sh:
    """`await sh("script", **settings of exec)`."""

    async def run(script: str, **settings: Any) -> ExecResult:
        return await box.exec(["sh", "-c", script], **settings)

    return run


async def lives(box: Sandbox, pid: str) -> bool:
    """Whether the sandbox has a process of this number."""
    return (await box.exec(["sh", "-c", f"kill -0 {pid}"])).exit_code == 0


async def gone(box: Sandbox, pid: str) -> bool:
    """Whether the process ends, given the time that a reaper needs."""
    for _ in range(200):
        if not await lives(box, pid):
            return True
        await asyncio.sleep(0.02)
    return False


async def exists(box: Sandbox, path: str) -> None:
    """Return once the file is there."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(FileNotFoundError):
                await box.read_file(path)
                return
            await asyncio.sleep(0.01)


async def until_empty(look: Callable[[], object], what: str) -> None:
    """Fail, showing what is there, unless `look` finds nothing soon."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while look():
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"{what}: {look()}")
