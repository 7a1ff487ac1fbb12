"""The worker actors of one run on Ray."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rollout.errors import ConfigError, RolloutError
from rollout.executor.base import RunPlan
from rollout.executor.coordinator import Look
from rollout.executor.ray_actors import Actor, WorkerActor, asked
from rollout.executor.ray_cluster import NAMESPACE, SANDBOX_HOST, Slot, draining, slots

RESTARTS = 3
"""Of the worker of one slot, in all of one start."""

END_GRACE_S = 30.0
"""For workers to close what they have, before they are killed."""

PLACE_S = 15.0
"""A worker that has no place for so long is worth a word to people."""

TEND_S = 3.0

COMMIT_S = 5.0
"""Of the time that a draining node has left, for committing what has ended by then."""

NO_WORKER_S = 30.0
"""How long a run whose node is gone waits for another one to come."""


async def look_at(coordinator: Actor) -> Look:
    """Where the run stands, and a sign of the driver's life."""
    look: Look = await asked(coordinator.look.remote(), "the run's coordinator")
    return look


class Crew:
    """The worker actors of one run: placed, replaced when they are lost, ended."""

    def __init__(self, plan: RunPlan, coordinator: Actor) -> None:
        self._run_id = plan.run_id
        self._conf = plan.executor
        self._plan = ray.put(replace(plan, specs=()))
        self._coordinator = coordinator
        self._numbers = count()
        self._kept: dict[Slot, asyncio.Task[None]] = {}
        self._actors: dict[str, Actor] = {}
        self._nodes: dict[str, str] = {}
        """Of the workers that were not told to end yet."""
        self._tending: asyncio.Task[None] | None = None
        self._ending = False

    async def __aenter__(self) -> "Crew":
        self._tending = asyncio.create_task(self._tend())
        return self

    async def __aexit__(self, *exc: object) -> None:
        """However the run was left: no actor of it stays."""
        self._ending = True
        await self._stop_tending()
        stopping = True
        with suppress(RolloutError):
            if not (await look_at(self._coordinator)).ended:
                await asked(self._coordinator.ask.remote("stop"), "stopping")
            stopping = (await look_at(self._coordinator)).stopping
        for actor in self._actors.values() if stopping else ():
            actor.stop.remote()
        await self._end_workers()

    def raise_if_broken(self) -> None:
        """Without whoever looks after the workers the run would wait for ever."""
        if self._tending is not None and self._tending.done():
            self._tending.result()

    async def _stop_tending(self) -> None:
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)

    async def _end_workers(self) -> None:
        """Give them the time to end in order, then make sure."""
        if self._kept:
            _, late = await asyncio.wait(self._kept.values(), timeout=END_GRACE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _tend(self) -> None:
        """Every slot of the cluster has its worker, those of nodes that come later too."""
        loop = asyncio.get_running_loop()
        seen_s = loop.time()
        while True:
            for slot in await asyncio.to_thread(slots, self._conf):
                if slot not in self._kept:
                    self._kept[slot] = asyncio.create_task(self._keep(slot))
            self._drain_workers(await asyncio.to_thread(draining))
            if any(not task.done() for task in self._kept.values()):
                seen_s = loop.time()
            elif loop.time() - seen_s > (NO_WORKER_S if self._lost_a_node() else 0):
                self._coordinator.ask.remote("abandon")
            await asyncio.sleep(TEND_S)

    def _drain_workers(self, leaving: Mapping[str, float]) -> None:
        """Whoever works on a node that is to be taken away ends in order, while there is time."""
        for name, node in [pair for pair in self._nodes.items() if pair[1] in leaving]:
            del self._nodes[name]
            grace_s = max(0.0, min(self._conf.drain_s, leaving[node] - COMMIT_S))
            self._actors[name].drain.remote(grace_s)
            self._coordinator.ask.remote("note", f"worker {name} ends: its node drains")

    def _lost_a_node(self) -> bool:
        alive = {slot.node_id for slot in slots(self._conf)}
        return any(slot.node_id not in alive for slot in self._kept)

    async def _keep(self, slot: Slot) -> None:
        """One worker after the other, while its node lives and restarting can help."""
        for _ in range(1 + RESTARTS):
            number = next(self._numbers)
            name = f"w{number:04d}"
            try:
                await self._run_one(slot, number, name)
                return
            except ConfigError:
                return
            except RayActorError as exc:
                why = str(exc).splitlines()[0]
                self._coordinator.ask.remote("worker_lost", name, f"was lost: {why}")
            except (RayError, RolloutError):
                # It has told the coordinator itself.
                self._coordinator.ask.remote("worker_lost", name, "ended in an error")
            finally:
                self._nodes.pop(name, None)
                actor = self._actors.pop(name, None)
                if actor is not None:
                    ray.kill(actor)
            if self._ending or slot not in await asyncio.to_thread(slots, self._conf):
                return

    async def _run_one(self, slot: Slot, number: int, name: str) -> None:
        actor: Any = ray.remote(WorkerActor).options(
            name=f"rollout-worker-{self._run_id}-{number}",
            namespace=NAMESPACE,
            num_cpus=slot.cpus,
            resources={SANDBOX_HOST: slot.part},
            max_restarts=0,
            max_concurrency=100,
            # Soft: a hard affinity would fail for ever once its node is gone.
            scheduling_strategy=NodeAffinitySchedulingStrategy(slot.node_id, soft=True),
        )
        handle: Any = actor.remote(self._plan, name, self._coordinator, slot.share)
        self._actors[name] = handle
        ready: asyncio.Future[None] = asyncio.ensure_future(handle.ready.remote())
        done, _ = await asyncio.wait({ready}, timeout=PLACE_S)
        if not done:
            text = (
                f"worker {name} waits for a place: it needs {slot.cpus:g} CPUs and "
                f"{slot.part:g} {SANDBOX_HOST}; see `ray status`"
            )
            self._coordinator.ask.remote("note", text)
        await ready
        self._nodes[name] = slot.node_id
        await handle.run.remote()
