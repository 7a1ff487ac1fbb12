"""Groups out of the dataset as they become whole, for an event loop; and how far one has come.

The dataset is where they come from, so what a trainer sees is what is committed: a worker that dies
in between costs time and never a row. Reading blocks, so it is done in a thread, no more than a few
groups ahead.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from rollout.dataset.reader import RolloutDataset
from rollout.types import Group

AHEAD = 4
"""Groups read before somebody asks for them."""
LISTEN_S = 5.0
"""At most this long between two looks at the log, for a commit that nobody told of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A group, and the cursors before it and after it."""

    group: Group
    before: str
    after: str


class Feed:
    """Follows a run's groups from `cursor` on. Use as `async with`."""

    def __init__(
        self, dataset: RolloutDataset, cursor: str | None, first_hand: Callable[[str], Any]
    ) -> None:
        self._dataset, self._cursor, self._first_hand = dataset, cursor, first_hand
        self._arrivals: asyncio.Queue[Arrival | Exception] = asyncio.Queue(AHEAD)
        self._loop = asyncio.get_running_loop()
        self._news = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._follow, name="rollout-feed", daemon=True)

    async def __aenter__(self) -> "Feed":
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        self.wake()
        while self._thread.is_alive():
            with contextlib.suppress(asyncio.QueueEmpty):
                self._arrivals.get_nowait()  # so that the thread is not stuck behind a full queue
            await asyncio.sleep(0.01)

    def wake(self) -> None:
        """There may be more."""
        self._news.set()

    async def next(self) -> Arrival:
        """Waits for it; raises what reading raised."""
        arrival = await self._arrivals.get()
        if isinstance(arrival, Exception):
            raise arrival
        return arrival

    def _more(self) -> bool:
        self._news.wait(LISTEN_S)
        self._news.clear()
        return not self._closed

    def _follow(self) -> None:
        try:
            groups = self._dataset.groups(
                self._cursor, more=self._more, first_hand=self._first_hand
            )
            before = groups.cursor
            for group in groups:
                self._put(Arrival(group=group, before=before, after=groups.cursor))
                before = groups.cursor
                if self._closed:
                    return
        except Exception as exc:  # noqa: BLE001  told to whoever waits
            self._put(exc)

    def _put(self, arrival: Arrival | Exception) -> None:
        asyncio.run_coroutine_threadsafe(self._arrivals.put(arrival), self._loop).result()


class Bookmark:
    """From where to read again so that no group comes twice and none is missed.

    Groups that came before they were asked for, as after a crash, are held here until they are.
    """

    def __init__(self, cursor: str | None = None, settled: Collection[str] = ()) -> None:
        """
        cursor: where reading begins.
        settled: ids of groups behind it that were dealt with before.
        """
        self._cursor = cursor
        self._settled_before = set(settled)
        self._passed: list[tuple[str, str, bool]] = []
        """Cursor before, group id, whether it is dealt with: from the first that is not."""
        self._early: dict[str, Group] = {}

    def is_settled(self, group_id: str) -> bool:
        return group_id in self._settled_before

    def settle(self, arrival: Arrival) -> None:
        """The group is dealt with: taken, or dropped."""
        self._pass(arrival, settled=True)

    def hold(self, arrival: Arrival) -> None:
        """Nobody has asked for it yet."""
        self._early[arrival.group.group_id] = arrival.group
        self._pass(arrival, settled=False)

    @property
    def early(self) -> Collection[str]:
        """Ids of groups that nobody has asked for yet."""
        return self._early.keys()

    def take_early(self, group_id: str) -> Group:
        """It is asked for now, and dealt with."""
        group = self._early.pop(group_id)
        self._passed = [
            (before, name, settled or name == group_id) for before, name, settled in self._passed
        ]
        self._trim()
        return group

    def state_dict(self) -> dict[str, Any]:
        settled = [name for _, name, settled in self._passed if settled]
        cursor = self._passed[0][0] if self._passed else self._cursor
        return {"cursor": cursor, "settled": sorted({*settled, *self._settled_before})}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Bookmark":
        return cls(state["cursor"], state["settled"])

    def _pass(self, arrival: Arrival, *, settled: bool) -> None:
        self._settled_before.discard(arrival.group.group_id)
        self._passed.append((arrival.before, arrival.group.group_id, settled))
        self._cursor = arrival.after
        self._trim()

    def _trim(self) -> None:
        while self._passed and self._passed[0][2]:
            self._passed.pop(0)
