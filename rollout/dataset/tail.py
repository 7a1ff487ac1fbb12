"""Rows in the order in which they became part of the run, each once, while the run goes on.

    rows = dataset.tail(follow=True)
    for trajectory in rows:
        ...
        checkpoint["cursor"] = rows.cursor      # and later: dataset.tail(checkpoint["cursor"])

A cursor is a place in the log: a commit, and how many of its rows were given. So it holds whatever
is done to the parts afterwards, for a commit's ids and their order stay in the log. A row that was
taken back (`retry`) is passed over where it stood, and given where it is committed again.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from rollout.dataset.base import Part
from rollout.dataset.log import entries
from rollout.dataset.parts import read_part
from rollout.dataset.rows import from_table
from rollout.dataset.schema import TABLES
from rollout.dataset.sequence_rows import from_sequence_table
from rollout.dataset.state import Entry
from rollout.dataset.store_base import Store
from rollout.errors import StoreError
from rollout.types import Trajectory

T = TypeVar("T")

REWRITES = frozenset({"retract", "compact"})
"""Kinds of entries that put other parts in the place of some: `removes`, `adds`."""

_CURSOR = re.compile(r"1:(\d{1,18}):(\d{1,18})")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """After `rows` rows of log entry `seq`, and after all that came before it."""

    seq: int = 0
    rows: int = 0

    def __str__(self) -> str:
        return f"1:{self.seq}:{self.rows}"

    @classmethod
    def of(cls, cursor: str | None) -> "Place":
        """The place that a cursor names; None is the beginning."""
        if cursor is None:
            return cls()
        found = _CURSOR.fullmatch(cursor)
        if found is None:
            raise StoreError(
                f"{cursor[:100]!r} is no cursor of a dataset: use the `cursor` of an iterator that "
                "`tail` or `groups` gave, or None for the beginning"
            )
        return cls(int(found[1]), int(found[2]))


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """What is made of the rows of a commit."""

    columns: Mapping[str, list[str] | None]
    """Tables to read; None: all their columns. `trajectories` with its id is one of them."""
    make: Callable[[Mapping[str, pa.Table]], Iterable[tuple[str, T]]]
    """Of the tables, a value for each trajectory's id."""


def polling(every_s: float) -> Callable[[], bool]:
    """For `Tail.more`: there may be more every so often."""

    def more() -> bool:
        time.sleep(every_s)
        return True

    return more


