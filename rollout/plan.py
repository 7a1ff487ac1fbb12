"""What a run has to do: arms × tasks × samples, checked against what its dataset already holds.

Everything here is a pure function of config, tasks and log. What changes results goes into the
digests (so a task without an agent limit takes the config's here, not in the worker); executor,
pool, store and retries never do.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from rollout import plugins
from rollout.config import Point, ResourcesConf, TimeoutsConf, arm_name
from rollout.dataset.state import RunState
from rollout.errors import ConfigError
from rollout.gateway.settings import ModelPlan, model_plan, model_record
from rollout.tasks.harbor_folder import ARTIFACTS
from rollout.types import (
    Arm,
    Blueprint,
    Outcome,
    Resources,
    RolloutSpec,
    ScoreMode,
    Task,
    Trust,
    group_id,
    trajectory_id,
)

SHOWN = 20
"""Lines of one kind in an error; the rest is counted."""

LIMIT_OF = {"cpu": "cpu", "memory_mb": "memory", "disk_mb": "disk", "pids": "pids"}
"""Field of `Resources` to the engines' name of the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A plan held against a log: what is there, what is missing."""

    total: int
    done: int
    unscored: int
    """Of the done: rows without a reward; `retry` makes them again."""
    done_by_arm: Mapping[str, int]

    @property
    def missing(self) -> int:
        return self.total - self.done

    @property
    def exit_code(self) -> int:
        """0: every planned rollout has a reward; 1: some have none."""
        return 1 if self.missing or self.unscored else 0


# ---------------------------------------------------------------- arms


def make_arms(points: Sequence[Point], blueprints: Sequence[str] = ()) -> tuple[Arm, ...]:
    """One arm for each point of the sweep; two that would give the same results are refused.

    blueprints: of each arm, the hash of its blueprint, where they differ.
    """
    hashes = blueprints or [""] * len(points)
    arms = tuple(
        replace(_arm(point), blueprint=own) for point, own in zip(points, hashes, strict=True)
    )
    by_digest: dict[str, str] = {}
    for arm in arms:
        twin = by_digest.setdefault(arm.digest, arm.name)
        if twin != arm.name:
            raise ConfigError(f"sweep: {twin} and {arm.name} are the same arm; leave one out")
    return arms


def _arm(point: Point) -> Arm:
    conf = point.conf
    agent = plugins.plugin_of(conf.agent)
    version = str(getattr(plugins.make(agent), "version", ""))
    return Arm(
        name=arm_name(point.settings),
        agent=replace(agent, version=version),
        scorer=plugins.plugin_of(conf.scorer),
        model=model_record(conf.model, conf.budget),
        score_mode=ScoreMode(conf.verifier.mode),
        trust=Trust(conf.verifier.trust),
        agent_timeout_s=conf.timeouts.agent_override_s,
        timeout_multiplier=conf.timeouts.multiplier,
        settings=tuple((key, str(value)) for key, value in point.settings),
    )


def models_of(points: Sequence[Point], arms: Sequence[Arm]) -> tuple[tuple[str, ModelPlan], ...]:
    """Arms by name, and the model of each that has one."""
    plans = (
        (arm.name, model_plan(p.conf.model, p.conf.budget))
        for arm, p in zip(arms, points, strict=True)
    )
    return tuple((name, plan) for name, plan in plans if plan is not None)


def arm_record(arm: Arm) -> dict[str, Any]:
    """An arm as the log keeps it: its digest, and enough to show a difference to people."""
    return {
        "digest": arm.digest,
        "agent": plugins.plain(arm.agent),
        "agent_version": arm.agent.version,
        "scorer": plugins.plain(arm.scorer),
        **({"blueprint": arm.blueprint} if arm.blueprint else {}),
        "model": arm.model,
        "score_mode": arm.score_mode.value,
        "trust": arm.trust.value,
        "agent_timeout_s": arm.agent_timeout_s,
        "timeout_multiplier": arm.timeout_multiplier,
        "settings": dict(arm.settings),
    }


def under_logged_names(arms: Sequence[Arm], state: RunState) -> tuple[Arm, ...]:
    """An arm that the log knows under another name keeps that name, so its rows stay its own.

    So a run that began without a sweep can be started again with one.
    """
    known = {record["digest"]: name for name, record in state.arms.items()}
    wanted = {arm.name for arm in arms}
    named = []
    for arm in arms:
        old = known.get(arm.digest, arm.name)
        named.append(replace(arm, name=arm.name if old in wanted else old))
    return tuple(named)


