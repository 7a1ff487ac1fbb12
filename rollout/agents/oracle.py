"""The agent that knows the answer: a check that a task can be solved, and what a 1 looks like."""

from rollout.agents.base import Model, Recorder
from rollout.agents.recorded import record_instruction, run_recorded
from rollout.aio import Deadline
from rollout.errors import AgentError
from rollout.sandbox.base import Sandbox
from rollout.tasks.trees import script_argv, with_executable
from rollout.types import StopReason, Task

FOLDER = "/solution"
SCRIPT = "solve.sh"


class Oracle:
    """Puts the task's solution at /solution and runs its solve.sh, as the agent's user."""

    name = "oracle"
    version = "1"

    def problems(self, task: Task) -> str | None:
        """Why this agent cannot work on the task, known before anything runs."""
        if SCRIPT not in task.solution.files():
            return f"task {task.id}: it has no solution/{SCRIPT} for the oracle to run"
        return None

    async def run(
        self,
        task: Task,
        sandbox: Sandbox,
        model: Model | None,
        deadline: Deadline,
        record: Recorder,
    ) -> StopReason:
        """AgentError when the solution's script fails, or when there is none."""
        if problem := self.problems(task):
            raise AgentError(problem)
        record_instruction(task, record)
        await sandbox.remove(FOLDER)
        await sandbox.put_tree(with_executable(task.solution, SCRIPT), FOLDER)
        return await run_recorded(
            sandbox,
            script_argv(task.solution, SCRIPT, FOLDER),
            shown=f"{FOLDER}/{SCRIPT}",
            env={"DEBIAN_FRONTEND": "noninteractive", **dict(task.solution_env)},
            user=task.agent_user,
            deadline=deadline,
            record=record,
        )
