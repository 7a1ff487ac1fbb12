"""An agent that leaves a trace outside of everything that may be lost."""

import json
import os
import uuid

from rollout.agents.base import Model, Recorder
from rollout.aio import Deadline
from rollout.sandbox.base import Sandbox
from rollout.types import Message, StopReason, Task

ARTIFACT = "nonce"
REPEATS = 500


class Noting:
    """Notes a nonce of its own in a ledger on the host before it works, and then in all it leaves:
    its file in the sandbox, a message of its row, an artifact beside it."""

    name, version = "noting", "1"

    def __init__(self, *, ledger: str, work_s: float) -> None:
        self._ledger, self._work_s = ledger, work_s

    async def run(
        self,
        task: Task,
        sandbox: Sandbox,
        model: Model | None,
        deadline: Deadline,
        record: Recorder,
    ) -> StopReason:
        nonce = uuid.uuid4().hex
        note(self._ledger, {"task": task.id, "nonce": nonce})
        command = f"echo {nonce} > done; sleep {self._work_s}"
        await sandbox.exec(["sh", "-c", command], timeout_s=60)
        record.message(Message(role="assistant", content=nonce))
        record.artifact(ARTIFACT, (nonce * REPEATS).encode())
        return StopReason.COMPLETED


def note(ledger: str, line: dict[str, str]) -> None:
    """One write at the end of the file: whole, whoever else writes and whoever is killed."""
    descriptor = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, json.dumps(line).encode() + b"\n")
    finally:
        os.close(descriptor)
