"""Notices when it is us who fail, before a night's budget is spent on it."""

from collections import Counter, deque

from rollout.config import RetryConf

STORM_MINIMUM = 20
"""Ended attempts before any share means something."""


class StormWatch:
    """The last ended attempts, and whether too many of them failed by us."""

    def __init__(self, conf: RetryConf) -> None:
        self._conf = conf
        self._recent: deque[str | None] = deque(maxlen=conf.storm_window)
        self._failed = 0
        """Of `_recent`, how many failed by us."""

    def ended(self, failure: str | None) -> None:
        """One attempt ended: `None` if in order, else why it failed by us."""
        full = len(self._recent) == self._recent.maxlen
        self._failed += (failure is not None) - (full and self._recent[0] is not None)
        self._recent.append(failure)

    @property
    def verdict(self) -> str:
        """Why nothing more should be spent; empty while all is well enough."""
        seen = len(self._recent)
        if seen < min(STORM_MINIMUM, self._conf.storm_window):
            return ""
        if self._failed <= self._conf.storm_share * seen:
            return ""
        failures = [failure for failure in self._recent if failure is not None]
        [(commonest, times)] = Counter(failures).most_common(1)
        return (
            f"{len(failures)} of the last {seen} attempts failed by us, not by the agents "
            f"(retry.storm_share is {self._conf.storm_share:g}); {times} times: {commonest}"
        )
