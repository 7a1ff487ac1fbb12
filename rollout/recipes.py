"""A blueprint by its name: its words found, its mounts resolved, its limits filled in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rollout.checks import nearest
from rollout.compose import compose, conf_dir, read_yaml
from rollout.config import (
    BlueprintConf,
    EngineConf,
    ObjectsConf,
    ResourcesConf,
    RunConf,
    limits_of,
    resources_of,
)
from rollout.errors import ConfigError
from rollout.mounts import resolve
from rollout.objects.store import ObjectStore
from rollout.objects.where import open_objects
from rollout.plan import LIMIT_OF
from rollout.sandbox.bases import parse_base
from rollout.tasks.blueprint import overlaid, read_foundation, read_launch, with_additions
from rollout.types import Blueprint
from rollout.types.digests import digest_without

YAML = (".yaml", ".yml")
OWN_CONF = Path("conf")
"""A folder of options beside where one stands, which is looked in without being named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What a name means, before anything is read that it names."""

    name: str
    words: BlueprintConf
    rest: RunConf
    """The engine, the object store, the limits of all."""
    folder: Path = Path()
    """What paths are relative to."""


def named(
    name: str,
    *,
    config_dir: str | None = None,
    overrides: Sequence[str] = (),
    words: Mapping[str, Any] | None = None,
) -> Named:
    """
    name: an option of `conf/blueprint`, a YAML file, or a base.
    config_dir: a folder with more options; without one, `conf` where one stands is looked in.
    overrides: of a run's config, `key=value`.
    words: in place of the blueprint's own; limits may stand without `resources`.

    ConfigError has a line for each word that is not known or not fit.
    """
    if config_dir is None and (OWN_CONF / "blueprint").is_dir():
        config_dir = str(OWN_CONF)
    options = _options(config_dir)
    if name in options:
        conf = compose([f"blueprint={name}", *overrides], config_dir).conf
        found = Named(name=name, words=conf.blueprint, rest=conf)
    else:
        touched = [word for word in overrides if word.lstrip("+").startswith("blueprint")]
        if touched:
            raise ConfigError(f"{touched[0]}: {name!r} is no option of conf/blueprint to change")
        conf = compose(overrides, config_dir).conf
        found = Named(name=name, rest=conf, **_elsewhere(name, options))
    return replace(found, words=overlaid(found.words, _with_limits(words or {})))


def with_engine(found: Named, engine: EngineConf) -> Named:
    """The same, to be made by this engine."""
    return replace(found, rest=replace(found.rest, engine=engine))


def _options(config_dir: str | None) -> list[str]:
    folders = [conf_dir(), *([Path(config_dir)] if config_dir else [])]
    return sorted({path.stem for f in folders for path in (f / "blueprint").glob("*.yaml")})


def _elsewhere(name: str, options: Sequence[str]) -> dict[str, Any]:
    """What a name is that is no option: a file, or a base."""
    if name.endswith(YAML):
        words = overlaid(BlueprintConf(), read_yaml(Path(name)))
        return {"words": words, "folder": Path(name).parent}
    try:
        parse_base(name)
    except ConfigError as exc:
        hint = nearest(name, list(options)) or f"; there are: {', '.join(options)}"
        raise ConfigError(f"blueprint: {name!r} is no option{hint} ({exc})") from exc
    return {"words": BlueprintConf(base=name, workdir="/")}


def _with_limits(words: Mapping[str, Any]) -> dict[str, Any]:
    limits = {key: value for key, value in words.items() if key in LIMIT_OF}
    others = {key: value for key, value in words.items() if key not in LIMIT_OF}
    if limits:
        others["resources"] = {**dict(others.get("resources", {})), **limits}
    return others


def recipe(found: Named, objects: ObjectStore) -> Blueprint:
    """All of it. Blocks, and may fetch what is mounted. ConfigError for all that is wrong."""
    own = read_foundation(found.words, name=found.name, folder=found.folder)
    limits = resources_of(limits_of(found.words, found.rest.resources))
    added, _ = additions(found.words, objects)
    return replace(with_additions(own, added), resources=limits)


def additions(words: BlueprintConf, objects: ObjectStore) -> tuple[Blueprint, tuple[str, ...]]:
    """What all tasks of a run get of its blueprint, those with a computer of their own too; and
    what people should hear of it."""
    launch = read_launch(words)
    mounted = resolve(words.mounts, objects)
    added = Blueprint(
        steps=mounted.baked,
        launch=(*mounted.launch, *launch),
        ready=words.ready,
        agents=mounted.agents,
        secrets=mounted.secrets,
    )
    return added, mounted.notes


def blueprint_of(
    name: str = "default",
    config_dir: str | None = None,
    *,
    objects: ObjectsConf | None = None,
    **words: Any,
) -> Blueprint:
    """The recipe that a name means, with its limits and those that `conf/` gives to all.

    `blueprint_of("host", size="small", steps=[{"run": "make"}])`: see `named` for the arguments.
    objects: where mounted objects are; unless said, where a run of this folder has them.
    """
    found = named(name, config_dir=config_dir, words=words)
    store = open_objects(objects or found.rest.objects, found.rest.store)
    try:
        return recipe(found, store)
    finally:
        store.close()


def content_hash(blueprint: Blueprint) -> str:
    """64 hex digits over all that matters in a sandbox; not what it is called, nor where the values
    of its secrets come from."""
    return digest_without(blueprint, "name", "secrets")


def usual_limits() -> dict[str, Any]:
    """Limits that are there when nobody has written one."""
    return {name: getattr(ResourcesConf(), name) for name in LIMIT_OF}
