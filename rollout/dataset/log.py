"""The commit log: the one order in which things become part of a run, and the fence.

The next entry is put if absent. When something is there already, it is read: our own nonce means
that our put had landed and its reply was lost; another writer of our epoch or a later one means
that we are fenced and must stop; an entry of an older epoch is applied, what is pending is judged
again and the next number tried. So two coordinators can never both accept a trajectory.

A part commits whole or not at all. Parts that no commit names are invisible to whoever follows
the log, and `finish` removes them, after which a bare glob is exact too. It stays exact until the
next entry; the last `_final/<n>.json` says for which entry it holds.
"""

import json
import threading
import uuid
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rollout.dataset.base import CommitReply, CommitRequest, Part
from rollout.dataset.checkpoint import AT_END_ROWS, EVERY_ENTRIES, EVERY_ROWS, newest, save
from rollout.dataset.judge import judge, new_attempts, new_in_plan
from rollout.dataset.parts import is_part, make_part, read_part, without
from rollout.dataset.state import (
    Entry,
    RunState,
    dump_commit,
    dump_entry,
    entry_path,
    entry_seq,
    parse_entry,
)
from rollout.dataset.store_base import Store, put_same
from rollout.errors import Fenced, StoreError
from rollout.types import Attempt

READ_THREADS = 16


def replay(store: Store, state: RunState, until: int | None = None) -> None:
    """Apply the entries after `state.seq`, up to number `until` if given. Writes nothing.

    A state that knows nothing yet begins with the newest checkpoint, if there is one.
    """
    if not state.seq and (found := newest(store, until)):
        state.become(found)
    for entry in entries(store, state.seq, until):
        state.apply(entry)
    if state.final and not state.finished:
        state.finished = bool(store.list(final_path(state.final)))


def entries(store: Store, after: int, until: int | None = None) -> Iterator[Entry]:
    """The log's entries after number `after`, in order, up to number `until` if given.

    They are read ahead, though not so far that the memory fills while they are applied.
    """
    listed = store.list("_log/", after=entry_path(after))
    last = max(map(entry_seq, listed), default=after)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        ahead: deque[Future[Entry]] = deque()
        for seq in range(after + 1, (last if until is None else min(last, until)) + 1):
            ahead.append(pool.submit(_read, store, seq))
            if len(ahead) == READ_THREADS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def final_path(number: int) -> str:
    """Where the marker of the `number`-th finish is."""
    return f"_final/{number}.json"


def _read(store: Store, seq: int) -> Entry:
    try:
        return parse_entry(seq, store.get(entry_path(seq)))
    except FileNotFoundError as exc:
        raise StoreError(
            f"{store.uri} has no {entry_path(seq)}, though later entries exist: the log is "
            "damaged; restore that object"
        ) from exc


