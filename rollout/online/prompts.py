"""Trainers that name a task by its prompt: each is the instruction of one."""

from typing import Any

from rollout.errors import ConfigError, RolloutError
from rollout.online.source import RolloutSource


class Prompts:
    """The tasks of a source, by what their prompts say."""

    def __init__(self, source: RolloutSource, trainer: str) -> None:
        """`trainer`: as people call it. ConfigError where a sampler would say what comes, too."""
        if source.conf.sampler:
            raise ConfigError(f"sampler: {trainer} says which tasks come; leave it off")
        self._trainer = trainer
        self._tasks: dict[str, list[str]] = {}
        for task_id, text in source.instructions.items():
            self._tasks.setdefault(text, []).append(task_id)

    @property
    def texts(self) -> list[str]:
        return list(self._tasks)

    @property
    def alike(self) -> list[str]:
        """Tasks of which none is told by its prompt."""
        return [task_id for ids in self._tasks.values() if len(ids) > 1 for task_id in ids]

    def task(self, prompt: Any) -> str:
        """`prompt`: a text, or a chat whose last message it is. RolloutError unless it is the
        instruction of exactly one task."""
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        found = self._tasks.get(text, [])
        if len(found) != 1:
            whose = f"that of {len(found)} tasks" if found else "no task's instruction"
            raise RolloutError(f"{self._trainer}: this prompt is {whose}: {text[:200]!r}")
        return found[0]
