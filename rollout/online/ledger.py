"""Which groups a trainer has asked for, how far each is, and how many may be on their way.

Pure bookkeeping: nothing here is awaited. All of it fits into a trainer's checkpoint.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One group that was asked for."""

    task_id: str
    size: int
    """Rollouts of it."""
    round: int
    """The how-manieth of this task, from 0; it makes the group's ids its own."""


class GroupLedger:
    """What is queued, what runs and what was taken.

    Admission is AReaL's and SkyRL's: at training step `s` (from 1) no more than
    `(max_staleness + s) * batch` groups may have been taken or be running. So none that is begun
    now can be too old once all that run are trained on, `batch` in each step, and no sandbox works
    on what would be dropped. Only one that later ones overtake can be.
    """

    def __init__(
        self,
        group_id: Callable[[Wanted], str],
        *,
        batch: int | None = None,
        max_staleness: int = 0,
        taking_is_training: bool = False,
    ) -> None:
        """
        group_id: of a group, for ever the same.
        batch: groups of a training step; None: whatever is asked for runs at once.
        max_staleness: by how many steps the weights of a group may be behind when it is trained on.
        taking_is_training: a step is `batch` groups taken, whatever becomes of the weights.
        """
        self._group_id = group_id
        self._batch, self._max_staleness = batch, max_staleness
        self._taking_is_training = taking_is_training
        self._queue: deque[Wanted] = deque()
        self._running: dict[str, Wanted] = {}
        self._rounds: dict[str, int] = {}
        """Of each task, how many times it was asked for."""
        self.step = 1
        self.accepted = 0
        """Groups taken for training."""

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def open(self) -> list[Wanted]:
        """What was asked for and is still to come, in that order."""
        return [*self._running.values(), *self._queue]

    @property
    def idle(self) -> bool:
        """Nothing that was asked for is still to come."""
        return not self._queue and not self._running

    @property
    def room(self) -> int | None:
        """How many groups more may be on their way, those in the queue included; None: any."""
        if self._batch is None:
            return None
        most = (self._max_staleness + self.step) * self._batch
        return max(0, most - self.accepted - len(self._running) - len(self._queue))

    def next_round(self, task_id: str) -> int:
        return self._rounds.get(task_id, 0)

    def skip_round(self, task_id: str) -> None:
        """Its next one is there already, from an earlier life of the run."""
        self._rounds[task_id] = self.next_round(task_id) + 1

    def submit(self, task_id: str, size: int) -> Wanted:
        """Put it last in the queue."""
        wanted = Wanted(task_id=task_id, size=size, round=self.next_round(task_id))
        self._rounds[task_id] = wanted.round + 1
        self._queue.append(wanted)
        return wanted

    def release(self) -> list[Wanted]:
        """Those of the queue, the oldest first, that may run now; they count as running."""
        released = []
        while self._queue and self._may_run:
            wanted = self._queue.popleft()
            self._running[self._group_id(wanted)] = wanted
            released.append(wanted)
        return released

    @property
    def _may_run(self) -> bool:
        if self._batch is None:
            return True
        most = (self._max_staleness + self.step) * self._batch
        return self.accepted + len(self._running) < most

    def is_running(self, group_id: str) -> bool:
        return group_id in self._running

    def settle(self, group_id: str, *, accepted: bool) -> None:
        """It has come: taken for training, or dropped, which makes room for another."""
        del self._running[group_id]
        self.accepted += accepted
        if self._taking_is_training and self._batch:
            self.step = 1 + self.accepted // self._batch

    def weights_changed(self) -> None:
        """The trainer has made a step."""
        if not self._taking_is_training:
            self.step += 1

    # ---------------------------------------------------------------- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON data. What runs is queued again by `load_state_dict`, before the rest."""
        return {
            "step": self.step,
            "accepted": self.accepted,
            "rounds": dict(self._rounds),
            "open": [asdict(wanted) for wanted in self.open],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step, self.accepted = int(state["step"]), int(state["accepted"])
        self._rounds = {str(task): int(number) for task, number in state["rounds"].items()}
        self._queue = deque(Wanted(**wanted) for wanted in state["open"])
        self._running = {}
