"""The composition root: from one composed config to the objects of a run. Nothing is started."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rollout import plan, plugins
from rollout.compose import Composed
from rollout.config import (
    EngineConf,
    Keeping,
    RunConf,
    StoreConf,
)
from rollout.dataset.log import CommitLog
from rollout.dataset.run import begin
from rollout.dataset.state import RunState
from rollout.dataset.store import Store, open_store
from rollout.errors import ConfigError, StoreError
from rollout.executor.base import Executor, RunPlan, Source
from rollout.executor.choice import Wanted, blueprints_of, choose
from rollout.executor.engines import make_engine
from rollout.executor.local import LocalExecutor
from rollout.loading import (
    Load,
    distinct,
    limits_to_hold,
    load_arms,
    load_one,
    notes_of,
    pinned,
    variants_of,
)
from rollout.objects.where import settle
from rollout.plan import Standing
from rollout.rescoring import recorded_specs
from rollout.types import RolloutSpec, Task

HINTS = {"states": "use engine=native, as root, or leave it off"}
"""What to do about an engine that lacks a feature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything known about a run before its first sandbox."""

    composed: Composed
    plan: RunPlan
    store: Store
    state: RunState
    standing: Standing
    notes: tuple[str, ...]
    """What people should hear: tasks left out, arms that keep an older name."""

    @property
    def conf(self) -> RunConf:
        return self.composed.conf


def prepare(composed: Composed, *, growing: bool = False) -> Job:
    """Load, check and compare everything; ConfigError for all that would make the run wrong.

    Reads the run's store and writes nothing to it; what is mounted goes to the object store.
    growing: the plan is empty at first, and a trainer says what it wants; of one arm.
    """
    conf = composed.conf
    loads = load_arms(composed)
    features = _features(composed, loads)
    chosen, why = _engine_for(loads, conf, frozenset(features))
    loads = pinned(loads, make_engine(chosen, owner="plan"))
    first = loads[0].tasks
    arms = plan.make_arms(composed.points, [each.blueprint for each in loads])
    unfit = [*plan.fitness_problems(arms, first), *plan.mode_problems(arms, first)]
    _refuse_unfit(conf, chosen, loads, features, unfit)
    store = store_of(conf.store, conf.name)
    state = _logged(store)
    arms = plan.under_logged_names(arms, state)
    plan.refuse_changes(conf.name, arms, first, state)
    variants = variants_of(arms, loads)
    if growing and len(arms) > 1:
        named = ", ".join(arm.name for arm in arms)
        raise ConfigError(f"sweep: a trainer has one arm; the config makes {named}")
    samples = 0 if growing else conf.samples
    specs = plan.make_specs(conf.name, arms, first, samples, variants)
    specs, source, note = _of_source(conf, specs, first, variants)
    return Job(
        composed=composed,
        plan=RunPlan(
            run_id=conf.name,
            run_uri=store.uri,
            arms=arms,
            tasks=first,
            variants=variants,
            specs=specs,
            engine=chosen,
            pool=conf.pool,
            retry=conf.retry,
            timeouts=conf.timeouts,
            executor=conf.executor,
            store=conf.store,
            objects=settle(conf.objects, conf.store),
            keep=Keeping.of(conf),
            limits_to_hold=limits_to_hold(loads),
            models=() if source else plan.models_of(composed.points, arms),
            source=source,
            growing=growing,
        ),
        store=store,
        state=state,
        standing=plan.stand(specs, state),
        notes=tuple(dict.fromkeys([*filter(None, [why, note]), *notes_of(loads)])),
    )


def _of_source(
    conf: RunConf,
    specs: tuple[RolloutSpec, ...],
    tasks: Sequence[Task],
    variants: Sequence[tuple[str, Task]],
) -> tuple[tuple[RolloutSpec, ...], Source | None, str]:
    """Where agents work, all of them; else those whose end states another run has kept."""
    if conf.rescore.uri is None:
        return specs, None, ""
    arms = {spec.arm for spec in specs}
    computers = {(arm, task.id): task for arm in arms for task in tasks}
    computers |= {(arm, task.id): task for arm, task in variants}
    return recorded_specs(conf.rescore, specs, computers)


def record_start(job: Job) -> None:
    """Try the store out and write down that the run starts; ConfigError when it cannot hold it."""
    try:
        job.store.probe()
        begin(job.store, config=job.composed.saved, digests=_digests(job.plan))
    except StoreError as exc:
        raise ConfigError(f"store.uri: {exc}") from exc


def _digests(run: RunPlan) -> dict[str, dict[str, str]]:
    return {
        "arms": {arm.name: arm.digest for arm in run.arms},
        "tasks": {task.id: task.digest for task in run.tasks},
    }


def task_of(conf: RunConf, task_id: str) -> Task:
    """One task of a run, as `prepare` would have it; ConfigError when it is not among them."""
    load = load_one(conf, task_id)
    chosen, _ = _engine_for([load], conf)
    return pinned([load], make_engine(chosen, owner="plan"))[0].tasks[0]


def _engine_for(
    loads: Sequence[Load], conf: RunConf, features: frozenset[str] = frozenset()
) -> tuple[EngineConf, str]:
    """The engine that makes them all, and why it is that one, where the config leaves it open."""
    wanted = Wanted(
        blueprints=blueprints_of([task for each in distinct(loads) for task in each.asked]),
        limits=limits_to_hold(loads),
        features=features,
        here=_runs_here(conf),
    )
    return choose(conf.engine, wanted)


def _features(composed: Composed, loads: Iterable[Load]) -> dict[str, str]:
    """What the engine must be able to do, and who wants it."""
    wanted = {"states": "keep_on"} if composed.conf.keep_on else {}
    if composed.conf.rescore.uri is not None:
        return {"states": "rescore"}
    for task in (task for each in distinct(loads) for task in each.asked):
        if (network := task.blueprint.network) != "none":
            wanted.setdefault("ports", f"task {task.id}, network {network}")
    for point in composed.points:
        agent = plugins.make(plugins.plugin_of(point.conf.agent))
        for feature in getattr(agent, "features", ()):
            wanted.setdefault(feature, f"agent {agent.name}")
    return wanted


def _refuse_unfit(
    conf: RunConf,
    chosen: EngineConf,
    loads: Iterable[Load],
    features: Mapping[str, str],
    found: list[str],
) -> None:
    """Agents that cannot do a task, limits that nobody would hold to: said before the run."""
    if _runs_here(conf):
        engine = make_engine(chosen, owner="plan")
        for each in distinct(loads):
            held = engine.limits
            found += plan.limit_problems(each.asked, each.limits, engine.name, held)
        for feature, who in features.items():
            if feature not in engine.features:
                hint = HINTS.get(feature, "choose another engine")
                found.append(f"{who}: engine {engine.name} lacks {feature!r} here; {hint}")
    if found:
        raise ConfigError(plan.clipped(list(dict.fromkeys(found))))


def _runs_here(conf: RunConf) -> bool:
    """Whether the workers are on this machine, so that its kernel answers for them."""
    away = conf.executor.address or os.environ.get("RAY_ADDRESS")
    return conf.executor.kind == "local" or not away


def executor_of(conf: RunConf) -> Executor:
    """The configured executor; Ray is imported only where it is used."""
    if conf.executor.kind == "local":
        return LocalExecutor()
    from rollout.executor.ray import RayExecutor

    return RayExecutor()


def store_of(conf: StoreConf, run_id: str) -> Store:
    """The store whose root is the run's own folder."""
    return open_store(run_uri(conf.uri, run_id), endpoint_url=conf.endpoint_url, region=conf.region)


def run_uri(uri: str, run_id: str) -> str:
    """`runs` and `quickstart` make `/…/runs/quickstart`: absolute, since workers run elsewhere."""
    if "://" in uri:
        return f"{uri.rstrip('/')}/{run_id}"
    return str((Path(uri).expanduser() / run_id).resolve())


def _logged(store: Store) -> RunState:
    try:
        return CommitLog(store, "plan").load()
    except StoreError as exc:
        raise ConfigError(f"store.uri: {exc}") from exc
