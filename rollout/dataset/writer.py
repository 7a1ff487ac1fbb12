"""A worker's way into the dataset: rows are buffered, written as parts and committed.

A part goes out when the buffer is full or its oldest row is old enough. It is encoded in memory
while the part before it is put if absent and named to the coordinator; parts go out in order. If
some of its rows were accepted from another part meanwhile, a new part without them is written; the
refused one is never visible.

Nothing is dropped silently: while the store fails, the same part is tried again with growing
pauses; when it fails for too long, the error comes out of `add`, `flush` and `close`, and the rows
that are not committed still count in `buffered_rows`.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import pyarrow as pa

from rollout.dataset.base import CommitReply, CommitRequest, Part
from rollout.dataset.parts import check_format, make_part, writer_key
from rollout.dataset.patience import RETRY_S, patiently
from rollout.dataset.rows import to_batch
from rollout.dataset.sequence_rows import to_sequence_table
from rollout.dataset.store_base import Store, put_same
from rollout.errors import Fenced, StoreError, boundary
from rollout.types import Trajectory

TOKEN_BYTES = 9
"""Of a sequence: an id, a log probability, a place in the mask."""
UNDER_WAY = 2
"""Parts at once: one that is put and committed, and the next, which is encoded meanwhile."""

Made = list[tuple[Part, bytes]]


class DatasetWriter:
    """Buffers, writes and commits the rows of one worker under one epoch.

    `flush_bytes` and `flush_s` bound a part's (unencoded) size and its oldest row's age. `add`
    waits while twice `flush_bytes` are held, so a slow store slows the episodes down instead of
    filling the memory. `retry_s` bounds how long one part is tried.
    """

    def __init__(
        self,
        store: Store,
        *,
        worker: str,
        epoch: int,
        format: str,
        flush_bytes: int,
        flush_s: float,
        commit: Callable[[CommitRequest], Awaitable[CommitReply]],
        retry_s: float = RETRY_S,
        offer: Callable[[Part, pa.Table], None] | None = None,
    ) -> None:
        """`offer` is shown each part's rows before the part is put, for whoever waits for them."""
        self._store = store
        self._worker = worker
        self._epoch = epoch
        self._format = check_format(format)
        self._flush_bytes = flush_bytes
        self._flush_s = flush_s
        self._commit = commit
        self._retry_s = retry_s
        self._offer = offer
        self._rows: list[Trajectory] = []
        self._row_bytes = 0
        """Of `_rows`."""
        self._held_bytes = 0
        """Of `_rows` and of what is on its way."""
        self._waiting: list[int] = []
        """Sizes of rows for which there is no room yet."""
        self._oldest_s = math.inf
        """When the first of `_rows` came, on the monotonic clock."""
        self._added = 0
        self._committed = 0
        self._parts_made = 0
        self._under_way = asyncio.Semaphore(UNDER_WAY)
        self._encoding, self._sending = asyncio.Lock(), asyncio.Lock()
        self._hurry = False
        """Somebody waits for a flush: write what there is."""
        self._closing = False
        self._failure: StoreError | None = None
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    @property
    def buffered_rows(self) -> int:
        """Rows added and not committed yet."""
        return self._added - self._committed

    @property
    def buffered_bytes(self) -> int:
        """About what these rows take."""
        return self._held_bytes

    async def add(self, trajectory: Trajectory) -> None:
        """Take the row; waits while too much is held. StoreError when earlier rows are stuck."""
        _check_finite(trajectory)
        size = row_bytes(trajectory)
        async with self._changed:
            self._waiting.append(size)
            self._changed.notify_all()
            try:
                await self._changed.wait_for(lambda: self._failure or self._has_room(size))
            finally:
                self._waiting.remove(size)
            self._raise_failure()
            if self._closing:
                raise StoreError(f"the writer of {self._worker} is closed and takes no more rows")
            if not self._rows:
                self._oldest_s = time.monotonic()
            self._rows.append(trajectory)
            self._added += 1
            self._row_bytes += size
            self._held_bytes += size
            self._task = self._task or asyncio.create_task(self._work(), name="dataset-writer")
            self._changed.notify_all()

    async def flush(self) -> None:
        """Returns when everything added before is committed; StoreError when it cannot be."""
        async with self._changed:
            wanted = self._added
            self._hurry = bool(self._rows)
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._failure or self._committed >= wanted)
            self._raise_failure()

    async def close(self) -> None:
        """Flush and end. Idempotent."""
        self._closing = True
        try:
            await self.flush()
        finally:
            async with self._changed:
                self._changed.notify_all()
            if self._task and (self._failure or not self.buffered_rows):
                await asyncio.shield(self._task)

    # ------------------------------------------------------------ the background task

    async def _work(self) -> None:
        """Parts go out in order; the next one is encoded while one is on its way."""
        async with asyncio.TaskGroup() as group:
            while await self._something_due():
                group.create_task(self._send(*self._take()))

    async def _something_due(self) -> bool:
        """Wait for rows that are to go out now; False when there will be none."""
        await self._under_way.acquire()
        async with self._changed:
            while not self._due():
                if self._failure or (self._closing and not self._rows):
                    return False
                await self._wait_for_change()
            return not self._failure

    def _take(self) -> tuple[list[Trajectory], int]:
        """The oldest rows, as many as make one part, and their size."""
        size = count = 0
        while count < len(self._rows) and size < self._flush_bytes:
            size += row_bytes(self._rows[count])
            count += 1
        batch, self._rows = self._rows[:count], self._rows[count:]
        self._row_bytes -= size
        if not self._rows:
            self._oldest_s, self._hurry = math.inf, False
        return batch, size

    def _due(self) -> bool:
        if not self._rows:
            return False
        full = self._row_bytes >= self._flush_bytes
        # One more row would be too many: then this is a part, though a bit short of its size.
        full = full or (self._crowded and 2 * self._row_bytes >= self._flush_bytes)
        old = time.monotonic() >= self._oldest_s + self._flush_s
        return full or old or self._hurry or self._closing

    async def _wait_for_change(self) -> None:
        left_s = self._oldest_s + self._flush_s - time.monotonic()
        try:
            async with asyncio.timeout(None if math.isinf(left_s) else max(0.0, left_s)):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _send(self, batch: Sequence[Trajectory], size: int) -> None:
        """Publish the rows; what goes wrong comes out of `add`, `flush` and `close`."""
        try:
            async with boundary(StoreError, f"dataset writer of {self._worker}"):
                await self._publish(batch)
        except StoreError as exc:
            self._failure = self._failure or exc
        else:
            self._held_bytes -= size
            self._committed += len(batch)
        self._under_way.release()
        async with self._changed:
            self._changed.notify_all()

    # ------------------------------------------------------------ one part

    async def _publish(self, batch: Sequence[Trajectory]) -> None:
        """Put and commit the rows, without those that the log holds already."""
        # The first of two rows of one rollout counts, as it does between workers.
        rows = list({row.spec.trajectory_id: row for row in reversed(batch)}.values())[::-1]
        async with self._encoding:
            made = await self._encoded(rows)
        async with self._sending:
            self._raise_failure()
            while fewer := await self._committed_without(rows, made):
                rows, made = fewer, await self._encoded(fewer)

    async def _committed_without(self, rows: list[Trajectory], made: Made) -> list[Trajectory]:
        """Put the parts and have them committed; rows to try again without the others."""
        for part, data in made:
            put = partial(asyncio.to_thread, put_same, self._store, part.path, data)
            await patiently(f"write {part.path}", put, self._retry_s)
        parts = tuple(part for part, _ in made)
        request = self._request(parts, rows)
        reply = await patiently("commit", partial(self._asked, request), self._retry_s)
        if reply.accepted:
            return []
        if not reply.duplicates:
            raise Fenced(f"the log refuses parts of epoch {self._epoch} from {self._worker}")
        fewer = [row for row in rows if row.spec.trajectory_id not in reply.duplicates]
        if len(fewer) == len(rows):
            raise StoreError(f"{parts[0].path} was refused for rows it does not hold")
        return fewer

    async def _encoded(self, rows: list[Trajectory]) -> Made:
        """The rows' part, and one of their sequences where there are any, with their bytes."""
        number, self._parts_made = self._parts_made, self._parts_made + 1
        return await asyncio.to_thread(self._encode, rows, number)

    def _encode(self, rows: list[Trajectory], number: int) -> Made:
        tables = {"trajectories": to_batch(rows)}
        if any(row.sequences for row in rows):
            tables["sequences"] = to_sequence_table(rows)
        make = partial(
            make_part,
            writer=writer_key(self._worker),
            epoch=self._epoch,
            number=number,
            format=self._format,
        )
        made = [make(table, name=name) for name, table in tables.items()]
        if self._offer is not None:
            for (part, _), table in zip(made, tables.values(), strict=True):
                self._offer(part, table)
        return made

    def _request(self, parts: tuple[Part, ...], rows: list[Trajectory]) -> CommitRequest:
        return CommitRequest(
            worker=self._worker,
            epoch=self._epoch,
            parts=parts,
            trajectory_ids=tuple(row.spec.trajectory_id for row in rows),
            outcomes=tuple(row.outcome for row in rows),
            rewards=tuple(row.reward if row.outcome.scored else None for row in rows),
            attempts=tuple(row.attempts for row in rows),
        )

    async def _asked(self, request: CommitRequest) -> CommitReply:
        async with boundary(StoreError, f"commit of {request.parts[0].path}"):
            return await self._commit(request)

    # ------------------------------------------------------------ small things

    @property
    def _crowded(self) -> bool:
        return bool(self._waiting) and not self._has_room(min(self._waiting))

    def _has_room(self, size: int) -> bool:
        return not self._held_bytes or self._held_bytes + size <= 2 * self._flush_bytes

    def _raise_failure(self) -> None:
        if self._failure:
            raise type(self._failure)(str(self._failure)) from self._failure


def row_bytes(t: Trajectory) -> int:
    """About what the row takes in memory: its long texts, and a little for each part of it."""
    texts = len(t.scorer_output) + len(t.error_message) + len(t.tools or "")
    for message in t.messages:
        texts += 64 + len(message.content)
        texts += len(message.content_parts or "") + len(message.reasoning_content or "")
        texts += sum(64 + len(call.arguments) for call in message.tool_calls)
    tokens = sum(TOKEN_BYTES * len(sequence.loss_mask) for sequence in t.sequences)
    return 1024 + texts + tokens + 128 * (len(t.steps) + len(t.events) + len(t.attempts))


def _check_finite(t: Trajectory) -> None:
    """A reward that is no number would spoil every mean; so this one row is refused."""
    values = [t.reward, *(score.value for score in t.scores)]
    if not all(value is None or math.isfinite(value) for value in values):
        raise StoreError(
            f"trajectory {t.spec.trajectory_id} has reward {t.reward} and scores "
            f"{[score.value for score in t.scores]}: they must be finite"
        )
