"""A blueprint as users write it, read into the recipe that engines know.

The words are those of `BlueprintConf`, wherever they come from: `conf/blueprint`, a command line,
a YAML file, a line of JSON, or arguments in Python. Everything is read here, so that what travels
to workers holds each file by value and each ref by what it was resolved to.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from rollout.checks import value_problems
from rollout.config import BlueprintConf
from rollout.egress import rules
from rollout.errors import ConfigError
from rollout.plugins import fits, spelled
from rollout.sandbox.base_settings import base_setting
from rollout.sandbox.bases import HOST, IMAGE, OCI
from rollout.tasks.blueprint_steps import read_steps, run_step
from rollout.tasks.dockerfile import Recipe, read_dockerfile
from rollout.tasks.problems import Problems, nearest
from rollout.tasks.trees import Budget
from rollout.types import Blueprint, BuildStep, Dockerfile

SIZE_LIMIT_BYTES = 64 << 20
"""Of all files that a blueprint takes by value."""
OBJECT_ID = re.compile(r"sha256:[0-9a-f]{64}")
WORKDIR = "/app"
"""Where neither the blueprint nor its image says one."""

Conf = TypeVar("Conf")


def overlaid(conf: BlueprintConf, words: Any, where: str = "blueprint") -> BlueprintConf:
    """`conf` with the keys of `words` in place of its own; maps of settings key by key.

    ConfigError has a line for each key that is unknown, of the wrong kind, or out of range.
    """
    problems = Problems()
    made = _overlaid(conf, words, where, problems)
    if not problems:
        problems.lines += value_problems(made, "blueprint.")
    if problems:
        raise ConfigError("\n".join(problems.lines))
    return made


def _overlaid(conf: Conf, words: Any, where: str, problems: Problems) -> Conf:
    if not isinstance(words, Mapping):
        problems.add(where, f"saw {words!r}; use a map of keys and values")
        return conf
    hints: dict[str, Any] = get_type_hints(type(conf))
    changed: dict[str, Any] = {}
    for key, value in words.items():
        own = getattr(conf, str(key), None)
        if key not in hints:
            problems.add(f"{where}.{key}", f"unknown key{nearest(str(key), _words(hints))}")
        elif is_dataclass(own) and not isinstance(own, type):
            plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
            changed[key] = _overlaid(own, plain, f"{where}.{key}", problems)
        elif fits(value, hints[key]):
            changed[key] = value
        else:
            problems.add(f"{where}.{key}", f"must be {spelled(hints[key])}, was {value!r}")
    return replace(conf, **changed)  # type: ignore[type-var]


def _words(hints: Mapping[str, Any]) -> list[str]:
    """The keys there are, and those one level below: who forgets the level is told all the same."""
    below = (get_type_hints(kind) for kind in hints.values() if is_dataclass(kind))
    return [*hints, *(word for found in below for word in found)]


def read_foundation(conf: BlueprintConf, *, name: str, folder: Path | None = None) -> Blueprint:
    """What sandboxes are made of and how processes start: all but limits, mounts and launch.

    name: for people. folder: what paths are relative to; none: where the command was started.
    ConfigError has a line for each key that is wrong.
    """
    problems = Problems()
    found = _foundation(conf, name, folder or Path(), problems)
    if problems:
        raise ConfigError("\n".join(problems.lines))
    return found


def read_launch(conf: BlueprintConf) -> tuple[BuildStep, ...]:
    """The launch commands as steps. ConfigError names the one that is empty."""
    for number, command in enumerate(conf.launch_commands):
        if not command.strip():
            raise ConfigError(f"blueprint.launch_commands[{number}]: is empty")
    return tuple(run_step(command) for command in conf.launch_commands)


def with_additions(own: Blueprint, added: Blueprint) -> Blueprint:
    """`own`, with what `added` puts into images and does at each start."""
    return replace(
        own,
        steps=(*own.steps, *added.steps),
        launch=(*own.launch, *added.launch),
        ready=added.ready or own.ready,
        agents=(*own.agents, *added.agents),
        secrets=tuple({**dict(own.secrets), **dict(added.secrets)}.items()),
    )


def _foundation(conf: BlueprintConf, name: str, folder: Path, problems: Problems) -> Blueprint:
    """Base and steps, and how processes start."""
    budget = Budget(
        SIZE_LIMIT_BYTES,
        whole="the blueprint",
        way_out="of files by value; mount an object in their place",
    )
    base: str = conf.base
    steps: tuple[BuildStep, ...] = ()
    whole: Dockerfile | None = None
    if conf.dockerfile.path:
        recipe = _of_dockerfile(conf, folder, budget, problems)
        base, steps, whole = recipe.base, recipe.steps, recipe.dockerfile
    elif any(vars(conf.dockerfile).values()):
        problems.add("blueprint.dockerfile.path", "must be given with context, args and the like")
    if conf.workdir and not conf.workdir.startswith("/"):
        problems.add("blueprint.workdir", f"saw {conf.workdir!r}; use an absolute path")
    for line in rules.problems(conf.network, conf.allowed_hosts):
        problems.lines.append(f"blueprint.{line}")
    begin = _workdir(conf, base, built=bool(steps) or whole is not None)
    own = read_steps(
        conf.steps,
        folder=folder,
        workdir=begin,
        secrets=conf.secrets,
        budget=budget,
        where="blueprint.steps",
        problems=problems,
    )
    made = (BuildStep(op="workdir", dest=begin),) if begin else ()
    moved = begin and any(step.op == "workdir" for step in own)
    steps = (*steps, *made, *own, *(made if moved else ()))
    below = Blueprint(base=base, dockerfile=whole, steps=steps, build_network=conf.build_network)
    return Blueprint(
        name=name,
        base=base,
        dockerfile=whole,
        steps=(*steps, *_states(conf.states, below, problems)),
        env=tuple(conf.env.items()),
        user=conf.user,
        network=conf.network,
        allowed_hosts=tuple(conf.allowed_hosts),
        build_network=conf.build_network,
        secrets=tuple(conf.secrets.items()),
        sudo=conf.sudo,
    )


def _states(
    said: Sequence[Mapping[str, str]], below: Blueprint, problems: Problems
) -> tuple[BuildStep, ...]:
    """Files over other files than they were written on would fit together by chance alone."""
    steps: tuple[BuildStep, ...] = ()
    for number, state in enumerate(said):
        where, object_id = f"blueprint.states[{number}]", state.get("object", "")
        on = replace(below, steps=(*below.steps, *steps)).image_digest
        if set(state) != {"object", "below"} or not OBJECT_ID.fullmatch(object_id):
            problems.add(where, f"saw {dict(state)!r}; use object: sha256:… and below: a digest")
        elif state["below"] != on:
            problems.add(where, "base or steps are others than it was kept on; keep it anew")
        steps += (BuildStep(op="state", object_id=object_id),)
    return steps


def _of_dockerfile(conf: BlueprintConf, folder: Path, budget: Budget, problems: Problems) -> Recipe:
    said = conf.dockerfile
    path = folder / Path(said.path).expanduser()
    context = folder / Path(said.context).expanduser() if said.context else path.parent
    for key, found, kind in (
        ("path", path.is_file(), path),
        ("context", context.is_dir(), context),
    ):
        if not found:
            problems.add(f"blueprint.dockerfile.{key}", f"{kind} does not exist")
    if conf.base != HOST:
        problems.add("blueprint.base", "leave it off: the Dockerfile's FROM says what it stands on")
    if problems:
        return Recipe(conf.base, ())
    recipe = read_dockerfile(
        path,
        context=context,
        field=said.path,
        images=said.images,
        budget=budget,
        problems=problems,
        args=said.args,
        target=said.target,
        setting_of=base_setting,
    )
    return recipe or Recipe(conf.base, ())


def _workdir(conf: BlueprintConf, base: str, *, built: bool) -> str:
    """Where its own steps begin and later all processes: the blueprint's, else `WORKDIR`.

    Empty where that is the image's to say, or that of the Dockerfile or a step.
    """
    image = base.partition(":")[0] in (OCI, IMAGE) or built
    said = any("workdir" in step for step in conf.steps if isinstance(step, Mapping))
    return conf.workdir or ("" if image or said else WORKDIR)
