"""The two tables as Arrow schemas.

Rules that keep every reader (pyarrow, Polars, DuckDB, Hugging Face, Ray Data) happy with the parts
as they are: no map, dictionary or union type; every part has every column; free-form data is a
JSON string. An additive change raises `SCHEMA_VERSION`; readers fill what old parts lack with null.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

SCHEMA_VERSION = 2

_S, _I64, _I32, _F64, _F32 = pa.string(), pa.int64(), pa.int32(), pa.float64(), pa.float32()
_BOOL = pa.bool_()
_TS = pa.timestamp("us", "UTC")


def _needed(**types: Any) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=False) for name, kind in types.items()]


def _optional(**types: Any) -> list[pa.Field]:
    return [pa.field(name, kind) for name, kind in types.items()]


def _struct(**types: Any) -> pa.DataType:
    return pa.struct(_optional(**types))


_TOOL_CALL = _struct(id=_S, type=_S, function=_struct(name=_S, arguments=_S))
_MESSAGE = _struct(
    role=_S,
    content=_S,
    content_parts=_S,
    reasoning_content=_S,
    tool_calls=pa.list_(_TOOL_CALL),
    tool_call_id=_S,
    name=_S,
)
_STEP = _struct(
    step_id=_I32,
    source=_S,
    message_start=_I32,
    message_end=_I32,
    llm_call_id=_S,
    model_name=_S,
    api=_S,
    started_at=_TS,
    model_ms=_F64,
    env_ms=_F64,
    finish_reason=_S,
    prompt_tokens=_I32,
    completion_tokens=_I32,
    cached_tokens=_I32,
    cost_usd=_F64,
    reward=_F64,
    policy_version=_I64,
    sequence_index=_I32,
    token_start=_I32,
    token_end=_I32,
    error=_S,
    extra=_S,
)
_ARTIFACT = _struct(name=_S, uri=_S, sha256=_S, bytes=_I64)
_ATTEMPT = _struct(
    epoch=_I64, n=_I32, outcome=_S, worker=_S, started_at=_TS, finished_at=_TS, error=_S
)
_SPAN = _struct(start=_I32, end=_I32, kind=_S, step_id=_I32, policy_version=_I64)

_IDENTITY = [
    *_needed(
        run_id=_S,
        trajectory_id=_S,
        group_id=_S,
        group_size=_I32,
        sample_index=_I32,
        epoch=_I64,
        attempt=_I32,
        arm=_S,
        arm_digest=_S,
        task_id=_S,
        task_digest=_S,
    ),
    *_optional(split=_S),
]


def _versioned(fields: list[pa.Field], table: str) -> pa.Schema:
    version = str(SCHEMA_VERSION)
    return pa.schema(fields, {"rollout.table": table, "rollout.schema_version": version})


TRAJECTORIES = _versioned(
    [
        *_IDENTITY,
        *_optional(dataset=_S),
        *_needed(blueprint=_S),
        *_optional(blueprint_digest=_S),
        *_needed(agent_name=_S),
        *_optional(agent_version=_S, model_name=_S, config_hash=_S),
        *_needed(outcome=_S),
        *_optional(stop_reason=_S),
        *_needed(trainable=_BOOL, truncated=_BOOL),
        *_optional(error_type=_S, error_message=_S, reward=_F64),
        *_optional(rewards=pa.list_(_struct(name=_S, score=_F64, weight=_F64, error=_S))),
        *_optional(scorer_output=_S, policy_version_min=_I64, policy_version_max=_I64),
        *_needed(messages=pa.list_(_MESSAGE)),
        *_optional(tools=_S),
        *_needed(steps=pa.list_(_STEP), num_turns=_I32, num_tool_calls=_I32, num_sequences=_I32),
        *_needed(capture_level=_S),
        *_optional(prompt_tokens=_I64, completion_tokens=_I64, cost_usd=_F64),
        *_needed(started_at=_TS, finished_at=_TS),
        *_optional(phases=pa.list_(_struct(name=_S, start=_TS, ms=_F64))),
        *_optional(attempts=pa.list_(_ATTEMPT), limits_enforced=pa.list_(_S)),
        *_optional(events=pa.list_(_struct(at=_TS, kind=_S, detail=_S)), integrity=pa.list_(_S)),
        *_optional(node=_S, sandbox_id=_S, artifacts=pa.list_(_ARTIFACT), extra=_S),
        *_optional(agents=pa.list_(_struct(name=_S, version=_S, source=_S))),
    ],
    "trajectories",
)
"""One row for each accepted rollout."""

SEQUENCES = _versioned(
    [
        *_IDENTITY,
        *_needed(sequence_index=_I32, num_sequences=_I32, role=_S, token_ids=pa.list_(_I32)),
        *_needed(prompt_len=_I32, loss_mask=pa.list_(pa.int8())),
        *_optional(logprobs=pa.list_(_F32)),
        *_needed(spans=pa.list_(_SPAN)),
        *_optional(reward=_F64, token_rewards=pa.list_(_F32)),
        *_optional(policy_version_min=_I64, policy_version_max=_I64, stop_reason=_S),
        *_needed(trainable=_BOOL, truncated=_BOOL, outcome=_S),
        *_optional(temperature=_F32, logprobs_mode=_S, drift_tokens=_I32, model_name=_S),
        *_optional(tokenizer_hash=_S, mm_refs=pa.list_(_ARTIFACT), routed_experts_uri=_S),
        *_optional(extra=_S),
    ],
    "sequences",
)
"""One row for each trainable token sequence."""

TABLES: Mapping[str, pa.Schema] = {"trajectories": TRAJECTORIES, "sequences": SEQUENCES}
