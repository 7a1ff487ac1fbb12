"""What scorers that run something in the sandbox share."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath

from rollout.aio import Deadline
from rollout.errors import SandboxError, SandboxLost, ScoreError
from rollout.sandbox.base import ExecResult, Sandbox
from rollout.sandbox.output import text_of
from rollout.scorers.integrity import survivors
from rollout.tasks.trees import with_executable
from rollout.transcript import clip
from rollout.types import ScoreMode, Task, Tree

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
        await lay(sandbox, with_executable(task.tests, TEST_SCRIPT), TESTS)


async def lay(sandbox: Sandbox, tree: Tree, folder: str, *, owner: str = "") -> None:
    """Put `tree` in `folder`, whatever the agent left in the way of it.

    What is no folder goes; a folder stays. Else an agent could turn its zero into no verdict by
    deleting its own working directory or by putting a file where a folder belongs.
    """
    try:
        await sandbox.put_tree(tree, folder, owner=owner)
    except SandboxLost:
        raise
    except SandboxError:
        wanted = [entry.path for entry in tree.entries if entry.kind == "dir"]
        for path in [*_with_parents(folder), *(f"{folder}/{name}" for name in wanted)]:
            await _make_folder(sandbox, path)
        await sandbox.put_tree(tree, folder, owner=owner)


def _with_parents(folder: str) -> list[str]:
    """`/a`, `/a/b`, … down to the folder itself."""
    path = PurePosixPath(folder)
    return [str(parent) for parent in [*reversed(path.parents), path]][1:]


async def _make_folder(sandbox: Sandbox, path: str) -> None:
    try:
        await sandbox.put_tree(Tree(), path)
    except SandboxLost:
        raise
    except SandboxError:
        await sandbox.remove(path)
        await sandbox.put_tree(Tree(), path)


@dataclass(frozen=True, slots=True)
class Run:
    """A scorer's command that came to its end."""

    result: ExecResult
    output: str
    signs: tuple[str, ...]


async def run_to_end(
    task: Task,
    sandbox: Sandbox,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    shown: str,
    deadline: Deadline,
) -> Run:
    """Run it and end all that it started; ScoreError when the deadline cut it off.

    What the agent wrote may have run as part of it, and may have left a process behind that waits
    for the reward to be written. In shared mode services of the agent's go on for other parts.
    """
    await lay(sandbox, Tree(), sandbox.spec.workdir or sandbox.spec.image.workdir)
    limit_s = deadline.left_s
    result = await sandbox.exec(argv, env=env, user=task.verifier.user, timeout_s=max(limit_s, 0.1))
    output = clip(text_of(result), OUTPUT_CHARS)
    if result.timed_out:
        raise ScoreError(
            f"task {task.id}: `{clip(shown, 200)}` did not end within {limit_s:.1f} s; "
            f"{printed(output)}"
        )
    signs: list[str] = []
    if task.verifier.mode is not ScoreMode.SHARED:
        signs = await survivors(sandbox, "after the scorer")
        await sandbox.kill_all()
    return Run(result, output, tuple(signs))


def printed(output: str) -> str:
    """The end of an error message: what the scorer's command said."""
    return f"it printed: {clip(output.strip(), ERROR_CHARS) or 'nothing'}"
