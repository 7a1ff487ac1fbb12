"""The rollouts that a run scores again, read out of the run they were made in."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from rollout.dataset.reader import RolloutDataset, open_dataset
from rollout.executor.base import Source
from rollout.executor.kept import fetched, kept_state
from rollout.recorded import Recorded


class SourceRecordings:
    """One source for all episodes of a worker; `close` gives its connections back."""

    def __init__(self, source: Source) -> None:
        """StoreError where the run is gone. Blocks, as does `close`."""
        self._ids: Mapping[str, str] = dict(source.ids)
        self._dataset: RolloutDataset = open_dataset(
            source.uri, endpoint_url=source.endpoint_url, region=source.region
        )

    def close(self) -> None:
        self._dataset.close()

    @asynccontextmanager
    async def of(self, trajectory_id: str) -> AsyncIterator[Recorded]:
        # Without a name, so that it is gone with this process however that ends.
        with tempfile.TemporaryFile() as file:
            yield await asyncio.to_thread(self._fetch, self._ids[trajectory_id], file.fileno())

    def _fetch(self, source_id: str, room: int) -> Recorded:
        row = self._dataset.whole(self._dataset.trajectory(source_id))
        kept = kept_state(row, self._dataset.uri)
        state = fetched(self._dataset, kept, room)
        return Recorded(row=row, state=state, source=self._dataset.uri)
