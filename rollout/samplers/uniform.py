"""Every task as often as every other."""

import random
from collections.abc import Sequence

from rollout.samplers.base import History


class Uniform:
    """Passes over all tasks, each in an order of its own."""

    def choose(self, history: History, rng: random.Random) -> str | None:
        return least_drawn(history.task_ids, history, rng)


def least_drawn(task_ids: Sequence[str], history: History, rng: random.Random) -> str | None:
    """One of those that were asked for least often; None of none."""
    if not task_ids:
        return None
    least = min(map(history.drawn, task_ids))
    return rng.choice([task_id for task_id in task_ids if history.drawn(task_id) == least])
