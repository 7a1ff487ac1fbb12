"""A RolloutSource for trainers that have no event loop: it runs in a thread of its own."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Self

from rollout.config import RunConf
from rollout.online.loop import LoopThread
from rollout.online.source import RolloutSource
from rollout.types import Group


class BackgroundSource:
    """The same calls, each of which blocks until it is done. Use as `with`."""

    def __init__(
        self,
        config: RunConf | Sequence[str],
        *,
        config_dir: str | None = None,
        state: Mapping[str, Any] | None = None,
        taking_is_training: bool = False,
    ) -> None:
        """
        config, config_dir, taking_is_training: as of `RolloutSource`.
        state: of a checkpoint, to go on from.
        """
        self._source = RolloutSource(
            config, config_dir=config_dir, taking_is_training=taking_is_training
        )
        if state is not None:
            self._source.load_state_dict(state)
        self._loop = LoopThread("rollout-source")

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        self._loop.start()
        try:
            self._loop.call(self._source.__aenter__())
        except BaseException:
            self._loop.close()
            raise

    def close(self) -> None:
        """Idempotent."""
        try:
            if self._loop.runs:
                self._loop.call(self._source.__aexit__(None, None, None))
        finally:
            self._loop.close()

    @property
    def is_open(self) -> bool:
        return self._loop.runs

    @property
    def source(self) -> RolloutSource:
        """For what it tells of itself: `tasks uri version taken progress`."""
        return self._source

    def submit(self, task_ids: str | Iterable[str], n: int | None = None) -> tuple[str, ...]:
        return self._loop.call(self._source.submit(task_ids, n))

    def update_policy(self, version: int, endpoint: str | Sequence[str] = ()) -> None:
        self._loop.call(self._source.update_policy(version, endpoint))

    def take(self, count: int, *, max_staleness: int | None = None) -> list[Group]:
        """The next groups; fewer only where no more are to come."""
        return self._loop.call(self._take(count, max_staleness))

    def begin_take(self, count: int) -> "Future[list[Group]]":
        """The same without waiting."""
        return self._loop.begin(self._take(count, None))

    def state_dict(self) -> dict[str, Any]:
        async def ask() -> dict[str, Any]:
            return self._source.state_dict()

        return self._loop.call(ask())

    async def _take(self, count: int, max_staleness: int | None) -> list[Group]:
        taken: list[Group] = []
        if count:
            async for group in self._source.groups(max_staleness=max_staleness):
                taken.append(group)
                if len(taken) == count:
                    break
        return taken
