"""Which of a source's tasks a run takes: the same answer on every machine, every time."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from rollout.errors import ConfigError
from rollout.tasks.problems import nearest

ON_ERROR = ("raise", "skip")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """`include` and `exclude` are globs over task ids; an empty `include` takes all."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: int | None = None
    """At most so many tasks, broken ones not counted."""
    shuffle_seed: int | None = None
    """`None` keeps the source's order."""
    skip_broken: bool = False

    @classmethod
    def of(
        cls,
        *,
        include: str | Sequence[str],
        exclude: str | Sequence[str],
        limit: int | None,
        shuffle_seed: int | None,
        on_error: str,
    ) -> "Selection":
        """From what a config holds; ConfigError names the key that is wrong."""
        if on_error not in ON_ERROR:
            raise ConfigError(f"task.on_error: saw {on_error!r}; use raise or skip")
        return cls(
            include=globs("task.include", include),
            exclude=globs("task.exclude", exclude),
            limit=_whole("task.limit", limit, at_least=1),
            shuffle_seed=_whole("task.shuffle_seed", shuffle_seed, at_least=None),
            skip_broken=on_error == "skip",
        )

    def order(self, ids: Sequence[str], source: str) -> list[str]:
        """The ids to try, in order, `limit` not yet applied. ConfigError when none is left."""
        self._refuse_dead_globs(ids)
        kept = [task_id for task_id in ids if self._takes(task_id)]
        if not kept:
            raise ConfigError(
                f"task.include/task.exclude leave none of the {len(ids)} tasks of {source}"
            )
        if self.shuffle_seed is None:
            return kept
        return sorted(kept, key=lambda task_id: _draw(self.shuffle_seed, task_id))

    def _takes(self, task_id: str) -> bool:
        wanted = not self.include or any(fnmatchcase(task_id, glob) for glob in self.include)
        return wanted and not any(fnmatchcase(task_id, glob) for glob in self.exclude)

    def _refuse_dead_globs(self, ids: Sequence[str]) -> None:
        """A pattern that names no task is a slip of the pen, not a wish."""
        for glob in self.include:
            if not any(fnmatchcase(task_id, glob) for task_id in ids):
                raise ConfigError(f"task.include: {glob!r} matches no task{nearest(glob, ids)}")


def globs(key: str, value: str | Sequence[str]) -> tuple[str, ...]:
    """One glob or a list of them, as a tuple."""
    listed = [value] if isinstance(value, str) else list(value)
    for glob in listed:
        if not isinstance(glob, str) or not glob:
            raise ConfigError(f"{key}: saw {glob!r}; use a list of globs over task ids")
    return tuple(listed)


def _whole(key: str, value: int | None, *, at_least: int | None) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{key}: saw {value!r}; use a whole number or null")
    if at_least is not None and value < at_least:
        raise ConfigError(f"{key}: saw {value}; use {at_least} or more, or null for all")
    return value


def _draw(seed: int | None, task_id: str) -> str:
    """Each task's own place in the shuffle, so that adding a task moves no other."""
    return hashlib.sha256(f"{seed}\0{task_id}".encode()).hexdigest()
