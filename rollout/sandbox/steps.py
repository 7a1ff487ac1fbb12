"""What a blueprint's steps mean, for every engine alike."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace

from rollout.errors import BuildError, SandboxError
from rollout.sandbox.base import Objects, Sandbox
from rollout.sandbox.build_log import BuildLog
from rollout.types import Blueprint, BuildStep, Tree

BLOB = "blob"
"""The one entry of an object that is no tar."""
RUN_TIMEOUT_S = 3600.0
"""Of one `run` step, where the caller sets no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a command of a `run` step starts: what the steps before it have said."""

    env: tuple[tuple[str, str], ...] = ()
    workdir: str = "/"
    user: str = "root"

    def after(self, step: BuildStep) -> "Setting":
        match step.op:
            case "env":
                return replace(self, env=tuple({**dict(self.env), step.key: step.value}.items()))
            case "workdir":
                return replace(self, workdir=step.dest)
            case "user":
                return replace(self, user=step.value)
        return self


async def apply_steps(
    sandbox: Sandbox,
    blueprint: Blueprint,
    *,
    setting: Setting | None = None,
    objects: Objects | None = None,
) -> None:
    """Do the steps that change files, in order, in a live sandbox of the blueprint's base.

    Steps that only set how processes start (`env`, `user`) are told by `image_settings`. Raises
    BuildError that names the blueprint and the step, whatever went wrong in it.

    setting: what the base itself says of how processes start.
    """
    setting = setting or Setting()
    for number, step in enumerate(blueprint.steps, start=1):
        where = f"blueprint {blueprint.name!r}, step {number} of {len(blueprint.steps)}"
        await apply_step(sandbox, step, where, setting=setting, objects=objects)
        setting = setting.after(step)


async def apply_step(
    sandbox: Sandbox,
    step: BuildStep,
    where: str,
    *,
    setting: Setting | None = None,
    objects: Objects | None = None,
    timeout_s: float = RUN_TIMEOUT_S,
) -> None:
    """One step alone, for engines that keep a layer of each; `where` begins the error message."""
    try:
        match step.op:
            case "put":
                await sandbox.put_tree(step.tree or Tree(), step.dest, owner=step.owner)
            case "object":
                await _put_object(sandbox, step, where, objects)
            case "run":
                await run_step(sandbox, step, where, setting or Setting(), timeout_s=timeout_s)
            case "workdir":
                await sandbox.put_tree(Tree(), step.dest, owner=step.owner)
            case "env" | "user":
                pass
            case "state":
                raise BuildError(f"{where}: a kept state needs the native engine, as root")
            case unknown:
                raise BuildError(
                    f"{where}: {unknown!r} is none of put, object, run, workdir, env, user"
                )
    except (SandboxError, OSError) as exc:
        raise BuildError(f"{where} ({describe(step)}): {exc}") from exc


async def _put_object(
    sandbox: Sandbox, step: BuildStep, where: str, objects: Objects | None
) -> None:
    if objects is None:
        raise BuildError(f"{where}: object {step.object_id} is wanted, and there is no store of it")
    tree = await objects.tree(step.object_id)
    if [entry.path for entry in tree.entries] == [BLOB]:
        await sandbox.write_file(step.dest, tree.entries[0].data, user=step.owner)
    else:
        await sandbox.put_tree(tree, step.dest, owner=step.owner)


async def run_step(
    sandbox: Sandbox,
    step: BuildStep,
    where: str,
    setting: Setting,
    *,
    timeout_s: float = RUN_TIMEOUT_S,
    env: Mapping[str, str] | None = None,
    log: BuildLog | None = None,
) -> None:
    """One `run` step. BuildError with the end of what it said, unless it exits with 0 in time.

    env: below what the step and those before it have set.
    log: takes all it says; finished here.
    """
    log = log or BuildLog()
    try:
        async with await sandbox.start(
            step.argv,
            env={**(env or {}), **dict(setting.env), **dict(step.env)},
            cwd=setting.workdir,
            user=step.user or setting.user,
            timeout_s=timeout_s,
        ) as process:
            await process.close_stdin()
            async for stream, data in process:
                log.write(stream, data)
            done = await process.wait()
    finally:
        said = log.finish()
    if done.ok:
        return
    how = f"took longer than {timeout_s:g} s" if done.timed_out else f"exit code {done.exit_code}"
    raise BuildError(f"{where} ({describe(step)}): {how}" + (f"\n{said}" if said else ""))


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
    if step.op == "run":
        return f"run {shlex.join(step.argv)[:200]}"
    if step.op == "object":
        return f"object {step.object_id[:19]} at {step.dest}"
    if step.op == "state":
        return f"kept state {step.object_id[:19]}"
    return f"{step.op} {step.dest or step.value}"


def image_settings(
    blueprint: Blueprint, base: Setting | None = None
) -> tuple[tuple[tuple[str, str], ...], str, str]:
    """How processes of the image start: (env, workdir, user), the last step of a kind winning.

    The blueprint's own `env`, `workdir` and `user` are no part of the image: they are laid over
    it by `SandboxSpec.for_blueprint`.
    """
    setting = base or Setting()
    for step in blueprint.steps:
        setting = setting.after(step)
    return setting.env, setting.workdir, setting.user