# ---------------------------------------------------------------- tasks


def complete_tasks(
    tasks: Iterable[Task], resources: ResourcesConf, timeouts: TimeoutsConf
) -> tuple[Task, ...]:
    """Fill in what tasks leave open: limits of their sandboxes, the agent's time."""
    return tuple(
        replace(
            task,
            blueprint=_limited(task.blueprint, resources),
            verifier=replace(
                task.verifier,
                blueprint=task.verifier.blueprint and _limited(task.verifier.blueprint, resources),
            ),
            agent_timeout_s=task.agent_timeout_s or timeouts.agent_s,
        )
        for task in tasks
    )


def _limited(blueprint: Blueprint, resources: ResourcesConf) -> Blueprint:
    own = blueprint.resources
    filled = {
        name: getattr(resources, name) if getattr(own, name) is None else getattr(own, name)
        for name in LIMIT_OF
    }
    return replace(blueprint, resources=Resources(**filled))


def limit_problems(
    tasks: Iterable[Task], resources: ResourcesConf, engine: str, enforced: frozenset[str]
) -> list[str]:
    """Limits that people wrote and `engine` cannot enforce here, one line each.

    Limits that came with imported tasks, and this package's own defaults, are only recorded.
    `tasks` are as loaded, before `complete_tasks`.
    """
    hint = "cannot be enforced here; leave it off, or resources.unenforceable=record"
    return [
        f"{line} {hint} (engine {engine})"
        for line, limit in _written_limits(tasks, resources)
        if limit not in enforced
    ]


def limits_to_hold(tasks: Iterable[Task], resources: ResourcesConf) -> tuple[str, ...]:
    """Limits that each worker's engine must be able to enforce, by the engines' names."""
    return tuple(sorted({limit for _, limit in _written_limits(tasks, resources)}))


def _written_limits(tasks: Iterable[Task], resources: ResourcesConf) -> Iterator[tuple[str, str]]:
    """Each limit that somebody wrote and wants held, as people know it, and its name."""
    if resources.unenforceable == "record":
        return
    for name, limit in LIMIT_OF.items():
        if getattr(resources, name) not in (None, _DEFAULTS[name]):
            yield f"resources.{name}={getattr(resources, name)}", limit
    for task in tasks:
        for where, blueprint in _own_blueprints(task):
            for name, limit in LIMIT_OF.items():
                if (amount := getattr(blueprint.resources, name)) is not None:
                    yield f"{where}: {name}={amount}", limit


def _own_blueprints(task: Task) -> Iterator[tuple[str, Blueprint]]:
    """Those whose limits somebody wrote here, each with its name for people."""
    if task.limits_imported:
        return
    yield f"task {task.id}", task.blueprint
    if task.verifier.blueprint is not None:
        yield f"verifier of task {task.id}", task.verifier.blueprint


_DEFAULTS = {item.name: item.default for item in fields(ResourcesConf)}


def mode_problems(arms: Iterable[Arm], tasks: Sequence[Task]) -> list[str]:
    """Tasks whose work would never reach a fresh scoring sandbox, one line each.

    What a task declares of itself is believed: its agents may be told to write to /logs/artifacts,
    which every Harbor task hands over.
    """
    return [
        f"task {task.id}: verifier.mode=fresh gives its scorer the declared outputs alone, and it "
        f"declares none; use verifier.mode=fork, or declare them (`artifacts` in its task.toml)"
        for task in tasks
        if any(_hands_over_nothing(arm, task) for arm in arms)
    ]


def _hands_over_nothing(arm: Arm, task: Task) -> bool:
    declared = task.verifier.mode is ScoreMode.FRESH
    if arm.score_mode is not ScoreMode.FRESH and not (
        declared and arm.score_mode is ScoreMode.AS_DECLARED
    ):
        return False
    return not [output for output in task.outputs if declared or output.source != ARTIFACTS]


