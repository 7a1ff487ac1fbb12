"""The composition root: from one composed config to the objects of a run. Nothing is started."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rollout import plan, plugins
from rollout.blueprints import pin_bases
from rollout.compose import Composed
from rollout.config import Keeping, RunConf, StoreConf
from rollout.dataset.log import CommitLog
from rollout.dataset.run import begin
from rollout.dataset.state import RunState
from rollout.dataset.store import Store, open_store
from rollout.errors import ConfigError, StoreError
from rollout.executor.base import Executor, RunPlan
from rollout.executor.engines import make_engine
from rollout.executor.local import LocalExecutor
from rollout.plan import Standing
from rollout.tasks.base import TaskSource
from rollout.types import Task


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


def prepare(composed: Composed) -> Job:
    """Load, check and compare everything; ConfigError for all that would make the run wrong.

    Reads the store and writes nothing to it.
    """
    conf = composed.conf
    source = task_source(conf)
    loaded = pin_bases(source.load(), make_engine(conf.engine, owner="plan"))
    arms = plan.make_arms(composed.points)
    tasks = plan.complete_tasks(loaded, conf.resources, conf.timeouts)
    _refuse_unfit(conf, loaded, plan.fitness_problems(arms, tasks))
    store = store_of(conf.store, conf.name)
    state = _logged(store)
    arms = plan.under_logged_names(arms, state)
    plan.refuse_changes(conf.name, arms, tasks, state)
    specs = plan.make_specs(conf.name, arms, tasks, conf.samples)
    return Job(
        composed=composed,
        plan=RunPlan(
            run_id=conf.name,
            run_uri=store.uri,
            arms=arms,
            tasks=tasks,
            specs=specs,
            engine=conf.engine,
            pool=conf.pool,
            retry=conf.retry,
            timeouts=conf.timeouts,
            executor=conf.executor,
            store=conf.store,
            keep=Keeping.of(conf),
            limits_to_hold=plan.limits_to_hold(loaded, conf.resources),
        ),
        store=store,
        state=state,
        standing=plan.stand(specs, state),
        notes=tuple(f"left out: {line}" for line in source.skipped),
    )


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


def task_source(conf: RunConf) -> TaskSource:
    """The configured source, nothing loaded yet."""
    return cast(TaskSource, plugins.make(plugins.plugin_of(conf.task)))


def task_of(conf: RunConf, task_id: str) -> Task:
    """One task of a run, as `prepare` would have it; ConfigError when it is not among them."""
    found = [task for task in task_source(conf).load() if task.id == task_id]
    if not found:
        raise ConfigError(f"task {task_id} is no more among those of the run's task source")
    pinned = pin_bases(found, make_engine(conf.engine, owner="plan"))
    return plan.complete_tasks(pinned, conf.resources, conf.timeouts)[0]


def _refuse_unfit(conf: RunConf, loaded: list[Task], found: list[str]) -> None:
    """Agents that cannot do a task, limits that nobody would hold to: said before the run."""
    if _runs_here(conf):
        engine = make_engine(conf.engine, owner="plan")
        found = [
            *found,
            *plan.limit_problems(loaded, conf.resources, engine.name, engine.limits),
        ]
        if conf.keep_on and "states" not in engine.features:
            found.append("keep_on: needs engine=native, as root; leave it off")
    if found:
        raise ConfigError(plan.clipped(found))


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
