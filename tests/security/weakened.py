"""Native sandboxes without some of their walls, and a launcher of a careless parent.

The launcher that is started here has a variable and an open file of the host; the file's and the
variable's text is SECRET.
"""

import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rollout.sandbox.base import SandboxSpec
from rollout.sandbox.native import NativeEngine
from rollout.sandbox.native_sandbox import NativeSandbox
from rollout.types import Blueprint, Resources
from tests.security.host import LAID, SECRET, ZERO

DEFINE = "ROLLOUT_WEAKEN"
_walls: ContextVar[str] = ContextVar("walls", default="")
"""Of the sandbox that is being made in this task."""


class WeakenedEngine(NativeEngine):
    """Of a launcher that was built to leave walls out."""

    def _fields(self, *request: Any) -> list[tuple[str, str]]:
        fields = super()._fields(*request)
        return [*fields, ("weaken", _walls.get())] if _walls.get() else fields

    async def without(
        self, walls: str, *, sudo: bool = False, resources: Resources | None = None
    ) -> NativeSandbox:
        """A sandbox without these `walls`, split at commas."""
        spec = SandboxSpec(image=await self.build(Blueprint()), sudo=sudo)
        token = _walls.set(walls)
        try:
            return await self.create(replace(spec, resources=resources or Resources()))
        finally:
            _walls.reset(token)


def lay_device(box: NativeSandbox, path: str = LAID) -> None:
    """As a layer of somebody else's making might have one."""
    device = box._scratch / "u" / path.strip("/")
    os.mknod(device, 0o020666, ZERO)
    device.chmod(0o666)


def lay_things_of_the_host(box: NativeSandbox, secret_path: str) -> None:
    """What a careless engine might leave in a root: a file at its own path, a socket, a device."""
    folder = box._scratch / "u"
    *parents, name = secret_path.strip("/").split("/")
    for parent in parents:
        folder /= parent
        if not folder.exists():
            folder.mkdir()
            folder.chmod(0o1777)
            os.chown(folder, box.uid_base, box.uid_base)
    (folder / name).write_text(SECRET)
    (folder / name).chmod(0o644)
    os.mknod(box._scratch / "u/laid-socket", stat.S_IFSOCK | 0o666)
    lay_device(box, "/laid-disk")


@asynccontextmanager
async def running_weakened(engine: WeakenedEngine, box: Path, folder: Path) -> AsyncIterator[None]:
    """`engine` started with a launcher out of the program `box`, below `folder`."""
    program = folder / f"launch-{box.name}"
    program.write_text(f'#!/bin/sh\nexec 9<{folder}/secret\nSECRET={SECRET} exec {box} "$@"\n')
    program.chmod(0o755)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rollout.sandbox.launcher.binary", lambda: program)
            await engine.start()
        yield
    finally:
        await engine.close()
