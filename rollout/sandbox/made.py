"""From a blueprint to what a sandbox is made of: its image, and what each launch puts into it.

A sandbox has no network, so what a launch would have to install is made beforehand: once for each
image, in a sandbox where builds may use the network, and kept as an object for all nodes.
"""

import platform
import socket
from dataclasses import replace

from rollout.aio import shielded
from rollout.errors import BuildError, SandboxError
from rollout.sandbox.base import Engine, Image, Objects, SandboxSpec
from rollout.sandbox.bases import HOST
from rollout.types import Blueprint, BuildStep, Tree, digest_of

MADE_LIMIT_BYTES = 1 << 30
MADE_LIMIT_ENTRIES = 200_000


async def make_spec(
    engine: Engine, blueprint: Blueprint, objects: Objects | None = None
) -> SandboxSpec:
    """Build what is missing. BuildError says which step of which blueprint failed, and how.

    Immediate where all of it is there.
    """
    image = await engine.build(blueprint)
    launch = [await _ready(engine, image, blueprint, step, objects) for step in blueprint.launch]
    return SandboxSpec.for_blueprint(image, replace(blueprint, launch=tuple(launch)))


async def _ready(
    engine: Engine, image: Image, blueprint: Blueprint, step: BuildStep, objects: Objects | None
) -> BuildStep:
    """A launch step for which no network is needed."""
    if step.op != "made":
        return step
    if objects is None:
        raise BuildError(f"blueprint {blueprint.name!r}: {step.dest} needs an object store")
    name = f"made/{_key(image, blueprint, step)}"
    object_id = await objects.made(name)
    if object_id is None:
        steps = (*blueprint.steps, *step.steps)
        tree = await _make(engine, replace(blueprint, steps=steps), step.dest)
        object_id = await objects.keep(name, tree)
    return BuildStep(op="object", object_id=object_id, dest=step.dest, owner=step.owner)


def _key(image: Image, blueprint: Blueprint, step: BuildStep) -> str:
    # The host's own /usr has no digest, so what was made on it is for this machine alone.
    of_machine = socket.gethostname() if blueprint.base.startswith(HOST) else ""
    parts = (image.engine, image.digest, image.layers, step, blueprint.build_network)
    return digest_of([*parts, platform.machine(), of_machine])


async def _make(engine: Engine, blueprint: Blueprint, dest: str) -> Tree:
    """What `dest` holds once the blueprint's steps are done."""
    try:
        image = await engine.build(replace(blueprint, launch=(), ready=""))
        sandbox = await engine.create(SandboxSpec(image=image))
        try:
            return await sandbox.get_tree(
                dest, limit_bytes=MADE_LIMIT_BYTES, limit_entries=MADE_LIMIT_ENTRIES
            )
        finally:
            await shielded(sandbox.close())
    except (SandboxError, FileNotFoundError) as exc:
        raise BuildError(f"blueprint {blueprint.name!r}: {dest} as it was made: {exc}") from exc
