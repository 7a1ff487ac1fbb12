"""The tasks of a run, as each of its arms has them: on the computer of the arm's own blueprint."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from rollout import plan, plugins
from rollout.blueprints import pin_bases, pin_blueprint
from rollout.compose import Composed
from rollout.config import BlueprintConf, Point, ResourcesConf, RunConf, limits_of
from rollout.errors import ConfigError
from rollout.objects.where import open_objects
from rollout.recipes import additions, content_hash
from rollout.sandbox.base import Engine
from rollout.tasks.base import TaskSource
from rollout.tasks.blueprint import read_foundation, with_additions
from rollout.types import Arm, Blueprint, Task, canonical_json, digest_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The tasks of one arm."""

    conf: RunConf
    """With the arm's own blueprint."""
    asked: tuple[Task, ...]
    """With the limits that somebody wrote for them, and no others."""
    own: Blueprint | None
    """The run's own, as a task without a computer has it; where arms may differ in it."""
    notes: tuple[str, ...]

    @property
    def limits(self) -> ResourcesConf:
        """For what tasks leave open."""
        return limits_of(self.conf.blueprint, self.conf.resources)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """As they are run."""
        return plan.complete_tasks(self.asked, self.limits, self.conf.timeouts)

    @property
    def blueprint(self) -> str:
        return "" if self.own is None else digest_of([content_hash(self.own), self.limits])


def load_arms(composed: Composed) -> list[Load]:
    """Of each arm; those of one blueprint are loaded once. Bases are not held to a content yet."""
    swept = any(key.partition(".")[0] == "blueprint" for key, _ in composed.points[0].settings)
    loads: dict[str, Load] = {}
    confs = [conf_of(composed.conf, point) for point in composed.points]
    keys = [canonical_json(conf.blueprint) for conf in confs]
    for key, conf in zip(keys, confs, strict=True):
        if key not in loads:
            loads[key] = _load(conf, swept)
    return [loads[key] for key in keys]


def load_one(conf: RunConf, task_id: str) -> Load:
    """One task alone; ConfigError when it is not among those of the source."""
    found = [task for task in task_source(conf).load() if task.id == task_id]
    if not found:
        raise ConfigError(f"task {task_id} is no more among those of the run's task source")
    return Load(conf=conf, asked=tuple(_as_wanted(found, _added(conf)[0])), own=None, notes=())


def conf_of(conf: RunConf, point: Point) -> RunConf:
    """The run's config, its tasks on the computer of one arm, its agent installed there."""
    blueprint = _with_agent(point.conf.blueprint, plugins.make(plugins.plugin_of(point.conf.agent)))
    return replace(conf, blueprint=blueprint, task=point.conf.task)


def _with_agent(blueprint: BlueprintConf, agent: Any) -> BlueprintConf:
    """With what an agent that is a program says it must have mounted."""
    wanted = agent.mounts() if callable(getattr(agent, "mounts", None)) else ()
    if not wanted:
        return blueprint
    if getattr(agent, "fetched", False) and blueprint.build_network != "host":
        raise ConfigError(
            f"agent {agent.name}: {wanted[0]['source']} is fetched while the image is built, and "
            "blueprint.build_network is none; write blueprint.build_network=host"
        )
    return replace(blueprint, mounts=[*blueprint.mounts, *map(dict, wanted)])


def _load(conf: RunConf, swept: bool) -> Load:
    source = task_source(conf)
    added, told = _added(conf)
    own = read_foundation(conf.blueprint, name="") if swept else None
    return Load(
        conf=conf,
        asked=tuple(_as_wanted(source.load(), added)),
        own=own and with_additions(own, added),
        notes=(*told, *(f"left out: {line}" for line in source.skipped)),
    )


def pinned(loads: Sequence[Load], engine: Engine) -> list[Load]:
    """With every base held to what it is now, each looked at once."""
    done: dict[int, Load] = {}
    for each in distinct(loads):
        asked = tuple(pin_bases(each.asked, engine))
        own = each.own and pin_blueprint(each.own, engine)
        done[id(each)] = replace(each, asked=asked, own=own)
    return [done[id(each)] for each in loads]


def distinct(loads: Iterable[Load]) -> list[Load]:
    """Each once: arms of one blueprint have theirs in common."""
    return list({id(each): each for each in loads}.values())


def notes_of(loads: Iterable[Load]) -> Iterator[str]:
    """What people should hear."""
    for each in distinct(loads):
        yield from each.notes


def variants_of(arms: Sequence[Arm], loads: Sequence[Load]) -> tuple[tuple[str, Task], ...]:
    """Tasks that are not in every arm what they are in the first. ConfigError where one has more
    or fewer than another."""
    found = []
    usual = loads[0].tasks
    for arm, load in zip(arms, loads, strict=True):
        tasks = usual if load is loads[0] else load.tasks
        if [task.id for task in tasks] != [task.id for task in usual]:
            raise ConfigError(f"arm {arm.name}: its blueprint gives other tasks than the first arm")
        pairs = zip(tasks, usual, strict=True) if tasks is not usual else ()
        found += [(arm.name, own) for own, other in pairs if own.digest != other.digest]
    return tuple(found)


def limits_to_hold(loads: Iterable[Load]) -> tuple[str, ...]:
    """Limits that somebody wrote and wants held, by the engines' names."""
    held = {
        limit for each in distinct(loads) for limit in plan.limits_to_hold(each.asked, each.limits)
    }
    return tuple(sorted(held))


def _added(conf: RunConf) -> tuple[Blueprint, tuple[str, ...]]:
    """What the run's blueprint gives to every task, and what people should hear of it."""
    objects = open_objects(conf.objects, conf.store, root_dir=conf.engine.root_dir)
    try:
        return additions(conf.blueprint, objects)
    finally:
        objects.close()


def _as_wanted(tasks: Iterable[Task], added: Blueprint) -> list[Task]:
    """With what every task is given."""
    return [replace(task, blueprint=with_additions(task.blueprint, added)) for task in tasks]


def task_source(conf: RunConf) -> TaskSource:
    """The configured source, nothing loaded yet."""
    return cast(TaskSource, plugins.make(plugins.plugin_of(conf.task)))
