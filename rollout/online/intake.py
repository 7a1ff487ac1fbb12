"""What comes in for a source: from the feed, or from before it was asked for."""

import asyncio

from rollout.errors import RolloutError
from rollout.online.feed import Arrival, Bookmark, Feed
from rollout.online.growing import LISTEN_S, GrowingRun, ended
from rollout.online.ledger import GroupLedger
from rollout.types import Group


class Intake:
    """Hands out each group that was asked for once, and keeps the place in the run's log."""

    def __init__(
        self, run: GrowingRun, ledger: GroupLedger, bookmark: Bookmark, feed: Feed
    ) -> None:
        self._run, self._ledger, self._bookmark, self._feed = run, ledger, bookmark, feed
        self._coming: asyncio.Task[Arrival] | None = None

    async def next(self) -> Group:
        """Of the groups that run. RolloutError when the run ends before it is whole."""
        while True:
            for name in self._bookmark.early:
                if self._ledger.is_running(name):
                    return self._bookmark.take_early(name)
            arrival = await self._wait()
            name = arrival.group.group_id
            if self._ledger.is_running(name):
                self._bookmark.settle(arrival)
                return arrival.group
            if self._bookmark.is_settled(name):
                self._bookmark.settle(arrival)
            else:
                self._bookmark.hold(arrival)

    async def close(self) -> None:
        if self._coming is not None:
            await ended(self._coming)

    async def _wait(self) -> Arrival:
        """For the feed, or for the run to end although something is still to come."""
        if self._coming is None:  # else of a caller that was cancelled: it must not get lost
            self._coming = asyncio.create_task(self._feed.next())
        coming = self._coming
        await asyncio.wait({coming, self._run.driving}, return_when=asyncio.FIRST_COMPLETED)
        if not coming.done():
            self._feed.wake()  # what was committed last may not be read yet
            await asyncio.wait({coming}, timeout=LISTEN_S)
        if not coming.done():
            self._run.raise_if_over()
            raise RolloutError("the run ended before its groups were whole")
        self._coming = None
        return coming.result()
