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
