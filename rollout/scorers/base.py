"""What turns an end state into named scores."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from rollout.aio import Deadline
from rollout.sandbox.base import Sandbox
from rollout.types import Message, Score, Task


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

    Raises ScoreError when there is no verdict that can be trusted; never invents a zero. One with
    `reads_messages` set is also given what was said, as `messages=…`, and one that is an
    asynchronous context manager is entered once in each worker.
    """

    async def score(self, task: Task, sandbox: Sandbox, deadline: Deadline) -> Verdict: ...


async def opened(scorer: Scorer, stack: AsyncExitStack) -> Scorer:
    """Entered on `stack`, where it is one that has to be."""
    if hasattr(scorer, "__aenter__"):
        entering: Any = scorer
        await stack.enter_async_context(entering)
    return scorer


async def verdict_of(
    scorer: Scorer,
    task: Task,
    sandbox: Sandbox,
    deadline: Deadline,
    messages: Sequence[Message],
) -> Verdict:
    """Ask a scorer, with what was said where it wants that."""
    more: dict[str, Any] = {}
    if getattr(scorer, "reads_messages", False):
        more["messages"] = messages
    return await scorer.score(task, sandbox, deadline, **more)