class CommitLog:
    """One coordinator's hand on the log. Blocking; safe to use from threads.

    `load` only reads. Everything that writes needs `announce` first and raises Fenced, then and
    ever after, once a newer epoch owns the run.
    """

    def __init__(self, store: Store, owner: str) -> None:
        self.store = store
        self.owner = owner
        self.state = RunState()
        self.epoch = 0
        """The epoch announced here; 0 before."""
        self._identity = uuid.uuid4().hex
        self._fenced = ""
        self._saved = (0, 0)
        """Entries and rows of the last checkpoint that this hand has begun to write."""
        self._saving: threading.Thread | None = None
        self._lock = threading.RLock()

    def load(self) -> RunState:
        """Follow the log to its end."""
        with self._lock:
            replay(self.store, self.state)
            return self.state

    def announce(self) -> int:
        """Take the run over under a new epoch. Raises Fenced when another was faster."""
        with self._lock:
            self.load()
            self.epoch = self.state.epoch + 1
            try:
                while self.state.epoch != self.epoch:
                    self._append("epoch", {})
            except BaseException:
                self.epoch = 0
                raise
            return self.epoch

    def plan(
        self, arms: Mapping[str, dict[str, Any]], tasks: Mapping[str, str], samples: int
    ) -> None:
        """Log what is to be done from here on; nothing is written when nothing is new.

        Every arm needs a `digest`. A known arm or task with another digest is a StoreError: its
        rows would not be comparable with those the run already holds.
        """
        with self._lock:
            self._check_mine()
            while body := new_in_plan(self.state, arms, tasks, samples):
                if self._append("plan", body):
                    return

    def commit(
        self, requests: Sequence[CommitRequest], attempts: Mapping[str, Sequence[Attempt]]
    ) -> list[CommitReply]:
        """Judge the requests in order and log what is accepted as one entry.

        A request with any id accepted before is refused whole and names those ids; one that was
        accepted before, with the same parts, is accepted again without an entry. Parts of an older
        epoch are refused without naming ids. `attempts` are ended ones to be put on record.
        """
        with self._lock:
            while True:
                self._check_mine(requests)
                replies, fresh = judge(self.state, self.epoch, requests)
                ended = new_attempts(self.state, requests, attempts)
                body = {"commits": [dump_commit(request) for request in fresh], "attempts": ended}
                if not fresh and not ended:
                    return replies
                if self._append("commit" if fresh else "attempts", body):
                    self._save_if_due(EVERY_ROWS)
                    return replies

    def retract(self, trajectory_ids: Collection[str]) -> None:
        """Take accepted rows back, so that their rollouts run again; attempts stay on record.

        Each part that holds one is written anew without it, rows in the same order, and one entry
        swaps all of them. Ids that are not accepted are passed over.
        """
        with self._lock:
            self._check_mine()
            ids = frozenset(trajectory_ids)
            while gone := ids & self.state.accepted.keys():
                touched = {
                    path: number
                    for number, (path, held) in enumerate(self.state.part_ids.items())
                    if not gone.isdisjoint(held)
                }
                adds = list(filter(None, (self._rewrite(*item, gone) for item in touched.items())))
                body = {"ids": sorted(gone), "removes": list(touched), "adds": adds}
                if self._append("retract", body):
                    return

    def compact(self, merged: Mapping[Part, Sequence[str]]) -> None:
        """Put parts in the place of several each, which stand in a row and hold the same rows.

        `merged`: a part that is put already, to the paths of those that it is made of.
        """
        with self._lock:
            self._check_mine()
            adds = [{"part": asdict(part), "of": list(of)} for part, of in merged.items()]
            removes = [path for of in merged.values() for path in of]
            if not self._append("compact", {"removes": removes, "adds": adds}):
                raise StoreError(f"{self.store.uri} was written to meanwhile; try it again")

    def finish(self, summary: dict[str, Any]) -> None:
        """Remove what no commit names and write `_final/<n>.json` with `summary`.

        The workers must have ended: a part written later would be seen by a bare glob, though
        never by a reader that follows the log.
        """
        with self._lock:
            self._check_mine()
            while not self._append("finish", {"n": self.state.finals + 1}):
                pass
            for path in self._unnamed():
                self.store.delete(path)
            self._mark_final(summary)
            self.state.finished = True
            self.settle()
            self._save_if_due(AT_END_ROWS)
            self.settle()

    def settle(self) -> None:
        """Until the checkpoint that is on its way, if there is one, is written."""
        if self._saving is not None:
            self._saving.join()

    def close(self) -> None:
        """Give the store back, once nothing is written to it any more."""
        self.settle()
        self.store.close()

    # ------------------------------------------------------------ the fence

    def _append(self, kind: str, body: Mapping[str, Any]) -> bool:
        """Write the next entry. False: another entry took the number and is applied now."""
        self._check_mine()
        entry = Entry(
            seq=self.state.seq + 1,
            epoch=self.epoch,
            nonce=f"{self._identity}-{uuid.uuid4().hex}",
            owner=self.owner,
            at=datetime.now(UTC).isoformat(),
            kind=kind,
            body=body,
        )
        if not self.store.put_if_absent(entry_path(entry.seq), _dump(entry)):
            winner = _read(self.store, entry.seq)
            self._check_winner(winner)
            self.state.apply(winner)
            return winner.nonce == entry.nonce
        self.state.apply(entry)
        return True

    def _check_winner(self, winner: Entry) -> None:
        ours = winner.nonce.startswith(self._identity)
        if winner.epoch >= self.epoch and not ours:
            self._fenced = (
                f"{self.owner} (epoch {self.epoch}) is fenced: {winner.owner} took the run at "
                f"{self.store.uri} over with epoch {winner.epoch} at {winner.at}"
            )
            raise Fenced(self._fenced)

    def _check_mine(self, requests: Sequence[CommitRequest] = ()) -> None:
        if self._fenced:
            raise Fenced(self._fenced)
        if not self.epoch:
            raise StoreError(f"{self.owner} has not announced an epoch and may not write yet")
        newest = max([self.state.epoch, *(request.epoch for request in requests)])
        if newest > self.epoch:
            self._fenced = f"{self.owner} (epoch {self.epoch}) is fenced: epoch {newest} exists"
            raise Fenced(self._fenced)

    # ------------------------------------------------------------ checkpoints

    def _save_if_due(self, every_rows: int) -> None:
        """A checkpoint, once enough has come since the last, written beside what goes on."""
        seq, rows = self.state.seq, len(self.state.accepted)
        due = seq - self._saved[0] >= EVERY_ENTRIES or rows - self._saved[1] >= every_rows
        if due and not (self._saving and self._saving.is_alive()):
            self._saved = (seq, rows)
            self._saving = threading.Thread(target=self._save, args=(self.state.copy(),))
            self._saving.start()

    def _save(self, state: RunState) -> None:
        """Whatever it meets, the log stands."""
        with suppress(StoreError):
            save(self.store, state)

    # ------------------------------------------------------------ rewriting and the end

    def _rewrite(self, path: str, number: int, gone: Collection[str]) -> dict[str, Any] | None:
        """The part without those rows, put under a writer of its own; None when no row is left.

        `number`: its place among the parts, which tells those of one retraction apart.
        """
        old = self.state.parts[path]
        kept = without(read_part(old, self.store.get(path)), gone)
        if not kept.num_rows:
            return None
        part, data = make_part(
            kept,
            name=old.table,
            writer=f"compact-{self.state.seq + 1}",
            epoch=self.epoch,
            number=number,
            format=path.rpartition(".")[2],
        )
        put_same(self.store, part.path, data)
        ids = [held for held in self.state.part_ids[path] if held not in gone]
        return {"part": asdict(part), "ids": ids}

    def _unnamed(self) -> list[str]:
        """Parts that no commit names, and what a killed local writer left."""
        listed = [*self.store.list("trajectories/"), *self.store.list("sequences/")]
        orphans = [path for path in listed if is_part(path) and path not in self.state.parts]
        return orphans + self.store.list("_tmp/")

    def _mark_final(self, summary: dict[str, Any]) -> None:
        marker = {
            "version": 1,
            "seq": self.state.seq,
            "epoch": self.epoch,
            "at": datetime.now(UTC).isoformat(),
            "rows": self.state.rows(),
            "parts": len(self.state.parts),
            "summary": summary,
        }
        path = final_path(self.state.final)
        # False can only be our own put whose reply was lost: the number is ours by the log.
        self.store.put_if_absent(path, json.dumps(marker, indent=1, default=str).encode())


def _dump(entry: Entry) -> bytes:
    try:
        return dump_entry(entry)
    except (TypeError, ValueError) as exc:
        raise StoreError(f"a log entry of kind {entry.kind} cannot be written: {exc}") from exc
