"""What is done at each launch, done once: mounts that go into the image, and who wrote them down.

The files are the same either way: the same steps are done, in the same order, as the last ones of
the build instead of the first ones of each launch. Launch commands stay what they are, since what
they start cannot be in an image.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from rollout.blueprints import pinned_base
from rollout.compose import conf_dir, write_yaml
from rollout.config import AUTO, KEEP_LIMIT_MAX_MB, BlueprintConf, EngineConf, ObjectsConf
from rollout.errors import ConfigError
from rollout.executor.engines import make_engine
from rollout.library import chosen_engine, running_engine
from rollout.mounts import in_image, resolve
from rollout.objects.store import ObjectStore
from rollout.objects.where import open_objects
from rollout.recipes import OWN_CONF, Named, blueprint_of, recipe
from rollout.sandbox.base import Engine, Sandbox
from rollout.tasks.blueprint import overlaid, read_foundation
from rollout.types import Blueprint

KEEP_TIMEOUT_S = 3_600.0
OPTION = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."


async def bake(
    blueprint: str | Blueprint,
    *,
    engine: str | EngineConf = AUTO,
    config_dir: str | None = None,
    objects: ObjectsConf | None = None,
) -> Blueprint:
    """The same computer with what it mounts at launch in its image, which is there afterwards.

    The arguments are those of `rollout.sandbox`, which takes what this gives back. BuildError says
    which step failed.
    """
    if isinstance(blueprint, str):
        blueprint = blueprint_of(blueprint, config_dir, objects=objects)
    baked = into_image(blueprint)
    asked = EngineConf(kind=engine) if isinstance(engine, str) else engine
    conf = chosen_engine(asked, baked)
    kept = open_objects(objects or ObjectsConf(), root_dir=conf.root_dir)
    async with running_engine(conf, kept) as running:
        await running.build(baked)
    return baked


def into_image(blueprint: Blueprint) -> Blueprint:
    """With its mounts among the steps of the build; commands come after them and stay."""
    mounts = [
        at
        for at, step in enumerate(blueprint.launch, start=1)
        if step.op != "run" or step.value  # of a mount, no launch command
    ]
    cut = max(mounts, default=0)
    steps = (*blueprint.steps, *in_image(blueprint.launch[:cut]))
    return replace(blueprint, steps=steps, launch=blueprint.launch[cut:])


# ---------------------------------------------------------------- kept by hand


def by_hand(found: Named, objects: ObjectStore) -> Blueprint:
    """The recipe for somebody who will change it and keep that: all mounts are put at launch, so
    that they are among what is kept."""
    mounts = [{**mount, "at": "launch"} for mount in found.words.mounts]
    return recipe(replace(found, words=replace(found.words, mounts=mounts)), objects)


async def keep(engine: Engine, box: Sandbox, found: Named, objects: ObjectStore) -> dict[str, Any]:
    """End a sandbox made `by_hand`; the words of a blueprint that begins with what it wrote.

    TreeRefused where that is too much, or where the engine keeps no states.
    """
    await box.kill_all()
    image = await box.end_as_image()
    limit_bytes = KEEP_LIMIT_MAX_MB << 20
    file = await engine.export_state(image, limit_bytes=limit_bytes, timeout_s=KEEP_TIMEOUT_S)
    try:
        object_id = await asyncio.to_thread(objects.put_path, file)
    finally:
        file.unlink()
    words = kept_words(found)
    below = read_foundation(overlaid(BlueprintConf(), words), name=found.name, folder=found.folder)
    state = {"object": object_id, "below": below.image_digest}
    return {**words, "states": [*found.words.states, state]}


# ---------------------------------------------------------------- written down


def baked_words(found: Named, objects: ObjectStore) -> dict[str, Any]:
    """The words of a blueprint whose mounts are in the image, each thing they name held to what it
    is now. Blocks, and may fetch."""
    check_movable(found)
    mounts = [each for mount in found.words.mounts for each in _baked(mount, objects)]
    return {**kept_words(found), **({"mounts": mounts} if mounts else {})}


def kept_words(found: Named) -> dict[str, Any]:
    """All words that were changed from what they are by default, but `mounts`; its base pinned."""
    words = _changed(found.words, BlueprintConf())
    words.pop("mounts", None)
    if not found.words.dockerfile.path:
        engine = make_engine(found.rest.engine, owner="plan")
        words["base"] = pinned_base(found.words.base, engine, found.rest.engine.root_dir)
    return words


def check_movable(found: Named) -> None:
    """ConfigError where a file in another place would not mean the same."""
    copies = found.words.dockerfile.path or any("copy" in step for step in found.words.steps)
    if copies and found.folder.resolve() != Path().resolve():
        raise ConfigError(
            f"{found.name}: its files are looked for in {found.folder}; do this in that folder, so "
            "that the new blueprint finds them too"
        )


def _baked(mount: Mapping[str, Any], objects: ObjectStore) -> list[dict[str, Any]]:
    """One mount `at: build`; where it names what may change, as the objects that it is now."""
    at_build = {**mount, "at": "build"}
    if mount.get("at") == "build":
        return [at_build]
    found = resolve([mount], objects)
    if found.agents:
        ((name, _, source),) = found.agents
        return [{**at_build, "source": source, "name": name}]
    if "content" in mount or any(step.op not in ("put", "object") for step in found.launch):
        return [at_build]
    return [
        {
            "kind": "object",
            "at": "build",
            "id": step.object_id if step.tree is None else objects.put_tree(step.tree),
            "dest": step.dest,
            **({"owner": step.owner} if step.owner else {}),
        }
        for step in found.launch
    ]


def _changed(conf: Any, usual: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in fields(conf):
        value, plain = getattr(conf, item.name), getattr(usual, item.name)
        if value != plain:
            nested = hasattr(plain, "__dataclass_fields__")
            found[item.name] = _changed(value, plain) if nested else _plain(value)
    return found


def _plain(value: Any) -> Any:
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value


def new_option(name: str, config_dir: str | None) -> Path:
    """Where the option of this name is to be written; ConfigError when it cannot be."""
    if not name or name[0] in ".-" or set(name) - set(OPTION):
        raise ConfigError(f"{name!r} cannot name an option; use letters, digits, '_', '-' and '.'")
    path = Path(config_dir or OWN_CONF) / "blueprint" / f"{name}.yaml"
    if path.exists() or (conf_dir() / "blueprint" / path.name).exists():
        raise ConfigError(f"{name}: there is a blueprint of this name; take another")
    return path


def write_option(path: Path, comment: str, words: Mapping[str, Any]) -> None:
    """A new file, with a comment of one or more lines on top."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_yaml(path, comment, words)


def how_to_use(path: Path, name: str) -> Sequence[str]:
    """What to tell people who have just made an option."""
    folder = path.parent.parent
    return (
        f"wrote {path}",
        f"use it: --config-dir {folder} blueprint={name}, or shell --blueprint {name}",
    )
