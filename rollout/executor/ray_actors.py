"""The two kinds of actor of a run, and how a worker's actor talks to the coordinator's."""

import asyncio
import inspect
import socket
from collections.abc import Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from rollout.aio import collect_rarely
from rollout.dataset.base import CommitReply, CommitRequest, Part
from rollout.errors import Fenced, RolloutError
from rollout.executor.base import Heartbeat, HeartbeatReply, LeaseReply, RunPlan
from rollout.executor.coordinator import Look, RunCoordinator
from rollout.executor.ray_metrics import RayMeter, RunGauges
from rollout.executor.worker import Worker
from rollout.types import Attempt

Actor = ActorHandle[Any]
"""Calls on a handle are not typed; each is typed again where its answer is taken."""

DRIVER_TTL_S = 60.0
"""A coordinator that no driver looked at for so long puts all on record and ends."""

BEAT_TIMEOUT_S = 20.0

OFFERED_BYTES = 256 << 20
"""Rows kept for a trainer that may ask for them; the oldest go first, for all are in the store."""


class CoordinatorActor:
    """Holds the run's coordinator; detached, so that it outlives a driver and can tidy up."""

    def __init__(self, plan: RunPlan) -> None:
        self._plan = plan
        self._coordinator: RunCoordinator
        self._watch: asyncio.Task[None] | None = None
        self._looked_s = 0.0
        self._offers: dict[str, tuple[list[Any], int]] = {}

    def __repr__(self) -> str:
        return f"coordinator of run {self._plan.run_id}"

    async def begin(self) -> None:
        """Take the run over; errors of the store come out here."""
        self._coordinator = await RunCoordinator.begin(self._plan)
        self._looked_s = asyncio.get_running_loop().time()
        self._watch = asyncio.create_task(self._watch_driver())

    async def ask(self, method: str, *args: Any) -> Any:
        """Call the coordinator. What is private to it stays so."""
        if method.startswith("_"):
            raise RolloutError(f"a coordinator cannot be asked for {method}")
        result = getattr(self._coordinator, method)(*args)
        return await result if inspect.isawaitable(result) else result

    async def look(self) -> Look:
        """Where the run stands; also the driver's sign of life."""
        self._looked_s = asyncio.get_running_loop().time()
        return self._coordinator.look()

    async def offer(self, path: str, rows: list[Any], size_bytes: int) -> None:
        """A reference to a part's rows in Ray's object store, in a list so that it stays one."""
        self._offers[path] = (rows, size_bytes)
        while sum(size for _, size in self._offers.values()) > OFFERED_BYTES:
            del self._offers[next(iter(self._offers))]

    async def offered(self, path: str) -> list[Any]:
        """That reference, once; empty where there is none any more."""
        rows, _ = self._offers.pop(path, ([], 0))
        return rows

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        await self._coordinator.close()

    async def _watch_driver(self) -> None:
        """Show the figures; without a driver, whose end was also its workers', end in order."""
        gauges = RunGauges(self._plan.run_id)
        while asyncio.get_running_loop().time() - self._looked_s < DRIVER_TTL_S:
            gauges.show(self._coordinator.progress())
            await asyncio.sleep(1.0)
        self._coordinator.stop("stopped: the driver is gone")
        await self._coordinator.close()
        ray.actor.exit_actor()  # type: ignore[no-untyped-call]


class WorkerActor:
    """Holds one worker. Its driver owns it, so it ends with its driver."""

    def __init__(self, plan: RunPlan, name: str, coordinator: Actor, share: float) -> None:
        self._title = f"worker {name} of run {plan.run_id}"
        self._worker = Worker(
            plan,
            name,
            socket.gethostname(),
            RayClient(coordinator),
            BeatSender(coordinator),
            share=share,
            meter=RayMeter(plan.run_id, name),
            offer=Offering(coordinator),
        )

    def __repr__(self) -> str:
        return self._title

    async def ready(self) -> None:
        """Answers once the actor has its place."""

    async def run(self) -> None:
        """Until nothing is left. Raises what broke the worker."""
        collect_rarely()
        await self._worker.run()

    async def drain(self, grace_s: float) -> None:
        self._worker.drain(grace_s)

    async def stop(self) -> None:
        self._worker.stop()


class RayClient:
    """The coordinator as a worker's actor sees it. Implements `executor.base.Coordinator`."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    async def register(self, worker: str, node: str, pid: int) -> int:
        epoch: int = await self._ask("register", worker, node, pid)
        return epoch

    async def lease(self, worker: str, count: int) -> LeaseReply:
        reply: LeaseReply = await self._ask("lease", worker, count)
        return reply

    async def attempt_failed(self, worker: str, trajectory_id: str, attempt: Attempt) -> None:
        await self._ask("attempt_failed", worker, trajectory_id, attempt)

    async def give_back(self, worker: str, trajectory_ids: Sequence[str]) -> None:
        await self._ask("give_back", worker, trajectory_ids)

    async def commit(self, request: CommitRequest) -> CommitReply:
        reply: CommitReply = await self._ask("commit", request)
        return reply

    async def heartbeat(self, beat: Heartbeat) -> HeartbeatReply:
        reply: HeartbeatReply = await self._ask("heartbeat", beat)
        return reply

    async def leave(self, worker: str, error: str = "") -> None:
        await self._ask("leave", worker, error)

    async def _ask(self, method: str, *args: Any) -> Any:
        return await asked(self._actor.ask.remote(method, *args), f"coordinator: {method}")


class BeatSender:
    """Sends heartbeats from a thread, blocking."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def __call__(self, beat: Heartbeat) -> HeartbeatReply:
        try:
            asked: Any = self._actor.ask.remote("heartbeat", beat)
            reply: HeartbeatReply = ray.get(asked, timeout=BEAT_TIMEOUT_S)
        except RayError as exc:
            raise typed(exc, "heartbeat") from exc
        return reply


class Offering:
    """Puts a part's rows into Ray's object store, and tells the coordinator where."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def __call__(self, part: Part, rows: Any) -> None:
        self._actor.offer.remote(part.path, [ray.put(rows)], rows.nbytes)


def typed(error: RayError, doing: str) -> RolloutError:
    """Our own error, as the other process raised it; anything else means the actor is gone."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        if isinstance(cause, RolloutError):
            return cause
        return RolloutError(f"{doing}: {type(cause).__name__}: {cause}")
    first, *_ = str(error).splitlines() or [type(error).__name__]
    return Fenced(f"{doing}: no answer any more: {first}")


async def asked(answer: Any, doing: str) -> Any:
    """The answer of an actor, or a typed error."""
    try:
        return await answer
    except RayError as exc:
        raise typed(exc, doing) from exc