def fitness_problems(arms: Iterable[Arm], tasks: Sequence[Task]) -> list[str]:
    """What agents and scorers that can tell (`problems(task)`) say of tasks they cannot do."""
    found = []
    for arm in arms:
        for plugin in (arm.agent, arm.scorer):
            made = plugins.make(plugin)
            if getattr(made, "needs_model", False) and not arm.model:
                found.append(
                    f"arm {arm.name}: agent {made.name} needs a model; choose one, model=…"
                )
            ask = getattr(made, "problems", None)
            if callable(ask):
                found += [f"arm {arm.name}: {why}" for task in tasks if (why := ask(task))]
    return found


# ---------------------------------------------------------------- specs


def make_specs(
    run_id: str,
    arms: Sequence[Arm],
    tasks: Sequence[Task],
    samples: int,
    variants: Iterable[tuple[str, Task]] = (),
) -> tuple[RolloutSpec, ...]:
    """Every rollout of the run, in the order in which it is wanted.

    Tasks of one image stand together, so that warm sandboxes fit; arms interleave, so that a run
    that is stopped has something of each.

    variants: arms by name, and a task as it is in that arm alone.
    """
    other = {(arm, task.id): task.digest for arm, task in variants}
    specs = []
    for task in _by_image(tasks):
        usual = task.digest
        digests = [(arm, arm.digest, other.get((arm.name, task.id), usual)) for arm in arms]
        groups = [group_id(run_id, arm_digest, digest) for _, arm_digest, digest in digests]
        for sample in range(samples):
            for (arm, arm_digest, digest), group in zip(digests, groups, strict=True):
                specs.append(
                    RolloutSpec(
                        trajectory_id=trajectory_id(run_id, arm_digest, digest, sample),
                        group_id=group,
                        arm=arm.name,
                        task_id=task.id,
                        sample=sample,
                        group_size=samples,
                    )
                )
    return tuple(specs)


def _by_image(tasks: Sequence[Task]) -> Iterator[Task]:
    images: dict[str, list[Task]] = {}
    for task in tasks:
        images.setdefault(task.blueprint.image_digest, []).append(task)
    for together in images.values():
        yield from together


def stand(specs: Sequence[RolloutSpec], state: RunState) -> Standing:
    """Only what is planned counts: with fewer samples than before, the rest stays but is not asked
    for."""
    done = [spec for spec in specs if spec.trajectory_id in state.accepted]
    by_arm = dict.fromkeys((spec.arm for spec in specs), 0)
    for spec in done:
        by_arm[spec.arm] += 1
    unscored = sum(state.accepted[spec.trajectory_id][1] is None for spec in done)
    return Standing(total=len(specs), done=len(done), unscored=unscored, done_by_arm=by_arm)


def ids_with(state: RunState, outcomes: Iterable[Outcome]) -> list[str]:
    """Accepted rollouts that ended in one of `outcomes`."""
    wanted = frozenset(outcomes)
    return [id_ for id_, (outcome, _) in state.accepted.items() if outcome in wanted]


# ---------------------------------------------------------------- against the log


def refuse_changes(
    run_id: str, arms: Sequence[Arm], tasks: Sequence[Task], state: RunState
) -> None:
    """A name stands for one thing in one run: a changed arm or task needs another run name.

    New arms, tasks and samples are welcome.
    """
    changed = [line for arm in arms for line in _arm_changes(arm, state.arms.get(arm.name))]
    changed += [line for task in tasks for line in _task_changes(task, state.tasks.get(task.id))]
    if changed:
        raise ConfigError(
            f"run {run_id} already holds rollouts of arms or tasks that have changed since:\n"
            + clipped(changed)
            + f"\nWrite name=… for a new run, or take the change back to go on with {run_id}."
        )


def _arm_changes(arm: Arm, logged: Mapping[str, Any] | None) -> Iterator[str]:
    if logged is None or logged["digest"] == arm.digest:
        return
    before, now = _flat(logged), _flat(arm_record(arm))
    keys = [key for key in {**before, **now} if key != "digest" and before.get(key) != now.get(key)]
    for key in keys or ["digest"]:
        yield f"  arm {arm.name}: {key} was {before.get(key)!r}, is {now.get(key)!r}"


def _task_changes(task: Task, logged: str | None) -> Iterator[str]:
    if logged is not None and logged != task.digest:
        yield (
            f"  task {task.id}: its text, files, limits or times changed "
            f"(digest was {logged[:12]}, is {task.digest[:12]})"
        )


def _flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def clipped(lines: Sequence[str]) -> str:
    """The first lines, and how many more there are."""
    more = [f"  … and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join([*lines[:SHOWN], *more])
