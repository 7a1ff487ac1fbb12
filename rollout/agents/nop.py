"""The agent that does nothing: a check that a task is not solved from the start."""

from rollout.agents.base import Model, Recorder
from rollout.agents.recorded import record_instruction
from rollout.aio import Deadline
from rollout.sandbox.base import Sandbox
from rollout.types import StopReason, Task


class Nop:
    """Reads the instruction and ends."""

    name = "nop"
    version = "1"

    async def run(
        self,
        task: Task,
        sandbox: Sandbox,
        model: Model | None,
        deadline: Deadline,
        record: Recorder,
    ) -> StopReason:
        record_instruction(task, record)
        return StopReason.COMPLETED
