"""From the names of images that others use to the bases this machine has."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

from rollout.errors import ConfigError
from rollout.sandbox.base import Engine
from rollout.sandbox.bases import HOST, WITH_PATH, parse_base
from rollout.sandbox.survey import source_digest
from rollout.types import Blueprint, Task


def find_base(image: str, images: Mapping[str, str]) -> str:
    """The base that stands for `image`: exact names first, then globs, in the map's order.

    `docker.io/library/python:3.11-slim` and `python:3.11-slim` are one name, and no tag means
    `latest`, as for Docker. `host` stands for itself. ConfigError shows the line to add.
    """
    name = image_name(image)
    for known, base in images.items():
        if image_name(known) == name:
            return base
    for known, base in images.items():
        if fnmatchcase(name, known):
            return base
    if image == HOST:
        return HOST
    raise ConfigError(
        f"no base is known for the image {image!r}; "
        f'add to task.images: {{"{image}": {HOST}}} or another base'
    )


def image_name(image: str) -> str:
    """The short spelling of an image's name, always with a tag or digest."""
    name = image.removeprefix("docker.io/").removeprefix("library/")
    if "@" in name or ":" in name.rpartition("/")[2]:
        return name
    return f"{name}:latest"


def check_images(images: Mapping[str, str]) -> dict[str, str]:
    """The map as a plain dict; ConfigError when it is not name to base."""
    for image, base in images.items():
        if not isinstance(base, str) or not base:
            raise ConfigError(f"task.images: {image!r} is mapped to {base!r}; use a base's name")
    return {str(image): base for image, base in images.items()}


def pin_bases(tasks: Iterable[Task], engine: Engine) -> list[Task]:
    """The tasks, each rootfs with the fingerprint of what it holds now.

    So a changed folder is a changed task, and a worker that finds another content says so instead
    of using it. ConfigError for every base that is wrong, missing or not for this engine. Each
    base is looked through once; `host-frozen` is left to each machine, which freezes its own.
    """
    tasks = list(tasks)
    pinned: dict[str, str] = {}
    wrong = []
    for base, task_id in _bases(tasks).items():
        try:
            pinned[base] = _pinned(base, engine)
        except ConfigError as exc:
            wrong.append(f"task {task_id}: {exc}")
    if wrong:
        raise ConfigError("\n".join(wrong))

    def settle(blueprint: Blueprint) -> Blueprint:
        return replace(blueprint, base=pinned[blueprint.base])

    return [
        replace(
            task,
            blueprint=settle(task.blueprint),
            verifier=replace(
                task.verifier,
                blueprint=task.verifier.blueprint and settle(task.verifier.blueprint),
            ),
        )
        for task in tasks
    ]


def _bases(tasks: Iterable[Task]) -> dict[str, str]:
    """Every base, and the first task that wants it."""
    found: dict[str, str] = {}
    for task in tasks:
        for blueprint in (task.blueprint, task.verifier.blueprint or task.blueprint):
            found.setdefault(blueprint.base, task.id)
    return found


def _pinned(text: str, engine: Engine) -> str:
    base = parse_base(text)
    if base.kind not in engine.bases:
        raise ConfigError(
            f"base {text!r}: the engine {engine.name} has only {', '.join(sorted(engine.bases))}"
        )
    if base.kind not in WITH_PATH or base.digest:
        return text
    return str(base.pinned(source_digest(base)))
