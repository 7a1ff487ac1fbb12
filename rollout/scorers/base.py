"""What turns an end state into named scores."""

from dataclasses import dataclass
from typing import Protocol

from rollout.aio import Deadline
from rollout.sandbox.base import Sandbox
from rollout.types import Score, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """All scores of one end state and the one number a trainer uses."""

    reward: float
    """Finite."""
    scores: tuple[Score, ...]
    output: str = ""
    """What the scorer printed, clipped head and tail; for people."""
    integrity: tuple[str, ...] = ()
    """Signs of tampering seen meanwhile; see `integrity.py`."""


class Scorer(Protocol):
    """Judges what is in `sandbox`, which the episode has prepared as `task.verifier.mode` asks.

    Raises ScoreError when there is no verdict that can be trusted; never invents a zero.
    """

    async def score(self, task: Task, sandbox: Sandbox, deadline: Deadline) -> Verdict: ...
