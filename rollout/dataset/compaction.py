"""Fewer, larger parts for whoever reads a finished run again and again.

A run that streams its rows leaves a part for every few seconds of each worker. Their rows are put,
in the same order, into parts of a wanted size; one log entry swaps all of them, and cursors stay
good, since a cursor is a place in the log. Only a finished run is compacted: to write its log is to
take it over, and whoever is at work on it would have to stop.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from rollout.dataset.base import Part
from rollout.dataset.log import CommitLog, final_path
from rollout.dataset.parts import make_part, read_part
from rollout.dataset.schema import TABLES
from rollout.dataset.state import RunState
from rollout.dataset.store_base import Store, put_same
from rollout.errors import StoreError


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """What became of a run's parts, of all tables."""

    before: int
    after: int
    bytes: int
    """Of all parts afterwards."""


def compact(
    store: Store,
    *,
    target_bytes: int,
    owner: str,
    on_part: Callable[[Part], None] = lambda part: None,
) -> Compacted:
    """Merge parts that stand in a row while they fit into `target_bytes` as they are stored.

    StoreError for a run that is not finished. Readers go on meanwhile: the old parts go only once
    the log names the new ones, and who holds an older state looks a part that is gone up again.
    """
    log = CommitLog(store, owner)
    state = log.load()
    if not state.finished:
        raise StoreError(
            f"{store.uri} is not finished: start it again, with the same command, to its end; "
            "while a run is at work its parts are left alone"
        )
    before = len(state.parts)
    batches = [batch for table in TABLES for batch in _batches(state, table, target_bytes)]
    if batches:
        summary = json.loads(store.get(final_path(state.final)))["summary"]
        log.announce()
        merged: dict[Part, list[str]] = {}
        for number, batch in enumerate(batches):
            part = _merge(log, batch, number)
            merged[part] = [each.path for each in batch]
            on_part(part)
        log.compact(merged)
        log.finish(summary)
    parts = log.state.parts.values()
    return Compacted(before=before, after=len(parts), bytes=sum(part.bytes for part in parts))


def _batches(state: RunState, table: str, target_bytes: int) -> Iterator[list[Part]]:
    """Two or more parts of one format each, in the order of the log."""
    batch: list[Part] = []
    for part in (part for part in state.parts.values() if part.table == table):
        full = sum(each.bytes for each in batch) + part.bytes > target_bytes
        if batch and (full or _format(part) != _format(batch[0])):
            if len(batch) > 1:
                yield batch
            batch = []
        batch.append(part)
    if len(batch) > 1:
        yield batch


def _merge(log: CommitLog, batch: list[Part], number: int) -> Part:
    rows = pa.concat_tables([read_part(part, log.store.get(part.path)) for part in batch])
    part, data = make_part(
        rows,
        name=batch[0].table,
        writer=f"compact-{log.state.seq + 1}",
        epoch=log.epoch,
        number=number,
        format=_format(batch[0]),
    )
    put_same(log.store, part.path, data)
    return part


def _format(part: Part) -> str:
    return part.path.rpartition(".")[2]
