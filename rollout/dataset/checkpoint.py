"""Checkpoints of the log: the state as of one entry, so that a long run opens at once.

    _checkpoints/<20 digits>.arrow     the state after the log entry of that number

Only a shortcut: every entry stays, and who knows no checkpoints reads those. One is believed when
it is whole by its digest, of this very version, and made after the entry that the log has under
its number; anything else is passed over, and the state comes from the entries.

The object is one line of JSON, `{version, seq, entry, sha256}` with the digests of the entry and
of what follows: an Arrow IPC stream with one row for each trajectory, accepted ones in order, then
those that have only attempts on record. The schema's metadata holds all the rest.
"""

import hashlib
import json
from dataclasses import asdict
from functools import cache
from typing import Any

import pyarrow as pa

from rollout.dataset.attempts import AttemptBook
from rollout.dataset.base import Part
from rollout.dataset.lazily import Lazily
from rollout.dataset.state import RunState, ending, entry_path
from rollout.dataset.store_base import Store
from rollout.types import Outcome

VERSION = 1
FOLDER = "_checkpoints/"
EVERY_ROWS = 50_000
EVERY_ENTRIES = 500
"""Whichever comes first: what is left to read after a checkpoint takes some tenths of a second."""
AT_END_ROWS = 5_000
"""A finished run has one for fewer rows: from then on it is only read."""
KEPT = 2
"""The newest, and the one before it for whoever is about to read that."""
HEAD_BYTES = 1_000

_OF_ROWS = frozenset({"accepted", "attempts", "parts", "part_ids"})
_COLUMNS = {"id": pa.large_string(), "ending": pa.int32(), "attempts": pa.large_string()}
_NOT_BELIEVED = (pa.ArrowException, ValueError, TypeError, LookupError, AttributeError)


def checkpoint_path(seq: int) -> str:
    """Where the state after entry `seq` is."""
    return f"{FOLDER}{seq:020d}.arrow"


def save(store: Store, state: RunState) -> None:
    """Put a checkpoint of the state, which the log must have reached; old ones are removed."""
    data = dump(state, store.get(entry_path(state.seq)))
    store.put_if_absent(checkpoint_path(state.seq), data)
    for path in store.list(FOLDER)[:-KEPT]:
        store.delete(path)


def newest(store: Store, until: int | None = None) -> RunState | None:
    """The state of the newest checkpoint that can be believed, of entry `until` at the latest."""
    last = None if until is None else checkpoint_path(until)
    for path in reversed(store.list(FOLDER)):
        if last is not None and path > last:
            continue
        try:
            return _load(store, path)
        except (FileNotFoundError, *_NOT_BELIEVED):
            continue
    return None


# ---------------------------------------------------------------- writing


def dump(state: RunState, entry: bytes) -> bytes:
    """The checkpoint's bytes; `entry` is what the log has under the state's number."""
    sink = pa.BufferOutputStream()
    table = _table(state)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, table.schema, options=options) as stream:
        stream.write_table(table)
    body = sink.getvalue()
    head = {
        "version": VERSION,
        "seq": state.seq,
        "entry": hashlib.sha256(entry).hexdigest(),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    return json.dumps(head).encode() + b"\n" + bytes(body)


def _table(state: RunState) -> pa.Table:
    packed, accepted = state.attempts.packed, state.accepted.known
    ids = [*accepted, *(name for name in packed if name not in accepted)]
    # By identity, since equal ones are mostly one object, and hashing an enum takes long.
    endings = {id(pair): pair for pair in accepted.values()}
    number_of = {key: number for number, key in enumerate(endings)}
    numbers = [number_of[id(pair)] for pair in accepted.values()]
    numbers += [0] * (len(ids) - len(numbers))
    rest = {
        "accepted": len(accepted),
        "endings": [[outcome.value, reward] for outcome, reward in endings.values()],
        "parts": _parts(state, ids),
        "state": {
            name: getattr(state, name) for name in RunState.__slots__ if name not in _OF_ROWS
        },
    }
    columns = [ids, numbers, list(map(packed.get, ids))]
    arrays = [
        pa.array(column, kind) for column, kind in zip(columns, _COLUMNS.values(), strict=True)
    ]
    schema = pa.schema(_COLUMNS, metadata={"rest": json.dumps(rest, allow_nan=False)})
    return pa.Table.from_arrays(arrays, schema=schema)


def _parts(state: RunState, ids: list[str]) -> list[Any]:
    """Parts in order, with their ids: as first row and count where those stand in one row."""
    place = {name: number for number, name in enumerate(ids)}
    parts: list[Any] = []
    for path, part in state.parts.items():
        held = state.part_ids[path]
        first = place.get(held[0], 0) if held else 0
        in_a_row = tuple(ids[first : first + len(held)]) == held
        parts.append(
            [asdict(part), [first, len(held)] if in_a_row else None, () if in_a_row else held]
        )
    return parts


# ---------------------------------------------------------------- reading


def _load(store: Store, path: str) -> RunState:
    """The state of that checkpoint; one of `_NOT_BELIEVED` when it cannot be believed."""
    data = memoryview(store.get(path))
    head, line, _ = bytes(data[:HEAD_BYTES]).partition(b"\n")
    body = data[len(head) + len(line) :]
    told = json.loads(head)
    entry = hashlib.sha256(store.get(entry_path(told["seq"]))).hexdigest()
    known = [VERSION, checkpoint_path(told["seq"]), entry, hashlib.sha256(body).hexdigest()]
    if [told["version"], path, told["entry"], told["sha256"]] != known:
        raise ValueError(f"{path} is torn, or of another log or version")
    with pa.ipc.open_stream(body) as stream:
        return _state(stream.read_all(), told["seq"])


def _state(table: pa.Table, seq: int) -> RunState:
    """What it has for each trajectory is made of the table when somebody asks for it."""
    rest = json.loads(table.schema.metadata[b"rest"])
    count = rest["accepted"]
    endings = [ending(*pair) for pair in rest["endings"]]
    parts = {part.path: part for part in (Part(**plain) for plain, _, _ in rest["parts"])}

    @cache
    def ids() -> list[str]:
        listed: list[str] = table["id"].to_numpy().tolist()
        return listed

    def accepted() -> dict[str, tuple[Outcome, float | None]]:
        numbers = table["ending"].to_numpy()[:count].tolist()
        return dict(zip(ids(), map(endings.__getitem__, numbers), strict=False))

    def attempts() -> dict[str, str]:
        texts = zip(ids(), table["attempts"].to_numpy().tolist(), strict=True)
        return {name: text for name, text in texts if text is not None}

    def part_ids() -> dict[str, tuple[str, ...]]:
        return {
            plain["path"]: tuple(ids()[row[0] : sum(row)] if row else names)
            for plain, row, names in rest["parts"]
        }

    if set(rest["state"]) | _OF_ROWS != set(RunState.__slots__) or rest["state"]["seq"] != seq:
        raise ValueError("what made it knew another state")
    state = RunState(
        **{**rest["state"], "finished": False},
        accepted=Lazily(accepted, count),
        attempts=AttemptBook(attempts),
        parts=parts,
        part_ids=Lazily(part_ids, len(parts)),
    )
    if count != state.rows() or count > table.num_rows:
        raise ValueError(f"{count} ids are accepted in {state.rows()} rows")
    return state
