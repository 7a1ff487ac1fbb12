"""Rows survive the way to Arrow, into a part and back, whatever their text is."""

import io
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollout.dataset.parts import encode, is_part, make_part, read_part, writer_key
from rollout.dataset.rows import from_table, to_batch
from rollout.dataset.schema import SCHEMA_VERSION, SEQUENCES, TABLES, TRAJECTORIES
from rollout.types import (
    AgentStep,
    Artifact,
    Attempt,
    Event,
    Message,
    Outcome,
    Phase,
    RolloutSpec,
    Score,
    StopReason,
    ToolCall,
    Trajectory,
)
from tests.dataset.examples import a_row

texts = st.text(max_size=20)
words = st.text(min_size=1, max_size=8)
small = st.integers(0, 2**31 - 1)
large = st.integers(0, 2**63 - 1)
numbers = st.floats(allow_nan=False, allow_infinity=False)
times = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))


def tuples(values: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(values, max_size=2).map(tuple)


def optional(values: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(st.none(), values)


tool_calls = st.builds(ToolCall, id=texts, name=texts, arguments=texts)
messages = st.builds(
    Message,
    role=words,
    content=texts,
    content_parts=optional(texts),
    reasoning_content=optional(texts),
    tool_calls=tuples(tool_calls),
    tool_call_id=optional(texts),
    name=optional(texts),
)
steps = st.builds(
    AgentStep,
    source=words,
    message_start=small,
    message_end=small,
    started_at=optional(times),
    model_ms=optional(numbers),
    env_ms=optional(numbers),
    finish_reason=optional(texts),
    error=optional(texts),
)
attempts = st.builds(
    Attempt,
    epoch=large,
    n=small,
    outcome=st.sampled_from(Outcome),
    worker=texts,
    started_at=times,
    finished_at=times,
    error=texts,
)
plain_json = st.recursive(
    st.none() | st.booleans() | small | numbers | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    outcome = draw(st.sampled_from(Outcome))
    fixed = {"outcome": outcome, "reward": draw(optional(numbers)) if outcome.scored else None}
    strategies = {
        "run_id": texts,
        "spec": st.builds(
            RolloutSpec,
            trajectory_id=words,
            group_id=words,
            arm=words,
            task_id=words,
            sample=small,
            group_size=small,
        ),
        "epoch": large,
        "attempt": small,
        "stop_reason": optional(st.sampled_from(StopReason)),
        "scores": tuples(
            st.builds(Score, name=texts, value=optional(numbers), weight=numbers, error=texts)
        ),
        "messages": tuples(messages),
        "tools": optional(texts),
        "steps": tuples(steps),
        "events": tuples(st.builds(Event, at=times, kind=texts, detail=texts)),
        "integrity": tuples(texts),
        "phases": tuples(st.builds(Phase, name=texts, start=times, ms=numbers)),
        "attempts": tuples(attempts),
        "artifacts": tuples(st.builds(Artifact, name=texts, uri=texts, sha256=texts, bytes=large)),
        "limits_enforced": tuples(texts),
        "agents": tuples(st.tuples(texts, texts, texts)),
        "started_at": times,
        "finished_at": times,
        "extra": st.dictionaries(texts, plain_json, max_size=2),
    }
    named = (
        "error_type error_message scorer_output blueprint blueprint_digest task_digest dataset "
        "split agent_name agent_version model_name arm_digest node sandbox_id"
    )
    strategies |= dict.fromkeys(named.split(), texts)
    return Trajectory(**fixed, **draw(st.fixed_dictionaries(strategies)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.lists(trajectories(), max_size=3), format=st.sampled_from(["parquet", "arrow"]))
def test_rows_survive_the_way_into_a_part_and_back(rows: list[Trajectory], format: str) -> None:
    part, data = make_part(
        to_batch(rows), name="trajectories", writer="w0001", epoch=1, number=2, format=format
    )
    assert from_table(read_part(part, data)) == rows


def test_an_unscored_row_has_no_reward_even_if_one_was_given() -> None:
    lost = a_row("a", reward=0.0, outcome=Outcome.SANDBOX_LOST)
    row = to_batch([lost]).to_pylist()[0]
    assert row["reward"] is None
    assert row["trainable"] is False


def test_derived_columns_say_what_the_row_holds() -> None:
    call = ToolCall(id="1", name="bash", arguments="{}")
    row = a_row("a")
    told = Trajectory(
        **{name: getattr(row, name) for name in row.__slots__}
        | {
            "messages": (Message(role="assistant", tool_calls=(call, call)),),
            "steps": (
                AgentStep(source="user", message_start=0, message_end=0),
                AgentStep(source="agent", message_start=0, message_end=1),
            ),
            "stop_reason": StopReason.TIMEOUT,
        }
    )
    plain = to_batch([told]).to_pylist()[0]
    assert (plain["num_turns"], plain["num_tool_calls"]) == (1, 2)
    assert plain["truncated"] is True
    assert plain["trainable"] is True


def test_undecodable_text_does_not_lose_the_row() -> None:
    row = a_row("a", text=b"caf\xe9".decode("utf-8", "surrogateescape"))
    assert from_table(to_batch([row]))[0].messages[0].content == "caf?"


@pytest.mark.parametrize("table", TABLES)
def test_no_type_that_a_reader_cannot_take(table: str) -> None:
    def check(kind: pa.DataType) -> None:
        assert not pa.types.is_map(kind)
        assert not pa.types.is_dictionary(kind)
        assert not pa.types.is_union(kind)
        for number in range(kind.num_fields):
            check(kind.field(number).type)

    for column in TABLES[table]:
        check(column.type)


def test_the_two_tables_share_their_identity_columns() -> None:
    shared = ["trajectory_id", "group_id", "arm", "arm_digest", "task_digest", "outcome", "epoch"]
    for name in shared:
        assert TRAJECTORIES.field(name).equals(SEQUENCES.field(name))


@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_a_part_carries_the_schema_version(format: str) -> None:
    data = encode(to_batch([a_row("a")]), format)
    file = io.BytesIO(data)
    opened = pa.parquet.ParquetFile(file).schema_arrow if format == "parquet" else None
    schema = opened if opened is not None else pa.ipc.open_file(file).schema
    assert schema.metadata[b"rollout.schema_version"] == str(SCHEMA_VERSION).encode()
    assert schema.equals(TRAJECTORIES)


def test_names_of_parts() -> None:
    part, _ = make_part(
        to_batch([a_row("a")]),
        name="trajectories",
        writer=writer_key("w0003"),
        epoch=2,
        number=17,
        format="parquet",
    )
    head, _, tail = part.path.rpartition("-")
    assert head == "trajectories/writer=w0003/e0002-000017"
    assert tail == f"{part.sha256[:8]}.parquet"
    assert is_part(part.path)
    for other in ("trajectories/notes.txt", "run.json", f"x/{part.path}", part.path + ".tmp"):
        assert not is_part(other)


@pytest.mark.parametrize(
    ("worker", "key"), [("w0001", "w0001"), ("7", "w7"), ("a/b=c", "a-b-c"), ("", "w")]
)
def test_a_worker_name_becomes_a_string_that_no_reader_takes_for_a_number(
    worker: str, key: str
) -> None:
    assert writer_key(worker) == key
