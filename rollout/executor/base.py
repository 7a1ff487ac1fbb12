"""The contract between the coordinator, its workers and whoever drives a run.

One coordinator leases specs in batches, commits results and fences zombies. Workers pull. Only
small records cross here: rows go from the worker's node to the store.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from rollout.config import (
    EngineConf,
    ExecutorConf,
    Keeping,
    ObjectsConf,
    PoolConf,
    RetryConf,
    StoreConf,
    TimeoutsConf,
)
from rollout.dataset.base import CommitReply, CommitRequest
from rollout.gateway.policy import Policy
from rollout.gateway.settings import ModelPlan
from rollout.types import Arm, Attempt, Lease, RolloutSpec, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The run whose kept end states are scored, in place of agents at work."""

    uri: str
    endpoint_url: str | None = None
    region: str | None = None
    ids: tuple[tuple[str, str], ...]
    """Trajectory ids of this run, each with that of the rollout it stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """Everything a worker needs, as plain data; shipped once to each worker."""

    run_id: str
    run_uri: str
    """The run's root: a folder, or `s3://bucket/prefix/run_id`."""
    arms: tuple[Arm, ...]
    tasks: tuple[Task, ...]
    variants: tuple[tuple[str, Task], ...] = ()
    """Arms by name, and a task as it is there alone: with the arm's own blueprint."""
    specs: tuple[RolloutSpec, ...]
    """The whole plan, what is already done included; images that come next stand together."""
    engine: EngineConf
    pool: PoolConf
    retry: RetryConf
    timeouts: TimeoutsConf
    executor: ExecutorConf
    store: StoreConf
    objects: ObjectsConf = field(default_factory=ObjectsConf)
    """Its `uri` is absolute."""
    keep: Keeping = Keeping()
    models: tuple[tuple[str, ModelPlan], ...] = ()
    """Arms by name, and the model of each that has one."""
    source: Source | None = None
    growing: bool = False
    """More comes by `extend` until `seal` is said: the run does not end before."""
    limits_to_hold: tuple[str, ...] = ()
    """Of `cpu memory disk pids`: a worker whose engine cannot enforce one of these does not work.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseReply:
    leases: tuple[Lease, ...] = ()
    done: bool = False
    """Nothing is left and nothing will come: the worker may flush and end."""
    wait_s: float = 0.2
    """Ask again after this, when there was nothing to lease now."""
    coming: tuple[tuple[str, int], ...] = ()
    """Task ids and how many rollouts of each will be leased next, so that pools can warm up."""
    policy: Policy | None = None
    """The weights that are served now, where a trainer tells; of the heartbeat's reply too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """What a worker tells each second or so, from a thread of its own."""

    worker: str
    epoch: int
    state: str
    """Telling, such as `running 31, warm 4, creating 1`."""
    counts: dict[str, float] = field(default_factory=dict)
    """`running warm claimed creating buffered_rows …` for metrics and progress."""
    held: tuple[str, ...] = ()
    """Every trajectory id whose lease the worker thinks it holds: running, or not yet committed.
    This makes lost replies harmless: both sides settle on what the coordinator says."""
    using: float = 0.0
    """The part, of 1, of the models' limits that it may use until it hears the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatReply:
    drain: bool = False
    """Finish what runs, flush, take nothing new."""
    stop: bool = False
    """End at once: fenced, or the second ^C."""
    lost: tuple[str, ...] = ()
    """Trajectory ids whose leases this worker no longer holds: cancel them."""
    workers: int = 0
    """How many there are; 0: not known, and `part` says nothing."""
    part: float = 0.0
    """Of 1: what this worker may use of the models' limits, which are for the whole run."""
    policy: Policy | None = None


class Coordinator(Protocol):
    """What a worker may ask. Each call is idempotent, since any reply may be lost."""

    async def register(self, worker: str, node: str, pid: int) -> int:
        """The epoch to write under. Raises Fenced when a newer coordinator owns the run."""

    async def lease(self, worker: str, count: int) -> LeaseReply: ...

    async def attempt_failed(self, worker: str, trajectory_id: str, attempt: Attempt) -> None:
        """An attempt that was not the last ended in an outcome of ours; it will be leased again."""

    async def give_back(self, worker: str, trajectory_ids: Sequence[str]) -> None:
        """Leases not started, or stopped on our own account; they do not count as attempts."""

    async def commit(self, request: CommitRequest) -> CommitReply: ...

    async def heartbeat(self, beat: Heartbeat) -> HeartbeatReply: ...

    async def leave(self, worker: str, error: str = "") -> None:
        """The worker ends: in order, or for the reason told. What it still held goes back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One look at a run, for the terminal, the dashboard and metrics."""

    total: int
    done: int
    running: int = 0
    pending: int = 0
    workers: int = 0
    counts: dict[str, float] = field(default_factory=dict)
    """Summed over workers: `warm creating claimed resource_alerts …`."""
    outcomes: dict[str, int] = field(default_factory=dict)
    """Of committed rows."""
    arms: dict[str, tuple[int, int, float]] = field(default_factory=dict)
    """Arm to (committed, scored, sum of rewards)."""
    attempts_failed: int = 0
    paused: str = ""
    """Why leasing pauses; empty when it does not."""
    notes: tuple[str, ...] = ()
    """What people should hear once: lost workers, limits not enforced, …"""
    finished: bool = False


class Executor(Protocol):
    """Runs a plan to its end. `local` and `ray` are held to one suite."""

    @property
    def dashboard_url(self) -> str | None:
        """Set once the run has begun, where there is a dashboard."""

    @property
    def dashboard_hint(self) -> str:
        """How to get in; never a secret itself."""

    def run(self, plan: RunPlan) -> AsyncIterator[Progress]:
        """Yields progress about twice a second and once at the end, when all is committed.

        Leaving the iterator early stops the run in order; nothing committed is lost.
        """

    async def extend(self, specs: Sequence[RolloutSpec]) -> None:
        """More to do, behind what waits; of a growing plan that has yielded progress. Specs that it
        has already are passed over. RolloutError when the run has ended."""

    async def seal(self) -> None:
        """Nothing more will come: a growing plan ends when all of it is committed."""

    async def set_policy(self, policy: Policy) -> None:
        """Tell all workers, those that come later too, which weights are served, and where. Until
        a worker has heard it, a second at most, its calls count as those of the version before."""

    async def wait_committed(self, count: int, timeout_s: float) -> int:
        """How many planned rollouts are committed: once there are more than `count`, or after
        `timeout_s`."""

    def first_hand(self, path: str) -> Any:
        """The rows of a part that was committed lately, as an Arrow table, where they need not be
        read from the store; else None. Blocks; called from a thread."""

    def drain(self) -> None:
        """First ^C: running episodes finish and are committed, nothing new starts."""

    def stop(self) -> None:
        """Second ^C: end now; what is not committed is done at the next start."""
