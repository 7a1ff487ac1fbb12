"""One ended try."""

from dataclasses import dataclass
from datetime import datetime

from rollout.types.endings import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One ended try at a spec, whoever made it and however it ended."""

    epoch: int
    n: int
    outcome: Outcome
    worker: str
    started_at: datetime
    finished_at: datetime
    error: str = ""
