"""Where tasks come from."""

from typing import Protocol

from rollout.types import Task


class TaskSource(Protocol):
    """Loads all tasks at once, before anything starts.

    All that is wrong with all of them is one ConfigError that names each task and field, raised
    by `load`; with `on_error: skip` the broken are left out and told in `skipped`.
    """

    @property
    def skipped(self) -> list[str]:
        """One line for each task left out, filled by `load`."""

    def load(self) -> list[Task]: ...
