"""`blueprint build | show | hash | bake`: one computer's recipe, without a run."""

import asyncio
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rollout.baking import baked_words, how_to_use, into_image, new_option, write_option
from rollout.blueprints import pinned_base
from rollout.checks import nearest
from rollout.commands.preview import limits_told, network_told
from rollout.errors import ConfigError
from rollout.executor.engines import make_engine
from rollout.library import chosen_engine, running_engine
from rollout.objects.store import ObjectStore
from rollout.objects.where import open_objects
from rollout.recipes import Named, content_hash, named, recipe, with_engine
from rollout.report.render import show, text
from rollout.sandbox.base import Image
from rollout.sandbox.made import make_spec
from rollout.sandbox.steps import describe
from rollout.types import Blueprint, BuildStep

USAGE = """\
python -m rollout blueprint build NAME [options] [key=value …]
python -m rollout blueprint show NAME [options] [key=value …]
python -m rollout blueprint hash NAME [options] [key=value …]
python -m rollout blueprint bake NAME [--as NEW] [options] [key=value …]

build makes the image and all that a launch needs; on failure it shows the end of what was said.
show tells the recipe: what is in the image, what is done at each launch, limits, agents, hash.
hash is one line over all that matters: the same inputs have the same one.
bake puts into the image what is mounted at launch, and with --as writes the blueprint NEW.

NAME              an option of conf/blueprint, a YAML file of the same words, or a base
--as NEW          written as conf/blueprint/NEW.yaml where you stand, or below --config-dir
--config-dir DIR  a folder with more options; without it ./conf is looked in
key=value         of a run's config, such as engine.root_dir=, objects.uri=, blueprint.size=
"""
VERBS = ("build", "show", "hash", "bake")
VALUED = ("--as", "--config-dir")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    verb: str
    name: str
    new: str | None
    config_dir: str | None
    overrides: tuple[str, ...]


def main(argv: Sequence[str]) -> int:
    if not argv or {"-h", "--help"} & set(argv):
        show(sys.stdout, text(USAGE))
        return 0
    asked = _read(argv)
    found = named(asked.name, config_dir=asked.config_dir, overrides=asked.overrides)
    rest = found.rest
    objects = open_objects(rest.objects, rest.store, root_dir=rest.engine.root_dir)
    try:
        blueprint = recipe(found, objects)
        found = with_engine(found, chosen_engine(rest.engine, blueprint))
        if asked.verb == "hash":
            sys.stdout.write(f"{content_hash(_pinned(blueprint, found))}\n")
        elif asked.verb == "show":
            show(sys.stdout, text("\n".join(_told(_pinned(blueprint, found)))))
        elif asked.verb == "build":
            _build(blueprint, found, objects)
        else:
            _bake(asked, blueprint, found, objects)
    finally:
        objects.close()
    return 0


def _read(argv: Sequence[str]) -> _Asked:
    options: dict[str, str] = {}
    plain, overrides = [], []
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name in VALUED:
            options[name] = value if equals else next(words, "")
            if not options[name]:
                raise ConfigError(f"{name}: must be followed by a value\n{USAGE}")
        elif word.startswith("-"):
            raise ConfigError(f"{word}: unknown{nearest(name, VALUED)}\n{USAGE}")
        elif equals:
            overrides.append(word)
        else:
            plain.append(word)
    if plain and plain[0] not in VERBS:
        hint = nearest(plain[0], VERBS) or f"; there are: {', '.join(VERBS)}"
        raise ConfigError(f"blueprint {plain[0]}: unknown{hint}")
    if len(plain) != 2:
        raise ConfigError(f"blueprint {plain[0] if plain else ''} takes one NAME\n{USAGE}")
    if "--as" in options and plain[0] != "bake":
        raise ConfigError(f"--as: belongs to bake\n{USAGE}")
    return _Asked(
        verb=plain[0],
        name=plain[1],
        new=options.get("--as"),
        config_dir=options.get("--config-dir"),
        overrides=tuple(overrides),
    )


