"""Samplers that look at how the tasks went lately."""

import random

from rollout.errors import ConfigError
from rollout.samplers.base import History
from rollout.samplers.uniform import least_drawn


class RecentSuccess:
    """Most of what is solved now and then: from always and never there is little to learn.

    A task's weight is p (1 - p) of its latest mean reward p, scaled to at most 1, and at least
    `floor`, so that none is forgotten. What was never scored has the weight 1.
    """

    def __init__(self, *, floor: float = 0.1) -> None:
        """floor: above 0, at most 1."""
        if not 0 < floor <= 1:
            raise ConfigError(f"sampler.floor: must be above 0 and at most 1, was {floor}")
        self._floor = floor

    def choose(self, history: History, rng: random.Random) -> str | None:
        weights = [self._weight(history.mean(task_id)) for task_id in history.task_ids]
        return rng.choices(history.task_ids, weights)[0]

    def _weight(self, mean: float | None) -> float:
        return 1.0 if mean is None else max(self._floor, 4 * mean * (1 - mean))


class DropSolved:
    """Uniform over tasks that are not solved yet; when all are, the end."""

    def __init__(self, *, solved: float = 0.9, rollouts: int = 8) -> None:
        """
        solved: a task with at least this mean reward, over its latest rollouts,
        rollouts: once so many of them are scored.
        """
        self._solved, self._rollouts = solved, rollouts

    def choose(self, history: History, rng: random.Random) -> str | None:
        left = [task_id for task_id in history.task_ids if not self._is_solved(task_id, history)]
        return least_drawn(left, history, rng)

    def _is_solved(self, task_id: str, history: History) -> bool:
        rewards = history.rewards(task_id)
        return len(rewards) >= self._rollouts and sum(rewards) >= self._solved * len(rewards)


class RetryFailed:
    """Uniform, but with the chance `share` one of the tasks whose latest rollouts failed:
    no reward above `below`, or none at all because of us."""

    def __init__(self, *, share: float = 0.5, below: float = 0.5) -> None:
        if not 0 <= share <= 1:
            raise ConfigError(f"sampler.share: must be from 0 to 1, was {share}")
        self._share, self._below = share, below

    def choose(self, history: History, rng: random.Random) -> str | None:
        failed = [task_id for task_id in history.task_ids if self._failed(task_id, history)]
        if failed and rng.random() < self._share:
            return rng.choice(failed)
        return least_drawn(history.task_ids, history, rng)

    def _failed(self, task_id: str, history: History) -> bool:
        mean = history.mean(task_id)
        return history.failed(task_id) > 0 if mean is None else mean < self._below
