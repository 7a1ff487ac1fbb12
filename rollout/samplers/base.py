"""What a sampler is asked, and what it may know: the run's own rows, nothing else.

So a curriculum needs no state of its own. A run that goes on after a crash reads its log and draws
as it would have drawn.
"""

import random
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

WINDOW = 32
"""Of a task's rollouts, how many are remembered."""


class History:
    """How each task's rollouts went, the latest last."""

    def __init__(self, task_ids: Iterable[str], window: int = WINDOW) -> None:
        self._rewards: dict[str, deque[float | None]] = {
            task_id: deque(maxlen=window) for task_id in task_ids
        }
        self._drawn = dict.fromkeys(self._rewards, 0)

    @property
    def task_ids(self) -> Sequence[str]:
        return tuple(self._rewards)

    def add(self, task_id: str, reward: float | None) -> None:
        """A rollout ended; None where *we* failed. A task that the run has no more is left out."""
        if task_id in self._rewards:
            self._rewards[task_id].append(reward)

    def draw(self, task_id: str) -> None:
        """A group of it was asked for."""
        self._drawn[task_id] = self._drawn.get(task_id, 0) + 1

    def drawn(self, task_id: str) -> int:
        return self._drawn[task_id]

    def rewards(self, task_id: str) -> list[float]:
        """Of its latest rollouts that were scored."""
        return [reward for reward in self._rewards[task_id] if reward is not None]

    def mean(self, task_id: str) -> float | None:
        """None before anything of it was scored."""
        rewards = self.rewards(task_id)
        return sum(rewards) / len(rewards) if rewards else None

    def failed(self, task_id: str) -> int:
        """Of its latest rollouts, how many have no reward."""
        return sum(reward is None for reward in self._rewards[task_id])


class Sampler(Protocol):
    """Implementations are found by `_target_`; see `conf/sampler/`."""

    def choose(self, history: History, rng: random.Random) -> str | None:
        """The task of the next group; None when there is nothing more to learn from."""
