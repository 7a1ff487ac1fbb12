"""From a sandbox that an engine made to one that somebody may have: mounts, commands, a check.

An engine only makes and ends sandboxes. What a blueprint wants done in each one is done here, once
for all engines, and before a warm sandbox counts as ready.
"""

import asyncio

from rollout.aio import Deadline
from rollout.errors import BuildError, SandboxError
from rollout.sandbox.base import Objects, Sandbox
from rollout.sandbox.steps import Setting, apply_step

LAUNCH_TIMEOUT_S = 300.0
"""Of each launch command."""
READY_TIMEOUT_S = 60.0
READY_INTERVAL_S = 0.1
TAIL_CHARS = 500


async def launch(sandbox: Sandbox, objects: Objects | None = None) -> None:
    """Do what the sandbox's spec says is done at each start; BuildError or SandboxError if not.

    Cheap where there is nothing to do. Background processes that a command leaves live on.
    """
    spec = sandbox.spec
    image = spec.image
    setting = Setting(
        env=tuple({**dict(image.env), **dict(spec.env)}.items()),
        workdir=spec.workdir or image.workdir,
        user=spec.user or image.user,
    )
    for number, step in enumerate(spec.launch, start=1):
        where = f"launch step {number} of {len(spec.launch)}"
        if step.op == "made":
            raise BuildError(f"{where}: {step.dest} was not made beforehand (see made.py)")
        await apply_step(
            sandbox, step, where, setting=setting, objects=objects, timeout_s=LAUNCH_TIMEOUT_S
        )
        setting = setting.after(step)
    if spec.ready:
        await _until_ready(sandbox, spec.ready)


async def _until_ready(sandbox: Sandbox, command: str) -> None:
    deadline = Deadline.after(READY_TIMEOUT_S)
    while True:
        done = await sandbox.exec(["sh", "-c", command], timeout_s=max(deadline.left_s, 1.0))
        if done.ok:
            return
        if deadline.passed:
            said = (done.stdout + done.stderr).decode(errors="replace").strip()[-TAIL_CHARS:]
            raise SandboxError(
                f"blueprint.ready: `{command}` still fails after {READY_TIMEOUT_S:g} s, exit code "
                f"{done.exit_code}: {said}"
            )
        await asyncio.sleep(READY_INTERVAL_S)
