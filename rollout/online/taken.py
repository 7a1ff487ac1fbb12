"""What became of the groups that have come, and how the tasks of a run went so far."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from rollout.dataset.reader import RolloutDataset
from rollout.samplers.base import History
from rollout.types import Group, Outcome

STALE_TOLD = 16
"""So many in a row hint at versions that two sides count in their own ways."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Taken:
    """Since the source was opened."""

    accepted: int = 0
    stale: int = 0
    """Dropped: their weights were too far from the trainer's."""
    refused: int = 0
    """Dropped by the trainer's own `accept`."""
    waited_s: float = 0.0
    """That the trainer has waited for groups."""
    stale_in_a_row: int = 0

    def count(self, group: Group, version: int | None, *, stale: bool, accepted: bool) -> None:
        """`version`: of the trainer's weights. Many stale ones in a row are told, once."""
        self.stale += stale
        self.accepted += accepted
        self.refused += not stale and not accepted
        self.stale_in_a_row = self.stale_in_a_row + 1 if stale else 0
        if self.stale_in_a_row == STALE_TOLD:
            log.warning(
                "%d groups in a row were dropped, the last of weights %s to %s, while the trainer "
                "is at %s; does its endpoint tell a version of its own?",
                STALE_TOLD,
                group.oldest_version,
                group.newest_version,
                version,
            )


def is_stale(group: Group, version: int | None, max_staleness: int) -> bool:
    """Versions above the trainer's own are of a life that it has no memory of."""
    oldest, newest = group.oldest_version, group.newest_version
    if version is None or oldest is None or newest is None:
        return False
    return version - oldest > max_staleness or newest > version


def history_of(
    dataset: RolloutDataset, task_ids: Iterable[str], asked: Iterable[tuple[str, str]]
) -> History:
    """How the tasks went so far, out of the run's own rows.

    asked: (task id, group id) of groups that a checkpoint knows as asked for. They have been
    drawn; their rollouts count as they come.
    """
    history, drawn = History(task_ids), set()
    for task_id, group_id in asked:
        history.draw(task_id)
        drawn.add(group_id)
    coming = frozenset(drawn)
    for row in dataset.scan(["task_id", "group_id", "outcome", "reward"]).to_pylist():
        if row["group_id"] in coming:
            continue
        history.add(row["task_id"], row["reward"] if Outcome(row["outcome"]).scored else None)
        if row["group_id"] not in drawn:
            drawn.add(row["group_id"])
            history.draw(row["task_id"])
    return history
