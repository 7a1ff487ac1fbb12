"""Reading a run's dataset by its log: exact at any time, also while the run goes on."""

import difflib
import json
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from rollout.dataset.atif import to_atif
from rollout.dataset.base import Part
from rollout.dataset.grouping import KEYS, Groups
from rollout.dataset.log import replay
from rollout.dataset.long_texts import whole
from rollout.dataset.parts import read_part
from rollout.dataset.rows import from_table
from rollout.dataset.run import read_run
from rollout.dataset.schema import TABLES
from rollout.dataset.sft import to_sft
from rollout.dataset.state import RunState
from rollout.dataset.store import LocalStore, Store, open_store
from rollout.dataset.tail import WHOLE, Kind, Place, Tail, polling
from rollout.errors import StoreError
from rollout.types import Sequence, Trajectory

READ_THREADS = 8
T = TypeVar("T")


def open_dataset(
    uri: str, *, endpoint_url: str | None = None, region: str | None = None
) -> "RolloutDataset":
    """The dataset of the run at `uri`, a folder or `s3://bucket/prefix/run`. Writes nothing.

    StoreError when no run is there. Blocking, as is everything the dataset does.
    """
    store = open_store(uri, endpoint_url=endpoint_url, region=region)
    try:
        _check_exists(store)
        return RolloutDataset(store)
    except BaseException:
        store.close()
        raise


