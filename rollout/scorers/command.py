"""A command whose exit code is the verdict."""

from rollout.aio import Deadline
from rollout.errors import ScoreError
from rollout.sandbox.base import Sandbox
from rollout.scorers.base import Verdict
from rollout.scorers.verdicts import no_verdict, printed, put_tests, run_to_end
from rollout.types import Score, Task

_NOT_RUN = (126, 127)
"""The shell's own codes for a command that is not executable or not there."""


class Command:
    """Exit code 0 is reward 1, any other 0; a command that could not run gives no verdict.

    The task's tests, if it has any, are at /tests meanwhile.
    """

    def __init__(self, *, command: str = "", name: str = "command") -> None:
        """
        command: a shell command for tasks that bring none of their own.
        name: of the score.
        """
        self._command, self._name = command, name

    def problems(self, task: Task) -> str | None:
        """Why the task cannot be scored this way, known before anything runs."""
        if not (task.verifier.command or self._command):
            return f"task {task.id}: it brings no command to score by; set scorer.command"
        return None

    async def score(self, task: Task, sandbox: Sandbox, deadline: Deadline) -> Verdict:
        if problem := self.problems(task):
            raise ScoreError(problem)
        command = task.verifier.command or self._command
        with no_verdict(task):
            await put_tests(task, sandbox)
            run = await run_to_end(
                task,
                sandbox,
                ["sh", "-c", command],
                env=dict(task.verifier.env),
                shown=command,
                deadline=deadline,
            )
        exit_code = run.result.exit_code
        if exit_code in _NOT_RUN:
            raise ScoreError(
                f"task {task.id}: `{command}` could not run (exit code {exit_code}); "
                f"{printed(run.output)}"
            )
        reward = 1.0 if exit_code == 0 else 0.0
        return Verdict(
            reward=reward,
            scores=(Score(name=self._name, value=reward),),
            output=run.output,
            integrity=run.signs,
        )