def _pinned(blueprint: Blueprint, found: Named) -> Blueprint:
    engine = found.rest.engine
    base = pinned_base(blueprint.base, make_engine(engine, owner="plan"), engine.root_dir)
    return replace(blueprint, base=base)


# ---------------------------------------------------------------- build and bake


def _build(blueprint: Blueprint, found: Named, objects: ObjectStore) -> None:
    began = time.monotonic()
    with _progress():
        image = asyncio.run(_made(blueprint, found, objects))
    took_s = time.monotonic() - began
    lines = [
        f"built     {found.name} in {took_s:.1f} s",
        *_titled("layers", _layers(image, Path(found.rest.engine.root_dir))),
        f"hash      {content_hash(_pinned(blueprint, found))}",
    ]
    show(sys.stdout, text("\n".join(lines)))


async def _made(blueprint: Blueprint, found: Named, objects: ObjectStore) -> Image:
    async with running_engine(found.rest.engine, objects) as engine:
        return (await make_spec(engine, blueprint, objects)).image


def _bake(asked: _Asked, blueprint: Blueprint, found: Named, objects: ObjectStore) -> None:
    path = new_option(asked.new, asked.config_dir) if asked.new else None
    words = baked_words(found, objects) if path else {}
    _build(into_image(blueprint), found, objects)
    if asked.new and path:
        comment = f"{found.name}, with what it mounts at launch in its image."
        write_option(path, comment, words)
        show(sys.stdout, text("\n".join(how_to_use(path, asked.new))))


@contextmanager
def _progress() -> Iterator[None]:
    """What the engine tells while it builds, on the error output."""
    log, handler = logging.getLogger("rollout"), logging.StreamHandler(sys.stderr)
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def _layers(image: Image, root_dir: Path) -> list[str]:
    """Each with its size, where its files are on this machine's disk."""
    lines = []
    for name in image.layers:
        folder = root_dir / name
        size = f"  {_size_mb(folder):,.1f} MB" if folder.is_dir() else ""
        lines.append(f"{name}{size}")
    return lines


def _size_mb(folder: Path) -> float:
    sizes = (
        os.lstat(Path(above) / name).st_size
        for above, _, names in os.walk(folder)
        for name in names
    )
    return sum(sizes) / (1 << 20)


# ---------------------------------------------------------------- show


def _told(blueprint: Blueprint) -> Iterator[str]:
    """The recipe as text."""
    yield f"blueprint {blueprint.name}"
    yield f"hash      {content_hash(blueprint)}"
    if blueprint.dockerfile is None:
        yield f"base      {blueprint.base}"
    else:
        yield "base      a Dockerfile, built by a Docker daemon"
    yield from _titled("image", _steps(blueprint.steps) or ["the base as it is"])
    yield from _titled("launch", _steps(blueprint.launch))
    if blueprint.ready:
        yield f"ready     {blueprint.ready}"
    yield from _titled("env", [f"{name}={value}" for name, value in blueprint.env])
    if blueprint.workdir or blueprint.user:
        yield f"agent is  {blueprint.user or 'root'}, in {blueprint.workdir or 'its workdir'}"
    yield f"limits    {limits_told(blueprint.resources)}"
    yield f"network   {network_told(blueprint)}; {blueprint.build_network} while it is built"
    yield from _titled("secrets", [f"{id_} from ${name}" for id_, name in blueprint.secrets])
    agents = [f"{name} {version} ({source})" for name, version, source in blueprint.agents]
    yield from _titled("agents", agents)


def _steps(steps: Sequence[BuildStep]) -> list[str]:
    return [f"{number}. {describe(step)}" for number, step in enumerate(steps, start=1)]


def _titled(title: str, lines: Sequence[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        yield f"{title if not number else '':<9} {line}"
