"""What is carried from the agent's sandbox to the scorer's: last words and declared outputs."""

from dataclasses import replace
from pathlib import PurePosixPath

from rollout.errors import SandboxError, SandboxLost, TreeRefused
from rollout.sandbox.base import Sandbox
from rollout.transcript import Transcript
from rollout.types import Output, Task, Tree


async def collect(box: Sandbox, task: Task, transcript: Transcript) -> None:
    """Run the task's own collecting commands; their failure is told, not fatal."""
    for asked in task.verifier.collect:
        result = await box.exec(
            ["sh", "-c", asked.command], user=asked.user, timeout_s=asked.timeout_s
        )
        if not result.ok:
            transcript.event("collect_failed", f"`{asked.command}`: exit code {result.exit_code}")


async def take_output(
    box: Sandbox, output: Output, transcript: Transcript
) -> tuple[Tree, str] | None:
    """The output's files and the folder of the scoring sandbox they go to.

    Missing and hostile outputs are left out: the agent answers for them by its score.
    """
    place = PurePosixPath(output.destination or output.source)
    try:
        tree = await box.get_tree(output.source)
        if await _is_file(box, output.source):
            return Tree((replace(tree.entries[0], path=place.name),)), str(place.parent)
    except FileNotFoundError:
        transcript.event("output_missing", output.source)
        return None
    except TreeRefused as exc:
        transcript.integrity.append(f"output {output.source} refused: {exc}")
        return None
    return tree.without(output.exclude), str(place)


async def _is_file(box: Sandbox, path: str) -> bool:
    try:
        await box.read_file(path)
    except SandboxLost:
        raise
    except SandboxError:
        return False
    return True
