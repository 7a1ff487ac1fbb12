"""What is carried from the agent's sandbox to the scorer's: last words, its work, and no tools."""

import posixpath
from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePosixPath

from rollout.errors import SandboxError, SandboxLost
from rollout.sandbox.base import Sandbox, SandboxSpec
from rollout.scorers.integrity import SHOWN
from rollout.scorers.verdicts import lay
from rollout.transcript import Transcript
from rollout.types import (
    BuildStep,
    Changes,
    Output,
    Share,
    Task,
    Tree,
    Workspace,
    count_by,
)


async def collect(box: Sandbox, task: Task, transcript: Transcript) -> None:
    """Run the task's own collecting commands; their failure is told, not fatal."""
    for asked in task.verifier.collect:
        result = await box.exec(
            ["sh", "-c", asked.command], user=asked.user, timeout_s=asked.timeout_s
        )
        if not result.ok:
            transcript.event("collect_failed", f"`{asked.command}`: exit code {result.exit_code}")


def workspace_of(task: Task, spec: SandboxSpec) -> Workspace:
    """What the agent of this task may bring to its scorer."""
    return Workspace.of(
        spec.workdir or spec.image.workdir,
        (output.source for output in task.outputs),
        (*spec.image.env, *spec.env),
    )


def left_out(changes: Changes) -> str:
    """What of the agent's the scorer will not see, in words; empty for nothing.

    Who wonders about a zero learns from it that the work lay where nobody looks.
    """
    if not changes.entries:
        return ""
    count = f"{len(changes.entries)}{' and more' if changes.more else ''}"
    folders = count_by(posixpath.dirname(change.path) for change in changes.entries)
    most = sorted(folders, key=lambda folder: -folders[folder])[:SHOWN]
    return f"{count} names outside of the workspace, most of them in {', '.join(most)}"


def launched_outside(steps: Iterable[BuildStep], workspace: Workspace) -> tuple[BuildStep, ...]:
    """What of a launch is to be done again: files that went where the agent's are left out.

    Commands are not, since they would work on what the agent left.
    """
    again = []
    for step in steps:
        if step.op == "object" and workspace.share(step.dest) is Share.NONE:
            again.append(step)
        elif step.op == "put" and step.tree is not None:
            entries = tuple(
                entry
                for entry in step.tree.entries
                if workspace.share(posixpath.join(step.dest, entry.path)) is Share.NONE
            )
            if entries:
                again.append(replace(step, tree=Tree(entries)))
    return tuple(again)


async def take_output(
    box: Sandbox, output: Output, transcript: Transcript
) -> tuple[Tree, str] | None:
    """The output's files and the folder of the scoring sandbox they go to.

    Missing and hostile outputs are left out: the agent answers for them by its score.
    """
    place = PurePosixPath(output.destination or output.source)
    try:
        tree = await box.get_tree(output.source)
        if await _is_file(box, output.source, tree):
            return Tree((replace(tree.entries[0], path=place.name),)), str(place.parent)
    except FileNotFoundError:
        transcript.event("output_missing", output.source)
        return None
    except SandboxLost:
        raise
    except SandboxError as exc:
        transcript.integrity.append(f"output_refused:{output.source}: {exc}")
        return None
    return tree.without(output.exclude), str(place)


async def _is_file(box: Sandbox, path: str, tree: Tree) -> bool:
    """Whether `tree` is a plain file, which looks like a folder with just one."""
    if len(tree.entries) != 1 or tree.entries[0].kind != "file":
        return False
    try:
        await box.read_file(path, limit_bytes=max(tree.size_bytes, 1))
    except SandboxLost:
        raise
    except SandboxError:
        return False
    return True


async def lay_output(box: Sandbox, tree: Tree, folder: str) -> None:
    """Put an output where the scorer looks for it, whatever its image has there."""
    try:
        await lay(box, tree, folder)
    except SandboxLost:
        raise
    except SandboxError:
        for entry in tree.entries:
            if entry.kind != "dir":
                await box.remove(posixpath.join(folder, entry.path))
        await lay(box, tree, folder)
