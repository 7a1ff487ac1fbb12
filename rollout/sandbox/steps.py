"""What a blueprint's steps mean, for every engine alike."""

from rollout.errors import BuildError, SandboxError
from rollout.sandbox.base import Sandbox
from rollout.types import Blueprint, BuildStep, Tree


async def apply_steps(sandbox: Sandbox, blueprint: Blueprint) -> None:
    """Do the steps that change files, in order, in a live sandbox of the blueprint's base.

    Steps that only set how processes start (`env`, `user`) are told by `image_settings`. Raises
    BuildError that names the blueprint and the step, whatever went wrong in it.
    """
    for number, step in enumerate(blueprint.steps, start=1):
        where = f"blueprint {blueprint.name!r}, step {number} of {len(blueprint.steps)}"
        await apply_step(sandbox, step, where)


async def apply_step(sandbox: Sandbox, step: BuildStep, where: str) -> None:
    """One step alone, for engines that keep a layer of each; `where` begins the error message."""
    try:
        match step.op:
            case "put":
                await sandbox.put_tree(step.tree or Tree(), step.dest, owner=step.owner)
            case "workdir":
                await sandbox.put_tree(Tree(), step.dest, owner=step.owner)
            case "env" | "user":
                pass
            case unknown:
                raise BuildError(f"{where}: {unknown!r} is none of put, workdir, env, user")
    except (SandboxError, OSError) as exc:
        raise BuildError(f"{where} ({describe(step)}): {exc}") from exc


def changes_files(step: BuildStep) -> bool:
    """Whether the step needs a sandbox at all."""
    return step.op not in ("env", "user")


def describe(step: BuildStep) -> str:
    """The step in a few words, such as `put 3 files in /app`."""
    if step.op == "put":
        files = len((step.tree or Tree()).files())
        return f"put {files} file{'' if files == 1 else 's'} in {step.dest}"
    if step.op == "env":
        return f"env {step.key}"
    return f"{step.op} {step.dest or step.value}"


def image_settings(blueprint: Blueprint) -> tuple[tuple[tuple[str, str], ...], str, str]:
    """How processes of the image start: (env, workdir, user), the last step of a kind winning.

    The blueprint's own `env`, `workdir` and `user` are no part of the image: they are laid over
    it by `SandboxSpec.for_blueprint`.
    """
    env: dict[str, str] = {}
    workdir, user = "/", "root"
    for step in blueprint.steps:
        match step.op:
            case "env":
                env[step.key] = step.value
            case "workdir":
                workdir = step.dest
            case "user":
                user = step.value
    return tuple(env.items()), workdir, user
