"""How many episodes a worker may have under way, so that none waits for room in the pool."""

from rollout.capacity import Capacity
from rollout.types import Blueprint, Task


def demand_of(task: Task) -> Capacity:
    """The most an episode of this task holds at once: it never has two sandboxes."""
    blueprints = [task.blueprint, task.verifier.blueprint or task.blueprint]
    return Capacity(
        cpu=max(_amount(b, "cpu") for b in blueprints),
        memory_mb=max(_amount(b, "memory_mb") for b in blueprints),
        disk_mb=max(_amount(b, "disk_mb") for b in blueprints),
        pids=max(_amount(b, "pids") for b in blueprints),
    )


def _amount(blueprint: Blueprint, name: str) -> float:
    return float(getattr(blueprint.resources, name) or 0.0)


class Admission:
    """Episodes by what they ask of the machine. A worker asks for no more leases than `room`."""

    def __init__(self, limit: Capacity, most: int) -> None:
        self._limit = limit
        self._most = most
        self._allowed = most
        """Shrinks to what fits when something did not, and grows by one with each that ends."""
        self._inside: dict[str, Capacity] = {}
        self._used = Capacity()

    @property
    def room(self) -> int:
        return max(0, self._allowed - len(self._inside))

    def enter(self, name: str, demand: Capacity) -> bool:
        """False: no room now. What could never fit enters when alone, to fail with a reason."""
        if self._inside and self._used.plus(demand).within(self._limit):
            self._allowed = len(self._inside)
            return False
        self._inside[name] = demand
        self._used = self._used.plus(demand)
        return True

    def leave(self, name: str) -> None:
        demand = self._inside.pop(name, None)
        if demand is not None:
            self._used = self._used.plus(demand, sign=-1)
            self._allowed = min(self._allowed + 1, self._most)
