"""Arms side by side on the tasks they share: each task is compared with itself.

Most of what rewards differ by is how hard tasks are, and that is the same for both arms: paired by
task it drops out, and the interval of the difference is the narrower for it (Miller 2024, "Adding
Error Bars to Evals", arXiv:2411.00640, section 4).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rollout.report.estimates import Floats, Interval, clustered_error, student_t_975


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Of one arm and the first, over tasks for which both have a reward."""

    arm: str
    against: str
    tasks: int
    mean: float | None
    """Of the tasks' differences, each that of its mean rewards; `None` without a common task."""
    interval: Interval | None
    """95 %, by Student's t over tasks; `None` where all differ by the same or there is but one."""
    higher: int
    """Tasks on which the arm's mean reward is above that of the first."""
    lower: int
    unscored: int = 0
    """Rollouts of both arms that have no reward, and so are in none of these numbers."""


def differences(rows: pa.Table, arms: Sequence[str]) -> tuple[Difference, ...]:
    """Each arm against the first; none where there is one arm.

    Rows whose reward is null are left out, and counted: an arm that loses its hard tasks to
    failures of ours would else look as sure as one that was judged on all of them.
    """
    sides = {arm: _side(rows.filter(pc.equal(rows["arm"], arm))) for arm in arms}
    return tuple(_difference(arm, arms[0], sides[arm], sides[arms[0]]) for arm in arms[1:])


@dataclass(frozen=True, slots=True)
class _Side:
    """What is to be known of one arm."""

    means: dict[str, float]
    """Task to its mean reward over samples."""
    unscored: int


def _side(rows: pa.Table) -> _Side:
    return _Side(_task_means(rows.filter(pc.is_valid(rows["reward"]))), rows["reward"].null_count)


def _task_means(rows: pa.Table) -> dict[str, float]:
    names, task = np.unique(rows["task_id"].to_numpy(), return_inverse=True)
    sums = np.bincount(task, weights=rows["reward"].to_numpy(), minlength=len(names))
    counts = np.bincount(task, minlength=len(names))
    return dict(zip(map(str, names), (sums / counts).tolist(), strict=True))


def _difference(arm: str, against: str, side: _Side, first: _Side) -> Difference:
    common = sorted(side.means.keys() & first.means.keys())
    found: Floats = np.array(
        [side.means[task] - first.means[task] for task in common], dtype=np.float64
    )
    return Difference(
        arm=arm,
        against=against,
        tasks=len(common),
        mean=float(found.mean()) if common else None,
        interval=_interval(found),
        higher=int((found > 0).sum()),
        lower=int((found < 0).sum()),
        unscored=side.unscored + first.unscored,
    )


def _interval(found: Floats) -> Interval | None:
    if len(found) < 2 or np.ptp(found) == 0.0:
        return None
    error = clustered_error(found, np.arange(len(found)))
    if error is None:
        return None
    mean, reach = float(found.mean()), student_t_975(len(found) - 1) * error
    return Interval(mean - reach, mean + reach)
