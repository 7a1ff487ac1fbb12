"""What scorers that run something in the sandbox share."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rollout.aio import Deadline
from rollout.errors import SandboxError, SandboxLost, ScoreError
from rollout.sandbox.base import ExecResult, Sandbox
from rollout.sandbox.output import head_and_tail, text_of
from rollout.tasks.trees import with_executable
from rollout.types import Task

TESTS = "/tests"
TEST_SCRIPT = "test.sh"
OUTPUT_CHARS = 200_000
ERROR_CHARS = 2_000


@contextmanager
def no_verdict(task: Task) -> Iterator[None]:
    """A sandbox that refuses what scoring needs gives no verdict; a lost one stays lost."""
    try:
        yield
    except SandboxLost:
        raise
    except SandboxError as exc:
        raise ScoreError(f"task {task.id}: scoring could not run: {exc}") from exc


async def put_tests(task: Task, sandbox: Sandbox) -> None:
    """The task's tests at /tests, and nothing there that the agent may have left."""
    await sandbox.remove(TESTS)
    if task.tests.entries:
        await sandbox.put_tree(with_executable(task.tests, TEST_SCRIPT), TESTS)


async def run_to_end(
    task: Task,
    sandbox: Sandbox,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    shown: str,
    deadline: Deadline,
) -> tuple[ExecResult, str]:
    """The result and what was printed; ScoreError when the deadline cut it off."""
    limit_s = deadline.left_s
    result = await sandbox.exec(argv, env=env, user=task.verifier.user, timeout_s=max(limit_s, 0.1))
    output = head_and_tail(text_of(result), OUTPUT_CHARS)
    if result.timed_out:
        raise ScoreError(
            f"task {task.id}: `{head_and_tail(shown, 200)}` did not end within {limit_s:.1f} s; "
            f"{printed(output)}"
        )
    return result, output


def printed(output: str) -> str:
    """The end of an error message: what the scorer's command said."""
    return f"it printed: {head_and_tail(output.strip(), ERROR_CHARS) or 'nothing'}"
