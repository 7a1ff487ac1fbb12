"""What a run says, by arm: rewards with their intervals, pass@k, outcomes, stage times.

A rollout without a reward is one we failed to judge. It lowers the coverage and nothing else: it
is never a zero, in no mean and in no interval.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rollout.dataset.reader import RolloutDataset
from rollout.dataset.state import RunState
from rollout.report.estimates import Floats, Interval, mean_interval, pass_at_k, percentiles
from rollout.report.paired import Difference, differences
from rollout.scorers.integrity import kind_of
from rollout.types import Outcome, count_by

COLUMNS = (
    "arm",
    "task_id",
    "sample_index",
    "group_size",
    "outcome",
    "reward",
    "phases",
    "attempts",
    "integrity",
)
PASS = 1.0
"""A rollout passes when its reward is at least this."""

_SCORED = pa.array([outcome.value for outcome in Outcome if outcome.scored])


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """How long one stage took, over the rollouts that went through it."""

    n: int
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSummary:
    """One arm of the sweep. `None` stands for what cannot be computed, never for zero."""

    arm: str
    planned: int
    committed: int
    scored: int
    tasks: int
    """Tasks with at least one reward: the clusters of the interval."""
    mean_reward: float | None
    """Over rollouts with a reward."""
    interval: Interval | None
    """95 %, clustered by task; see `estimates.mean_interval`."""
    pass_at_1: float | None
    """Mean over tasks of the share of passing samples."""
    k: int
    """The group size."""
    pass_at_k: float | None
    """Mean over the tasks whose k samples all have a reward."""
    pass_at_k_tasks: int
    """How many tasks those are."""
    outcomes: Mapping[str, int]
    stages: Mapping[str, StageTime]
    attempts_failed: int
    """Attempts that ended in an outcome of ours, retried or not."""
    flagged: int = 0
    """Rollouts with signs of tampering."""
    signs: Mapping[str, int] = field(default_factory=dict)
    """Kind of sign to how many rollouts have one."""

    @property
    def coverage(self) -> float | None:
        """The share of the planned rollouts that has a reward."""
        return self.scored / self.planned if self.planned else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    arms: tuple[ArmSummary, ...]
    stages: Mapping[str, StageTime]
    """Over all arms."""
    differences: tuple[Difference, ...] = ()
    """Each arm against the first, task by task."""

    @property
    def planned(self) -> int:
        return sum(arm.planned for arm in self.arms)

    @property
    def committed(self) -> int:
        return sum(arm.committed for arm in self.arms)

    @property
    def scored(self) -> int:
        return sum(arm.scored for arm in self.arms)

    @property
    def attempts_failed(self) -> int:
        return sum(arm.attempts_failed for arm in self.arms)

    @property
    def complete(self) -> bool:
        """Whether every planned rollout has a reward."""
        return self.scored == self.planned


def summarise(dataset: RolloutDataset, planned: Mapping[str, int] | None = None) -> RunSummary:
    """The summary of what is committed; `planned` counts by arm come from the log if not given."""
    then = dataset.snapshot()
    counts = planned_counts(then.state) if planned is None else planned
    return summarise_table(then.scan(columns=list(COLUMNS)), counts, then.state.samples)


def planned_counts(state: RunState) -> dict[str, int]:
    """Arm to the number of rollouts that the run's log plans for it."""
    return {arm: len(state.tasks) * state.samples for arm in state.arms}


def summarise_table(table: pa.Table, planned: Mapping[str, int], samples: int = 0) -> RunSummary:
    """Summarise rows that hold COLUMNS. `samples` is the k of pass@k; 0: the largest group."""
    found = [str(arm) for arm in pc.unique(table["arm"]).to_pylist()]
    names = [*planned, *(arm for arm in found if arm not in planned)]
    return RunSummary(
        arms=tuple(_arm(name, table, planned.get(name, 0), samples) for name in names),
        stages=_stages(table),
        differences=differences(_judged(table), names),
    )


def _arm(name: str, table: pa.Table, planned: int, samples: int) -> ArmSummary:
    rows = table.filter(pc.equal(table["arm"], name))
    scored = rows.filter(_has_reward(rows))
    rewards = scored["reward"].to_numpy()
    task_names, task = np.unique(scored["task_id"].to_numpy(), return_inverse=True)
    n = np.bincount(task, minlength=len(task_names))
    passed = np.bincount(task[rewards >= PASS], minlength=len(task_names))
    flagged = _kinds_of_signs(rows)
    k = samples or pc.max(rows["group_size"]).as_py() or 1
    return ArmSummary(
        arm=name,
        planned=planned and max(planned, rows.num_rows),  # a trainer's run grows past its plan
        committed=rows.num_rows,
        scored=scored.num_rows,
        tasks=len(task_names),
        mean_reward=float(rewards.mean()) if len(rewards) else None,
        interval=mean_interval(rewards, task) if len(rewards) else None,
        pass_at_1=_mean_pass_at(1, n, passed),
        k=k,
        pass_at_k=_mean_pass_at(k, n, passed),
        pass_at_k_tasks=int((n >= k).sum()),
        outcomes=count_by(sorted(rows["outcome"].to_pylist())),
        stages=_stages(rows),
        attempts_failed=_failed_attempts(rows),
        flagged=len(flagged),
        signs=count_by(sorted(kind for kinds in flagged for kind in kinds)),
    )


def _has_reward(rows: pa.Table) -> pa.ChunkedArray:
    return pc.and_(pc.is_valid(rows["reward"]), pc.is_in(rows["outcome"], _SCORED))


def _judged(rows: pa.Table) -> pa.Table:
    """The rewards alone, null wherever there is none that counts."""
    rewards = pc.if_else(_has_reward(rows), rows["reward"], None)
    return pa.table({"arm": rows["arm"], "task_id": rows["task_id"], "reward": rewards})


def _mean_pass_at(k: int, n: NDArray[np.int64], passed: NDArray[np.int64]) -> float | None:
    """The mean over the tasks that have at least `k` rewards."""
    chances = [pass_at_k(int(a), int(b), k) for a, b in zip(n, passed, strict=True) if a >= k]
    return sum(chances) / len(chances) if chances else None


def _stages(rows: pa.Table) -> dict[str, StageTime]:
    """Stage to its times, in the order in which stages were first seen."""
    phases = pc.list_flatten(rows["phases"])
    names = pc.struct_field(phases, "name")
    times_ms = pc.struct_field(phases, "ms").to_numpy()
    return {
        name: _stage_time(times_ms[pc.equal(names, name).to_numpy()])
        for name in pc.unique(names).to_pylist()
    }


def _stage_time(times_ms: Floats) -> StageTime:
    p50, p95 = percentiles(times_ms)
    return StageTime(n=len(times_ms), p50_ms=p50, p95_ms=p95)


def _kinds_of_signs(rows: pa.Table) -> list[set[str]]:
    """Of each rollout that has any."""
    signs = rows["integrity"].to_pylist()
    return [{kind_of(sign) for sign in row} for row in signs if row]


def _failed_attempts(rows: pa.Table) -> int:
    ended = pc.struct_field(pc.list_flatten(rows["attempts"]), "outcome")
    scored = pc.is_in(ended, _SCORED)
    return len(scored) - (pc.sum(scored).as_py() or 0)
