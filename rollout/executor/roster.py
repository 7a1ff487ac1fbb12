"""The workers of a run as the coordinator knows them: by what it hears."""

from collections.abc import Callable
from dataclasses import dataclass, field

from rollout.executor.base import Heartbeat


@dataclass(slots=True)
class Seen:
    """What is known of one worker."""

    node: str
    last_s: float
    """When it was last heard."""
    alive: bool = True
    state: str = "starting"
    counts: dict[str, float] = field(default_factory=dict)


class Roster:
    """Who lives. Any call proves life, even of one that was thought lost."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._seen: dict[str, Seen] = {}

    @property
    def living(self) -> list[Seen]:
        return [seen for seen in self._seen.values() if seen.alive]

    def enter(self, worker: str, node: str) -> None:
        self._seen[worker] = Seen(node, self._clock_s())

    def heard(self, worker: str) -> None:
        seen = self._seen.setdefault(worker, Seen("", 0.0))
        seen.last_s, seen.alive = self._clock_s(), True

    def beat(self, beat: Heartbeat) -> None:
        self.heard(beat.worker)
        seen = self._seen[beat.worker]
        seen.state, seen.counts = beat.state, dict(beat.counts)

    def is_alive(self, worker: str) -> bool:
        return worker in self._seen and self._seen[worker].alive

    def gone(self, worker: str) -> str:
        """It lives no more; the node it was on, for people."""
        seen = self._seen.setdefault(worker, Seen("", 0.0))
        seen.alive, seen.counts = False, {}
        return seen.node or "an unknown node"

    def silent(self, ttl_s: float) -> dict[str, float]:
        """Living workers that were not heard for longer than `ttl_s`, and for how long."""
        now_s = self._clock_s()
        return {
            worker: now_s - seen.last_s
            for worker, seen in self._seen.items()
            if seen.alive and now_s - seen.last_s > ttl_s
        }

    def excuse(self, seconds: float) -> None:
        """Nobody could be heard for so long, through no fault of theirs."""
        for seen in self.living:
            seen.last_s += seconds

    def counts(self) -> dict[str, float]:
        """The figures of the living, summed."""
        total: dict[str, float] = {}
        for seen in self.living:
            for name, value in seen.counts.items():
                total[name] = total.get(name, 0.0) + value
        return total