class Tail(Generic[T]):
    """Iterates over what is committed; `cursor` is the place after the last one given."""

    def __init__(
        self,
        store: Store,
        kind: Kind[T],
        place: Place,
        *,
        stop: Place | None = None,
        last: int | None = None,
        wanted: pc.Expression | None = None,
        more: Callable[[], bool] | None = None,
        first_hand: Callable[[str], pa.Table | None] = lambda path: None,
    ) -> None:
        """
        place: where it begins.
        stop: where it ends; None is the end of the log.
        last: the last log entry that counts for anything, in a snapshot.
        wanted: other rows are passed over.
        more: waits, at the end, until there may be more, as long as the run is not finished; False
            of it, as None in its place, is the end.
        first_hand: all rows of a part, by its path, from whoever wrote it, which saves reading it
            from the store; None where nobody has them any more.
        """
        self._store, self._kind, self.place = store, kind, place
        self._stop, self._last, self._wanted = stop, last, wanted
        self._more, self._first_hand = more, first_hand
        self._read_last: dict[str, tuple[str, pa.Table]] = {}
        """Table to the part that was read last, and its rows."""
        self._check_is_there()
        self._rows = self._all()

    @property
    def cursor(self) -> str:
        return str(self.place)

    def __iter__(self) -> "Tail[T]":
        return self

    def __next__(self) -> T:
        row, self.place = next(self._rows)
        return row

    def _check_is_there(self) -> None:
        """A cursor of another run would be taken for one that was never there yet."""
        seq = self.place.seq
        if seq and not list(entries(self._store, seq - 1, seq)):
            raise StoreError(
                f"cursor {self.cursor!r}: {self._store.uri} has no log entry {seq}; is it a "
                "cursor of another run?"
            )

    def _all(self) -> Iterator[tuple[T, Place]]:
        while True:
            # The entry in whose middle it stands is read again.
            known = list(entries(self._store, max(0, self.place.seq - 1), self._last))
            yield from self._given(known)
            if known and known[-1].kind != "commit":
                self.place = max(self.place, Place(known[-1].seq))
            if self._more is None or (known and known[-1].kind == "finish") or not self._more():
                return

    def _given(self, known: list[Entry]) -> Iterator[tuple[T, Place]]:
        """The rows of these commits; `known` grows when parts are rewritten meanwhile."""
        for entry in known:
            if self._stop is not None and entry.seq > self._stop.seq:
                return
            if entry.kind == "commit":
                given = self.place.rows if entry.seq == self.place.seq else 0
                for offset, row in self._standing(entry, known):
                    after = Place(entry.seq, offset + 1)
                    if self._stop is not None and after > self._stop:
                        return
                    if offset >= given:
                        yield row, after

    def _standing(self, entry: Entry, known: list[Entry]) -> list[tuple[int, T]]:
        while True:
            try:
                return list(self._rows_of(entry, Moves(known, entry.seq)))
            except FileNotFoundError as exc:
                newer = list(entries(self._store, known[-1].seq, self._last))
                if not newer:
                    raise StoreError(
                        f"{self._store.uri} lacks a part of log entry {entry.seq} ({exc}): it was "
                        "deleted, or this snapshot is older than its removal"
                    ) from exc
                known += newer

    def _rows_of(self, entry: Entry, moves: "Moves") -> Iterator[tuple[int, T]]:
        """Each row that still stands where this commit put it, and its number in the commit."""
        offset = 0
        for commit in entry.body["commits"]:
            order = {name: number for number, name in enumerate(commit["ids"], offset)}
            offset += len(order)
            ids = order.keys() - moves.taken_back
            held = {part["table"]: moves.now(Part(**part), ids) for part in commit["parts"]}
            read = {table: self._read(table, held.get(table), ids) for table in self._kind.columns}
            made = ((order[name], row) for name, row in self._kind.make(read))
            yield from sorted(made, key=lambda numbered: numbered[0])

    def _read(self, table: str, part: Part | None, ids: Set[str]) -> pa.Table:
        columns = self._kind.columns[table]
        if part is None:
            empty = TABLES[table].empty_table()
            return empty if columns is None else empty.select(columns)
        # Many commits may stand in one merged part, one after the other.
        path, rows = self._read_last.get(table, ("", None))
        if path != part.path:
            rows = self._first_hand(part.path)
            if rows is None or rows.num_rows != part.rows:
                rows = read_part(part, self._store.get(part.path), columns, self._wanted)
            else:
                rows = rows if self._wanted is None else rows.filter(self._wanted)
                rows = rows if columns is None else rows.select(columns)
            self._read_last[table] = (part.path, rows)
        return rows.filter(pc.field("trajectory_id").isin(sorted(ids)))


def _whole(tables: Mapping[str, pa.Table]) -> Iterator[tuple[str, Trajectory]]:
    sequences = from_sequence_table(tables["sequences"])
    for row in from_table(tables["trajectories"]):
        name = row.spec.trajectory_id
        yield name, replace(row, sequences=sequences.get(name, ()))


WHOLE = Kind({"trajectories": None, "sequences": None}, _whole)
"""Trajectories with their sequences."""


class Moves:
    """What was done to the rows of a commit, and to its parts, by the entries after it."""

    def __init__(self, known: Sequence[Entry], seq: int) -> None:
        self._rewrites = [e.body for e in known if e.seq > seq and e.kind in REWRITES]
        self.taken_back = {name for body in self._rewrites for name in body.get("ids", ())}

    def now(self, part: Part, ids: Set[str]) -> Part | None:
        """What holds these ids' rows of `part` by now; None where none of them is left."""
        held: Part | None = part if ids else None
        for body in self._rewrites:
            if held is not None and held.path in body["removes"]:
                held = _successor(body, held, ids)
        return held


def _successor(body: Mapping[str, Any], part: Part, ids: Set[str]) -> Part | None:
    """Of a retraction the part of the same table that has these ids, of a compaction the one that
    is made of it."""
    for added in body["adds"]:
        same = added["part"]["table"] == part.table
        if part.path in added.get("of", ()) or (same and not ids.isdisjoint(added.get("ids", ()))):
            return Part(**added["part"])
    return None