class RolloutDataset:
    """What a run has committed so far. Each question follows the log first; a snapshot does not."""

    def __init__(self, store: Store, frozen: RunState | None = None) -> None:
        self._store = store
        self._frozen = frozen is not None
        self._state = frozen or RunState()
        if not self._frozen:
            replay(store, self._state)

    @property
    def uri(self) -> str:
        """The run's root."""
        return self._store.uri

    @property
    def store(self) -> Store:
        return self._store

    @property
    def state(self) -> RunState:
        """The run as its log says, brought up to date; of a snapshot, as it was."""
        if not self._frozen:
            replay(self._store, self._state)
        return self._state

    @property
    def run(self) -> dict[str, Any]:
        """`run.json`: the first start's config and digests."""
        return read_run(self._store)

    def starts(self) -> list[dict[str, Any]]:
        """Each start of the run, in order: config, code version, who and where."""
        paths = sorted(self._store.list("starts/"), key=lambda path: (len(path), path))
        return [json.loads(self._store.get(path)) for path in paths]

    def ends(self) -> list[dict[str, Any]]:
        """Of starts that nobody watched (`detach`), in order: when, the error or "", notes."""
        paths = sorted(self._store.list("ends/"))
        return [json.loads(self._store.get(path)) for path in paths]

    def snapshot(self, seq: int | None = None) -> "RolloutDataset":
        """The dataset frozen as of log entry `seq`, or as of now.

        It names the parts of that moment; rows retracted later can be read from it until the run
        finishes again, which removes them.
        """
        state = self.state
        if seq is None or seq == state.seq:
            return RolloutDataset(self._store, state.copy())
        if not 0 <= seq <= state.seq:
            raise StoreError(f"{self.uri} has no log entry {seq}; the last one is {state.seq}")
        then = RunState()
        replay(self._store, then, until=seq)
        return RolloutDataset(self._store, then)

    def files(self, table: str = "trajectories") -> list[str]:
        """Full names of exactly the parts the log names, for any reader of Parquet or Arrow."""
        return [f"{self.uri}/{part.path}" for part in _parts(self.state, table)]

    def finished_ids(self) -> frozenset[str]:
        """Ids of the trajectories that are accepted, whatever their outcome."""
        return frozenset(self.state.accepted)

    def scan(
        self, columns: list[str] | None = None, filter: Any = None, table: str = "trajectories"
    ) -> pa.Table:
        """The rows, of all parts in commit order; `filter` is a pyarrow expression.

        A part that a retraction removes meanwhile makes it start again with the newer state.
        """
        while True:
            seq, parts = self.state.seq, _parts(self._state, table)
            try:
                tables = list(self._read(parts, columns, filter))
            except FileNotFoundError as exc:
                if self.state.seq == seq:
                    raise StoreError(
                        f"{self.uri} lacks a part that log entry {seq} names ({exc}): it was "
                        "deleted, or retracted after this snapshot"
                    ) from exc
            else:
                return pa.concat_tables([_empty(table, columns), *tables])

    def trajectory(self, trajectory_id: str) -> Trajectory:
        """One row as a value; StoreError when it is not accepted."""
        rows = self.scan(filter=pc.field("trajectory_id") == trajectory_id)
        if not rows.num_rows:
            raise StoreError(f"{self.uri} holds no trajectory {trajectory_id!r}")
        return from_table(rows)[0]

    def trajectories(self, filter: Any = None) -> Iterator[Trajectory]:
        """The rows as values, a part at a time; `filter` is a pyarrow expression."""
        for part in _parts(self.state, "trajectories"):
            for table in self._read([part], None, filter):
                yield from from_table(table)

    def tail(
        self, cursor: str | None = None, *, follow: bool = False, poll_s: float = 1.0
    ) -> Tail[Trajectory]:
        """Each committed row once, in the log's order, sequences included; after `cursor`.

        The iterator's own `cursor` is a small string for a checkpoint. With `follow` it waits for
        more, asking every `poll_s` seconds, until the run is finished.
        """
        return self._tail(WHOLE, Place.of(cursor), more=polling(poll_s) if follow else None)

    def groups(
        self,
        cursor: str | None = None,
        *,
        complete: bool = True,
        follow: bool = False,
        poll_s: float = 1.0,
        more: Callable[[], bool] | None = None,
        first_hand: Callable[[str], pa.Table | None] = lambda path: None,
    ) -> Groups:
        """Each group once its last planned member is committed, failed members included.

        As `tail`, with a `cursor` of its own. Without `complete`, groups that still lack members
        come at the end. `more`, in place of `follow`: waits until there may be more, and ends the
        iterator with False. `first_hand`: as of `Tail`.
        """
        if follow and more is None:
            more = polling(poll_s)
        place = Place.of(cursor)
        before = self._tail(KEYS, Place(), stop=place)
        tail = self._tail(WHOLE, place, more=more, first_hand=first_hand)
        return Groups(before, tail, self._members, complete=complete)

    def sequences(
        self, cursor: str | None = None, *, follow: bool = False, poll_s: float = 1.0
    ) -> Iterator[tuple[Trajectory, Sequence]]:
        """Each token sequence, with the rollout that it is of; in the order of `tail`."""
        for row in self.tail(cursor, follow=follow, poll_s=poll_s):
            for sequence in row.sequences:
                yield row, sequence

    def to_sft(self, *, min_reward: float = 1.0) -> Iterator[dict[str, Any]]:
        """Conversations to fine-tune on, `{"messages", "tools", …}`, of rollouts that were scored
        at least so high: one for each branch of a rollout. See `sft.py`."""
        for row in self.trajectories(pc.field("reward") >= min_reward):
            yield from to_sft(self.whole(row))

    def to_atif(self) -> Iterator[dict[str, Any]]:
        """Every trajectory as a document of Harbor's format, ATIF v1.7."""
        return map(to_atif, map(self.whole, self.trajectories()))

    def whole(self, row: Trajectory) -> Trajectory:
        """The row with those texts of its messages that were too long for it (`store.inline_kb`):
        in place of their heads and tails, all of them, out of its artifacts."""
        return whole(self._store, row)

    def close(self) -> None:
        """Give the store's connections back."""
        self._store.close()

    def __enter__(self) -> "RolloutDataset":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        s = self._state
        planned = len(s.arms) * len(s.tasks) * s.samples
        return (
            f"<RolloutDataset {self.uri}: {s.rows()} of {planned} rows ({len(s.arms)} arms × "
            f"{len(s.tasks)} tasks × {s.samples} samples) in {len(_parts(s, 'trajectories'))} "
            f"parts at log entry {s.seq}, {'finished' if s.finished else 'not finished'}>"
        )

    def _tail(self, kind: Kind[T], place: Place, **how: Any) -> Tail[T]:
        last = self._state.seq if self._frozen else None
        return Tail(self._store, kind, place, last=last, **how)

    def _members(self, group_ids: Collection[str], stop: Place) -> Tail[Trajectory]:
        wanted = pc.field("group_id").isin(sorted(group_ids))
        return self._tail(WHOLE, Place(), stop=stop, wanted=wanted)

    def _read(
        self, parts: list[Part], columns: list[str] | None, filter: Any
    ) -> Iterator[pa.Table]:
        def read(part: Part) -> pa.Table:
            try:
                return read_part(part, self._source(part.path), columns, filter)
            except FileNotFoundError:
                raise
            except (pa.ArrowInvalid, OSError) as exc:
                raise StoreError(f"{self.uri}/{part.path} cannot be read: {exc}") from exc

        with ThreadPoolExecutor(READ_THREADS) as pool:
            yield from pool.map(read, parts)

    def _source(self, path: str) -> bytes | str:
        """On this machine pyarrow reads only the columns it needs; from S3 the part comes whole."""
        if isinstance(self._store, LocalStore):
            return f"{self.uri}/{path}"
        return self._store.get(path)


def _parts(state: RunState, table: str) -> list[Part]:
    _schema(table)
    return [part for part in state.parts.values() if part.table == table]


def _empty(table: str, columns: list[str] | None) -> pa.Table:
    empty = _schema(table).empty_table()
    return empty if columns is None else empty.select(columns)


def _schema(table: str) -> pa.Schema:
    if table not in TABLES:
        raise StoreError(f"there is no table {table!r}; there are {' and '.join(TABLES)}")
    return TABLES[table]


def _check_exists(store: Store) -> None:
    if store.list("run.json") or store.list("_log/"):
        return
    hint = _neighbours(store) if isinstance(store, LocalStore) else "check store.uri and the name"
    raise StoreError(f"there is no run at {store.uri}: {hint}")


def _neighbours(store: LocalStore) -> str:
    parent = store.root.parent
    if below := _runs_in(store.root):
        return f"it is a folder of {len(below)} runs; name one of them: {', '.join(below[:5])}"
    runs = _runs_in(parent)
    near = difflib.get_close_matches(store.root.name, runs, n=3, cutoff=0.4) or runs[:5]
    if not near:
        return f"{parent} holds no runs"
    return f"did you mean {', '.join(near)}? ({len(runs)} runs in {parent})"


def _runs_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if (path / "run.json").is_file())
