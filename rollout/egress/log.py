"""What a sandbox asked of the world, as events of its row; so many and no more."""

from collections.abc import Callable
from dataclasses import dataclass, field

from rollout.egress.head import Request

MOST_EVENTS = 500
"""Of each kind; what comes after is counted."""

Tell = Callable[[str, str], object]
"""Kind and detail of an event."""


@dataclass(slots=True)
class Passed:
    """Bytes of one connection, so far."""

    sent: int = 0
    received: int = 0


@dataclass(slots=True)
class _Beyond:
    requests: int = 0
    passed: Passed = field(default_factory=Passed)


class EgressLog:
    """One line for each request, when it has ended."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._told: dict[str, int] = {}
        self._beyond: dict[str, _Beyond] = {}

    def allowed(self, request: Request, address: str, passed: Passed, end: str = "") -> None:
        what = f"{_told(request)} at {address}, {_bytes(passed)}{end and f', {end}'}"
        self._write("egress_allowed", what, passed)

    def refused(self, what: Request | str, why: str) -> None:
        """what: the request, or who cannot be told of one."""
        told = what if isinstance(what, str) else _told(what)
        self._write("egress_refused", f"{told}: {why}", Passed())

    def failed(self, request: Request, why: str) -> None:
        """Allowed, and not there."""
        self._write("egress_failed", f"{_told(request)}: {why}", Passed())

    def close(self) -> None:
        """Tell of what was too much to be told of one by one."""
        for kind, beyond in self._beyond.items():
            self._tell(kind, f"and {beyond.requests} more, {_bytes(beyond.passed)} in all")
        self._beyond.clear()

    def _write(self, kind: str, detail: str, passed: Passed) -> None:
        self._told[kind] = self._told.get(kind, 0) + 1
        if self._told[kind] <= MOST_EVENTS:
            self._tell(kind, detail)
            return
        beyond = self._beyond.setdefault(kind, _Beyond())
        beyond.requests += 1
        beyond.passed.sent += passed.sent
        beyond.passed.received += passed.received


def _told(request: Request) -> str:
    return f"{request.method[:20]} {request.host}:{request.port}"


def _bytes(passed: Passed) -> str:
    return f"{passed.sent} bytes out, {passed.received} in"
