"""Sequences: their columns, and that they come and go with their trajectory."""

import asyncio
from array import array
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.dataset.log import CommitLog
from rollout.dataset.reader import open_dataset
from rollout.dataset.schema import SEQUENCES
from rollout.dataset.sequence_rows import to_sequence_table
from rollout.dataset.store import LocalStore
from rollout.dataset.writer import DatasetWriter, row_bytes
from rollout.types import Outcome, Sequence, Span, Trajectory
from tests.dataset.examples import a_row


def a_sequence(prompt: int = 2, reply: int = 3, *, start: int = 0) -> Sequence:
    return Sequence(
        role="main",
        token_ids=array("i", range(start, start + prompt + reply)),
        loss_mask=bytes(prompt) + b"\1" * reply,
        logprobs=array("f", [0.0] * prompt + [-0.5] * reply),
        spans=(
            Span(start=0, end=prompt, kind="prompt"),
            Span(start=prompt, end=prompt + reply, kind="sampled", step=1, policy_version=3),
        ),
        finish_reason="stop",
        temperature=0.5,
    )


def with_sequences(name: str, *sequences: Sequence, **changes: object) -> Trajectory:
    row = a_row(name, **changes)  # type: ignore[arg-type]
    return replace(row, sequences=sequences, capture_level="tokens")


def test_a_row_for_each_with_what_its_trajectory_is() -> None:
    rows = [
        with_sequences("a", a_sequence(), a_sequence(1, 0, start=7), reward=0.5),
        a_row("without"),
        with_sequences("b", a_sequence(), reward=1.0, outcome=Outcome.SANDBOX_LOST),
    ]
    table = to_sequence_table(rows)
    assert table.schema == SEQUENCES
    told = table.to_pylist()
    assert [(r["trajectory_id"], r["sequence_index"], r["num_sequences"]) for r in told] == [
        ("a", 0, 2),
        ("a", 1, 2),
        ("b", 0, 1),
    ]
    assert [(r["reward"], r["trainable"]) for r in told] == [(0.5, True)] * 2 + [(None, False)]
    first = told[0]
    assert first["token_ids"] == [0, 1, 2, 3, 4]
    assert first["loss_mask"] == [0, 0, 1, 1, 1]
    assert first["logprobs"] == [0.0, 0.0, -0.5, -0.5, -0.5]
    assert first["prompt_len"] == 2
    assert first["spans"][1] == {
        "start": 2,
        "end": 5,
        "kind": "sampled",
        "step_id": 1,
        "policy_version": 3,
    }
    assert (first["policy_version_min"], first["policy_version_max"]) == (3, 3)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=8))
def test_lists_of_any_length_keep_their_places(lengths: list[tuple[int, int]]) -> None:
    made = [a_sequence(*each, start=at * 100) for at, each in enumerate(lengths)]
    told = to_sequence_table([with_sequences("a", *made)]).to_pylist()
    assert [row["token_ids"] for row in told] == [list(each.token_ids) for each in made]
    assert [bytes(row["loss_mask"]) for row in told] == [each.loss_mask for each in made]
    assert [row["logprobs"] for row in told] == [list(each.logprobs) for each in made]


@pytest.mark.parametrize("format", ["parquet", "arrow"])
async def test_they_come_and_go_with_their_trajectory(tmp_path: Path, format: str) -> None:
    store = LocalStore(tmp_path)
    log = CommitLog(store, "coordinator")
    log.announce()

    async def commit(request: object) -> object:
        (reply,) = await asyncio.to_thread(log.commit, [request], {})  # type: ignore[list-item]
        return reply

    def writing(worker: str) -> DatasetWriter:
        return DatasetWriter(
            store,
            worker=worker,
            epoch=1,
            format=format,
            flush_bytes=1_000_000,
            flush_s=3600,
            commit=commit,  # type: ignore[arg-type]
        )

    def ids() -> list[str]:
        with open_dataset(str(tmp_path)) as dataset:
            found: list[str] = dataset.scan(table="sequences").column("trajectory_id").to_pylist()
            return found

    one, other = writing("w1"), writing("w2")
    await one.add(with_sequences("a", a_sequence(), a_sequence()))
    await one.close()
    await other.add(with_sequences("a", a_sequence()))  # accepted already
    await other.add(with_sequences("b", a_sequence()))
    await other.add(a_row("c"))
    await other.close()
    assert ids() == ["a", "a", "b"]
    log.retract(["a"])
    assert ids() == ["b"]
    log.finish({})
    left = sorted(path.suffix for path in (tmp_path / "sequences").rglob("*.*"))
    assert left == [f".{format}"]


def test_tokens_count_for_what_a_row_takes() -> None:
    bare = row_bytes(a_row("a"))
    assert row_bytes(with_sequences("a", a_sequence(1000, 0))) == bare + 9000
