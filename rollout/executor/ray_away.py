"""A run that goes on without the command that began it: its driver is an actor on the cluster.

An actor and not a Ray job, since it needs no job server, takes the plan as it is, checked and free
of secrets, and is found by the run's name like the coordinator. It must outlive whoever made it,
so the cluster has to be one that does: never the Ray that a command starts for itself.
"""

import asyncio
import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rollout.config import ExecutorConf
from rollout.dataset.run import record_end
from rollout.dataset.store import open_store
from rollout.errors import ConfigError, RolloutError
from rollout.executor.base import Progress, RunPlan
from rollout.executor.ray import RayExecutor
from rollout.executor.ray_actors import Actor
from rollout.executor.ray_cluster import NAMESPACE, Cluster

ANSWER_S = 20.0


class DriverActor:
    """Drives one run to its end, then ends itself."""

    def __init__(self, plan: RunPlan) -> None:
        self._plan = plan
        self._driving: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"driver of run {self._plan.run_id}"

    async def begin(self) -> None:
        """Returns at once: who asked is about to leave."""
        self._driving = asyncio.create_task(self._drive())

    async def _drive(self) -> None:
        error = ""
        notes: tuple[str, ...] = ()
        try:
            async for progress in RayExecutor().run(self._plan):
                notes = progress.notes
        except RolloutError as exc:
            error = str(exc)
        except BaseException as exc:
            error = f"{type(exc).__name__}: {exc}"
            raise  # into the log of this actor
        finally:
            with contextlib.suppress(RolloutError):
                await asyncio.to_thread(self._leave_word, error, notes)
            ray.actor.exit_actor()  # type: ignore[no-untyped-call]

    def _leave_word(self, error: str, notes: Sequence[str]) -> None:
        """Nobody watches: `attach` and `status` tell it to whoever asks later."""
        conf = self._plan.store
        store = open_store(self._plan.run_uri, endpoint_url=conf.endpoint_url, region=conf.region)
        try:
            record_end(store, error=error, notes=notes)
        finally:
            store.close()


def refuse_mortal(conf: ExecutorConf) -> None:
    """ConfigError unless there is a cluster that was not started for this command alone."""
    address = conf.address or os.environ.get("RAY_ADDRESS")
    if conf.kind != "ray" or address in (None, "", "local"):
        raise ConfigError(
            "detach: needs a Ray cluster that outlives this command, executor=ray with "
            "executor.address=HOST:PORT or RAY_ADDRESS (start one with: ray start --head "
            f"--resources='{{\"sandbox_host\": 1}}'); was executor.kind={conf.kind}, "
            f"executor.address={conf.address}"
        )


def submit(plan: RunPlan) -> str | None:
    """Leave the run to the cluster; its dashboard's address. ConfigError where it is at work."""
    cluster = Cluster(plan.executor)
    try:
        if _actor(f"rollout-coordinator-{plan.run_id}") or _actor(_driver(plan.run_id)):
            raise ConfigError(
                f"detach: run {plan.run_id} is at work on that cluster already; see "
                f"`python -m rollout attach {plan.run_uri}`"
            )
        made: Any = ray.remote(DriverActor).options(
            name=_driver(plan.run_id),
            namespace=NAMESPACE,
            lifetime="detached",
            num_cpus=0,
            max_restarts=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(
                ray.get_runtime_context().get_node_id(), soft=True
            ),
        )
        driver: Actor = made.remote(plan)
        ray.get(driver.begin.remote(), timeout=ANSWER_S)
    except RayError as exc:
        raise RolloutError(f"detach: the cluster could not take the run: {exc}") from exc
    else:
        return cluster.dashboard_url
    finally:
        cluster.close()


class Away:
    """A run on a cluster, for whoever asks after it."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id

    def progress(self) -> Progress | None:
        """None: nobody is at work on it there."""
        told: Progress | None = self._ask("progress")
        return told

    def begins(self) -> bool:
        """Whether a driver is there whose coordinator is still to come."""
        return _actor(_driver(self._run_id)) is not None

    def tell(self, wish: str) -> bool:
        """`drain` or `stop`; whether anybody was there to hear it."""
        there = self.progress() is not None
        self._ask(wish)
        return there

    def _ask(self, method: str) -> Any:
        coordinator = _actor(f"rollout-coordinator-{self._run_id}")
        if coordinator is None:
            return None
        try:
            return ray.get(coordinator.ask.remote(method), timeout=ANSWER_S)
        except RayError:
            return None


@contextmanager
def away(conf: ExecutorConf, run_id: str) -> Iterator[Away]:
    """The run as its cluster knows it; ConfigError when the cluster cannot be reached."""
    cluster = Cluster(conf, to_work=False)
    try:
        yield Away(run_id)
    finally:
        cluster.close()


def _driver(run_id: str) -> str:
    return f"rollout-driver-{run_id}"


def _actor(name: str) -> Actor | None:
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None
