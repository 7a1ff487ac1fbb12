"""Token sequences as rows of the `sequences` table.

The three long columns are made of their bytes as they are: a list of Python numbers for each token
would take a hundred times what the row does.
"""

import json
from array import array
from collections.abc import Sequence as Rows
from itertools import accumulate
from typing import Any

import pyarrow as pa

from rollout.dataset.rows import identity
from rollout.dataset.schema import SEQUENCES
from rollout.types import Sequence, Span, Trajectory

_LONG = ("token_ids", "loss_mask", "logprobs")


def to_sequence_table(rows: Rows[Trajectory]) -> pa.Table:
    """Every sequence of the rows, in the order given."""
    pairs = [(t, index, each) for t in rows for index, each in enumerate(t.sequences)]
    short = pa.schema([item for item in SEQUENCES if item.name not in _LONG])
    table = pa.Table.from_pylist([_row(*pair) for pair in pairs], short)
    held = [each for _, _, each in pairs]
    long = {
        "token_ids": _lists([memoryview(each.token_ids).cast("B") for each in held], pa.int32()),
        "loss_mask": _lists([memoryview(each.loss_mask) for each in held], pa.int8()),
        "logprobs": _lists([memoryview(each.logprobs).cast("B") for each in held], pa.float32()),
    }
    columns = [long[name] if name in long else table.column(name) for name in SEQUENCES.names]
    return pa.Table.from_arrays(columns, schema=SEQUENCES)


def _lists(values: list[memoryview], kind: pa.DataType) -> pa.ListArray:
    """Lists of native numbers out of their bytes."""
    width = kind.bit_width // 8
    counts = [len(each) // width for each in values]
    offsets = array("i", [0, *accumulate(counts)])
    flat = pa.Array.from_buffers(kind, sum(counts), [None, pa.py_buffer(b"".join(values))])
    starts = pa.Array.from_buffers(
        pa.int32(), len(offsets), [None, pa.py_buffer(offsets.tobytes())]
    )
    return pa.ListArray.from_arrays(starts, flat)


def _row(t: Trajectory, index: int, s: Sequence) -> dict[str, Any]:
    versions = [span.policy_version for span in s.spans if span.policy_version is not None]
    return {
        **identity(t),
        "sequence_index": index,
        "num_sequences": len(t.sequences),
        "role": s.role,
        "prompt_len": s.prompt_len,
        "spans": [_span(span) for span in s.spans],
        "reward": t.reward if t.outcome.scored else None,
        "policy_version_min": min(versions, default=None),
        "policy_version_max": max(versions, default=None),
        "stop_reason": s.finish_reason,
        "trainable": t.trainable,
        "truncated": s.finish_reason == "length",
        "outcome": t.outcome.value,
        "temperature": s.temperature,
        "drift_tokens": s.drift_tokens,
        "model_name": s.model_name or None,
        "extra": json.dumps({"dropped": s.dropped}) if s.dropped else None,
    }


def _span(span: Span) -> dict[str, Any]:
    return {
        "start": span.start,
        "end": span.end,
        "kind": span.kind,
        "step_id": span.step,
        "policy_version": span.policy_version,
    }


def from_sequence_table(table: pa.Table) -> dict[str, tuple[Sequence, ...]]:
    """The sequences of each trajectory, in their order: the inverse of `to_sequence_table`."""
    short = [name for name in table.schema.names if name not in _LONG]
    long = {name: table.column(name).combine_chunks() for name in _LONG}
    found: dict[str, list[tuple[int, Sequence]]] = {}
    for number, row in enumerate(table.select(short).to_pylist()):
        tokens = {name: _native(column, number) for name, column in long.items()}
        numbered = (row["sequence_index"], _sequence(row, tokens))
        found.setdefault(row["trajectory_id"], []).append(numbered)
    return {
        name: tuple(each for _, each in sorted(numbered, key=lambda pair: pair[0]))
        for name, numbered in found.items()
    }


def _native(column: pa.ListArray, number: int) -> memoryview:
    """One list's numbers as they lie in memory."""
    values = column[number].values
    if values is None:
        return memoryview(b"")
    width, buffer = values.type.bit_width // 8, values.buffers()[1]
    start = values.offset * width
    return memoryview(buffer)[start : start + len(values) * width] if buffer else memoryview(b"")


def _sequence(row: dict[str, Any], tokens: dict[str, memoryview]) -> Sequence:
    extra = json.loads(row["extra"]) if row["extra"] else {}
    return Sequence(
        role=row["role"],
        token_ids=array("i", tokens["token_ids"].tobytes()),
        loss_mask=tokens["loss_mask"].tobytes(),
        logprobs=array("f", tokens["logprobs"].tobytes()),
        spans=tuple(
            Span(
                start=span["start"],
                end=span["end"],
                kind=span["kind"],
                step=span["step_id"],
                policy_version=span["policy_version"],
            )
            for span in row["spans"]
        ),
        finish_reason=row["stop_reason"] or "",
        temperature=row["temperature"],
        model_name=row["model_name"] or "",
        drift_tokens=row["drift_tokens"] or 0,
        dropped=tuple(
            (at, tuple(ids), tuple(logprobs)) for at, ids, logprobs in extra.get("dropped", ())
        ),
    )
