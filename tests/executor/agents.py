"""Agents that tell a test where they are, by files in a folder, and end as it wants."""

import asyncio
import base64
import os
import uuid
from pathlib import Path

from rollout.agents.base import Model, Recorder
from rollout.aio import Deadline
from rollout.errors import ModelError
from rollout.sandbox.base import Sandbox
from rollout.types import Message, StopReason, Task


class Gated:
    """Says that it has begun (and in which process), then waits until the gate is open."""

    name, version = "gated", "1"

    def __init__(self, *, folder: str) -> None:
        self._folder = Path(folder)

    async def run(
        self,
        task: Task,
        sandbox: Sandbox,
        model: Model | None,
        deadline: Deadline,
        record: Recorder,
    ) -> StopReason:
        (self._folder / f"begun-{os.getpid()}-{uuid.uuid4().hex}").touch()
        while not (self._folder / "open").exists():
            await asyncio.sleep(0.02)
        return StopReason.COMPLETED


class Flaky:
    """The model fails the first `fails` times that a task is tried, then all is well."""

    name, version = "flaky", "1"

    def __init__(self, *, folder: str, fails: int) -> None:
        self._folder, self._fails = Path(folder), fails

    async def run(
        self,
        task: Task,
        sandbox: Sandbox,
        model: Model | None,
        deadline: Deadline,
        record: Recorder,
    ) -> StopReason:
        tries = len(list(self._folder.glob(f"tried-{task.id}-*")))
        (self._folder / f"tried-{task.id}-{uuid.uuid4().hex}").touch()
        if tries < self._fails:
            raise ModelError("the model endpoint is down")
        await sandbox.exec(["touch", "/tmp/done"])
        return StopReason.COMPLETED


class Buggy:
    """Breaks by itself."""

    name, version = "buggy", "1"

    async def run(
        self,
        task: Task,
        sandbox: Sandbox,
        model: Model | None,
        deadline: Deadline,
        record: Recorder,
    ) -> StopReason:
        raise ValueError("my own fault")


class Talker:
    """Records what no codec makes smaller, and passes."""

    name, version = "talker", "1"

    def __init__(self, *, kb: int) -> None:
        self._kb = kb

    async def run(
        self,
        task: Task,
        sandbox: Sandbox,
        model: Model | None,
        deadline: Deadline,
        record: Recorder,
    ) -> StopReason:
        said = base64.b64encode(os.urandom(self._kb * 768)).decode()
        record.message(Message(role="assistant", content=said))
        await sandbox.exec(["touch", "/tmp/done"])
        return StopReason.COMPLETED
