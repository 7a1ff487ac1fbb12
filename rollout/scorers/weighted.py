"""Several scorers, one weighted sum."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

from rollout.aio import Deadline
from rollout.errors import ConfigError, ScoreError
from rollout.plugins import TARGET, make, plugin_of, problems
from rollout.sandbox.base import Sandbox
from rollout.scorers.base import Scorer, Verdict, opened, verdict_of
from rollout.types import Message, Score, Task


class Weighted:
    """The sum of each part's reward times its weight. A part that gives no verdict fails it all.

    The parts run one after another, in the order given, in the same sandbox and by one deadline.
    """

    reads_messages = True

    def __init__(self, *, parts: Mapping[str, Mapping[str, Any]]) -> None:
        """
        parts: name to `{scorer: …, weight: 1.0}`; a scorer is `{_target_: …}` with its arguments,
            or an object that is one. The weight is 1 when it is left out.
        """
        if not parts:
            raise ConfigError("scorer.parts: is empty; name at least one part")
        self._parts = {name: _part(name, part) for name, part in parts.items()}
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opening:
            for scorer, _ in self._parts.values():
                await opened(scorer, opening)
            self._open = opening.pop_all()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._open.aclose()

    def problems(self, task: Task) -> str | None:
        """The first part's reason why it cannot score the task, if one has any."""
        for name, (scorer, _) in self._parts.items():
            told = getattr(scorer, "problems", None)
            problem = told(task) if told else None
            if problem:
                return f"part {name}: {problem}"
        return None

    async def score(
        self, task: Task, sandbox: Sandbox, deadline: Deadline, *, messages: Sequence[Message] = ()
    ) -> Verdict:
        scores: list[Score] = []
        outputs: list[str] = []
        signs: list[str] = []
        for name, (scorer, weight) in self._parts.items():
            try:
                verdict = await verdict_of(scorer, task, sandbox, deadline, messages)
            except ScoreError as exc:
                raise type(exc)(f"part {name}: {exc}") from exc
            scores.append(Score(name=name, value=verdict.reward, weight=weight))
            signs.extend(verdict.integrity)
            outputs.append(f"== {name}: {verdict.reward:g}\n{verdict.output}")
        reward = math.fsum(score.weight * (score.value or 0.0) for score in scores)
        return Verdict(
            reward=reward,
            scores=tuple(scores),
            output="\n".join(outputs),
            integrity=tuple(signs),
        )


def _part(name: str, part: Mapping[str, Any]) -> tuple[Scorer, float]:
    where = f"scorer.parts.{name}"
    if not isinstance(part, Mapping) or not {"scorer"} <= set(part) <= {"scorer", "weight"}:
        raise ConfigError(f"{where}: saw {part!r}; use {{scorer: …, weight: …}}")
    weight = part.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise ConfigError(f"{where}.weight: saw {weight!r}; use a finite number")
    return _scorer(f"{where}.scorer", part["scorer"]), float(weight)


def _scorer(where: str, scorer: Any) -> Scorer:
    if isinstance(scorer, Mapping) and TARGET in scorer:
        wrong = problems(where, scorer, "score")
        if wrong:
            raise ConfigError("\n".join(wrong))
        made: Scorer = make(plugin_of(scorer))
        return made
    if not callable(getattr(scorer, "score", None)):
        raise ConfigError(f"{where}: saw {scorer!r}; use {{{TARGET}: package.module.Class}}")
    found: Scorer = scorer
    return found
