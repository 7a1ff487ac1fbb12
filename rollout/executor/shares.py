"""What each worker may use of the models' endpoints; together never more than the whole."""


class Shares:
    """An equal part for each worker, of what the others have let go.

    A worker that comes waits until those before it have heard of it and their calls beyond their
    new parts have ended. So nobody is asked before a call, and no limit is overstepped meanwhile.
    """

    def __init__(self) -> None:
        self._used: dict[str, float] = {}
        """Worker to the part that it may be using now."""

    def part(self, worker: str, using: float, workers: int) -> float:
        """Of 1, for `worker`, which may be `using` so much until it hears this answer."""
        others = sum(used for name, used in self._used.items() if name != worker)
        part = max(0.0, min(1 / max(1, workers), 1 - others))
        self._used[worker] = max(part, using)
        return part

    def gone(self, worker: str) -> None:
        """It asks nothing any more."""
        self._used.pop(worker, None)
