"""From the names of images that others use to the bases this machine has."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from rollout.errors import BuildError, ConfigError, SandboxError
from rollout.sandbox import daemon_images
from rollout.sandbox.base import Engine
from rollout.sandbox.bases import DEBIAN, HOST, IMAGE, NAMED, Base, parse_base
from rollout.sandbox.debian import made_digest
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
    """The tasks, each rootfs and archive with the fingerprint of what it holds now, each image
    with its id.

    So a changed folder is a changed task, and a worker that finds another content says so instead
    of using it. ConfigError for every base that is wrong, missing or not for this engine, and for
    every Dockerfile that only a daemon can build where the engine has none. Each
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
    if "dockerfile" not in engine.features:
        wrong += _whole_dockerfiles(tasks)
    if wrong:
        raise ConfigError("\n".join(wrong))

    def settle(blueprint: Blueprint) -> Blueprint:
        if blueprint.dockerfile is not None:
            return blueprint
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


def _whole_dockerfiles(tasks: Iterable[Task]) -> Iterator[str]:
    for task in tasks:
        for blueprint in (task.blueprint, task.verifier.blueprint):
            if blueprint is not None and blueprint.dockerfile is not None:
                yield (
                    f"task {task.id}: {blueprint.dockerfile.needs}: only a Docker daemon can build "
                    "that; use engine=docker"
                )


def _bases(tasks: Iterable[Task]) -> dict[str, str]:
    """Every base, and the first task that wants it."""
    found: dict[str, str] = {}
    for task in tasks:
        for blueprint in (task.blueprint, task.verifier.blueprint or task.blueprint):
            if blueprint.dockerfile is None:
                found.setdefault(blueprint.base, task.id)
    return found


def pin_blueprint(blueprint: Blueprint, engine: Engine) -> Blueprint:
    """One alone, as `pin_bases` has it."""
    if blueprint.dockerfile is not None:
        return blueprint
    return replace(blueprint, base=_pinned(blueprint.base, engine))


def pinned_base(text: str, engine: Engine, root_dir: str) -> str:
    """The base with the fingerprint of what it holds now, where that can be known before a build.

    Of `debian` it can once that was made below `root_dir`. ConfigError as of `pin_bases`.
    """
    pinned = _pinned(text, engine)
    base = parse_base(pinned)
    if base.kind == DEBIAN and not base.digest:
        return str(base.pinned(made_digest(Path(root_dir), base.path)))
    return pinned


def _pinned(text: str, engine: Engine) -> str:
    base = parse_base(text)
    if base.kind not in engine.bases:
        raise ConfigError(
            f"base {text!r}: the engine {engine.name} has only {', '.join(sorted(engine.bases))}"
        )
    if base.digest or base.kind not in NAMED:
        return text
    return str(base.pinned(image_digest(base) if base.kind == IMAGE else source_digest(base)))


def image_digest(base: Base) -> str:
    """Of an image of the Docker daemon: its id, without `sha256:`. ConfigError. Blocks."""
    try:
        return daemon_images.image_digest(base.path)
    except (BuildError, SandboxError) as exc:
        raise ConfigError(
            f"base {base}: {exc}; where the daemon of another machine has it, write its id: "
            f"{base}@sha256:…"
        ) from exc
