"""An agent that is a shell script out of the config."""

from rollout.agents.base import Model, Recorder
from rollout.agents.recorded import record_instruction, run_recorded
from rollout.aio import Deadline
from rollout.errors import AgentError, ConfigError
from rollout.sandbox.base import Sandbox
from rollout.types import StopReason, Task

ARGUMENT_LIMIT_BYTES = 120_000
"""The kernel takes no argument or variable of 128 KiB or more."""


class Script:
    """Runs one script as the agent's user, in the task's working folder.

    The task is in its environment: TASK_ID, TASK_INSTRUCTION, TASK_DATASET, TASK_SPLIT,
    TASK_METADATA (JSON), TASK_TIMEOUT_S (seconds left when it starts).
    """

    version = "1"

    def __init__(
        self,
        *,
        script: str,
        shell: str = "sh",
        timeout_s: float | None = None,
        name: str = "script",
    ) -> None:
        """
        script: the text of the script, handed to `shell -c`.
        shell: a program of the sandbox.
        timeout_s: ends it earlier than the task's own limit; null leaves it to the task.
        name: in tables and rows.
        """
        if not script.strip():
            raise ConfigError("agent.script: is empty; use the text of a shell script")
        if len(script.encode()) > ARGUMENT_LIMIT_BYTES:
            raise ConfigError(
                f"agent.script: is longer than {ARGUMENT_LIMIT_BYTES} bytes; "
                "put it into the task's files and call it"
            )
        self.name = name
        self._script, self._shell, self._timeout_s = script, shell, timeout_s

    def problems(self, task: Task) -> str | None:
        """Why this agent cannot work on the task, known before anything runs."""
        for field in ("instruction", "metadata"):
            if len(getattr(task, field).encode()) > ARGUMENT_LIMIT_BYTES:
                return f"task {task.id}: its {field} is too long for an environment variable"
        return None

    async def run(
        self,
        task: Task,
        sandbox: Sandbox,
        model: Model | None,
        deadline: Deadline,
        record: Recorder,
    ) -> StopReason:
        """AgentError when the script ends with another exit code than 0."""
        if problem := self.problems(task):
            raise AgentError(problem)
        record_instruction(task, record)
        if self._timeout_s is not None:
            deadline = deadline.sooner(self._timeout_s)
        return await run_recorded(
            sandbox,
            [self._shell, "-c", self._script],
            shown=self._script,
            env=task_fields(task, deadline),
            user=task.agent_user,
            deadline=deadline,
            record=record,
        )


def task_fields(task: Task, deadline: Deadline) -> dict[str, str]:
    """The task as environment variables."""
    return {
        "TASK_ID": task.id,
        "TASK_INSTRUCTION": task.instruction,
        "TASK_DATASET": task.dataset,
        "TASK_SPLIT": task.split,
        "TASK_METADATA": task.metadata,
        "TASK_TIMEOUT_S": f"{deadline.left_s:.1f}",
    }
