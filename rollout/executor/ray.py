"""Runs a plan on Ray: a detached coordinator and a worker on every node that may hold sandboxes.

Nothing big crosses Ray: the plan once, then leases, heartbeats and commit requests. Rows go from
the workers to the store.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rollout.errors import ConfigError, RolloutError
from rollout.executor.base import Progress, RunPlan
from rollout.executor.coordinator import Look
from rollout.executor.ray_actors import Actor, CoordinatorActor, asked
from rollout.executor.ray_cluster import NAMESPACE, Cluster
from rollout.executor.ray_crew import Crew, look_at
from rollout.gateway.policy import Policy
from rollout.types import RolloutSpec

PROGRESS_S = 0.5
NAME_FREE_S = 20.0
FIRST_HAND_S = 5.0
"""After so long the store is the faster way."""


class RayExecutor:
    """Implements `executor.base.Executor`."""

    def __init__(self) -> None:
        self.dashboard_url: str | None = None
        """Set once the cluster is there, if it has a dashboard."""
        self.dashboard_hint = ""
        """How to get in; names a file, never the token itself."""
        self._coordinator: Actor | None = None
        self._wishes: list[str] = []

    async def run(self, plan: RunPlan) -> AsyncIterator[Progress]:
        async with AsyncExitStack() as stack:
            cluster = await asyncio.to_thread(Cluster, plan.executor)
            stack.push_async_callback(asyncio.to_thread, cluster.close)
            self.dashboard_url = cluster.dashboard_url
            self.dashboard_hint = cluster.dashboard_hint
            coordinator = await _start_coordinator(plan)
            stack.callback(ray.kill, coordinator)
            self._coordinator = coordinator
            self._pass_on_wishes()
            stack.callback(self._forget_coordinator)
            try:
                async with Crew(plan, coordinator) as crew:
                    while not (look := await look_at(coordinator)).ended:
                        yield look.progress
                        crew.raise_if_broken()
                        await asked(coordinator.ask.remote("wait_ended", PROGRESS_S), "waiting")
                    _raise_if_useless(look)
            finally:
                with suppress(RolloutError):  # If it is gone, whoever looks next is told.
                    await asked(coordinator.close.remote(), "closing the run")
            progress = (await look_at(coordinator)).progress
        yield progress

    async def extend(self, specs: Sequence[RolloutSpec]) -> None:
        await self._ask("extend", tuple(specs))

    async def seal(self) -> None:
        await self._ask("seal")

    async def set_policy(self, policy: Policy) -> None:
        await self._ask("set_policy", policy)

    async def wait_committed(self, count: int, timeout_s: float) -> int:
        committed: int = await self._ask("wait_committed", count, timeout_s)
        return committed

    def first_hand(self, path: str) -> Any:
        """Out of Ray's object store, where the worker that wrote it has put it, without a copy."""
        coordinator = self._coordinator
        if coordinator is None:
            return None
        try:
            offered: Any = ray.get(coordinator.offered.remote(path), timeout=FIRST_HAND_S)
            return ray.get(offered[0], timeout=FIRST_HAND_S) if offered else None
        except RayError:  # whoever had it is gone; it is in the store
            return None

    async def _ask(self, method: str, *args: Any) -> Any:
        if self._coordinator is None:
            raise RolloutError(f"{method}: the run has not begun yet, or has ended")
        return await asked(self._coordinator.ask.remote(method, *args), method)

    def drain(self) -> None:
        self._wishes.append("drain")
        self._pass_on_wishes()

    def stop(self) -> None:
        self._wishes.append("stop")
        self._pass_on_wishes()

    def _forget_coordinator(self) -> None:
        self._coordinator = None

    def _pass_on_wishes(self) -> None:
        """^C may come before there is a coordinator to hear it, or after."""
        if self._coordinator is not None:
            for wish in self._wishes:
                self._coordinator.ask.remote(wish)
            self._wishes = []


async def _start_coordinator(plan: RunPlan) -> Actor:
    """The run's coordinator on this node. One of an earlier start is ended: it would be fenced."""
    name = f"rollout-coordinator-{plan.run_id}"
    await _end_earlier(re.compile(f"rollout-worker-{re.escape(plan.run_id)}-[0-9]+"))
    await _end_earlier(re.compile(re.escape(name)))
    actor: Any = ray.remote(CoordinatorActor).options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        num_cpus=0,
        max_restarts=0,
        max_concurrency=1000,
        scheduling_strategy=NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=True
        ),
    )
    coordinator: Actor = actor.remote(plan)
    try:
        await asked(coordinator.begin.remote(), "starting the coordinator")
    except BaseException:
        ray.kill(coordinator)
        raise
    return coordinator


async def _end_earlier(pattern: re.Pattern[str]) -> None:
    """Kill actors with such names and wait until the names are free."""
    async with asyncio.timeout(NAME_FREE_S):
        while names := [name for name in _actor_names() if pattern.fullmatch(name)]:
            for name in names:
                with suppress(ValueError):
                    ray.kill(ray.get_actor(name, namespace=NAMESPACE))
            await asyncio.sleep(0.1)


def _actor_names() -> list[str]:
    known = ray.util.list_named_actors(all_namespaces=True)
    return [actor["name"] for actor in known if actor["namespace"] == NAMESPACE]


def _raise_if_useless(look: Look) -> None:
    """That no worker could even begin is nothing to find in a table of results."""
    if look.stopping and not look.leased and look.last_error:
        raise ConfigError(f"no worker could start: {look.last_error}")
