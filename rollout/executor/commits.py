"""One lane to the run's log: while one entry is being written, the next requests pile up.

The log blocks (a file's fsync, an object store's round trip) and belongs to one thread at a time;
this lane is the only one that touches it between the coordinator's start and its end.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from rollout.dataset.base import CommitReply, CommitRequest
from rollout.dataset.log import CommitLog
from rollout.dataset.patience import patiently
from rollout.errors import RolloutError
from rollout.types import Attempt

Pending = tuple[CommitRequest, asyncio.Future[CommitReply]]


class CommitLane:
    """Group commits. `on_commit` is called in order for each answered request, before its asker
    hears of it, so that the asker's death changes nothing."""

    def __init__(
        self,
        log: CommitLog,
        on_commit: Callable[[CommitRequest, CommitReply], None],
        on_broken: Callable[[RolloutError], None],
    ) -> None:
        self._log = log
        self._on_commit = on_commit
        self._on_broken = on_broken
        self._requests: list[Pending] = []
        self._attempts: dict[str, list[Attempt]] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._broken: RolloutError | None = None

    @property
    def busy(self) -> bool:
        return bool(self._requests) or not self._idle.is_set()

    def note(self, trajectory_id: str, attempt: Attempt) -> None:
        """An ended attempt, to be written with the next entry."""
        self._attempts.setdefault(trajectory_id, []).append(attempt)

    async def commit(self, request: CommitRequest) -> CommitReply:
        """Ask for one part to become visible. Raises Fenced, or StoreError after long patience."""
        if self._broken is not None:
            raise type(self._broken)(str(self._broken))
        answer: asyncio.Future[CommitReply] = asyncio.get_running_loop().create_future()
        self._requests.append((request, answer))
        self._wake.set()
        return await answer

    async def flush(self) -> None:
        """Write what is pending, attempts included; returns when the lane is idle."""
        if self._attempts and self._broken is None:
            self._wake.set()
            self._idle.clear()
        await self._idle.wait()

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._idle.clear()
            await self._write_entry()
            if not self._wake.is_set():
                self._idle.set()

    async def _write_entry(self) -> None:
        requests, self._requests = self._requests, []
        attempts, self._attempts = self._attempts, {}
        if not requests and not attempts:
            return
        try:
            replies = await self._persist([request for request, _ in requests], attempts)
        except RolloutError as exc:
            self._break(exc, requests)
            return
        for (request, answer), reply in zip(requests, replies, strict=True):
            self._on_commit(request, reply)
            if not answer.done():
                answer.set_result(reply)

    async def _persist(
        self, requests: Sequence[CommitRequest], attempts: Mapping[str, Sequence[Attempt]]
    ) -> list[CommitReply]:
        write = partial(asyncio.to_thread, self._log.commit, requests, attempts)
        return await patiently("write the log", write)

    def _break(self, error: RolloutError, requests: Sequence[Pending]) -> None:
        """Nothing can be committed any more by this coordinator."""
        self._broken = error
        self._on_broken(error)
        for _, answer in [*requests, *self._requests]:
            if not answer.done():
                answer.set_exception(type(error)(str(error)))
                answer.exception()  # Its asker may be gone; that is no error of its own.
        self._requests = []
