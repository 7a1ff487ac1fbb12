"""Batches hold exactly the tokens of the rows that may be trained on, each once."""

from array import array
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.training.batches import Batch, packed, padded, samples_of
from rollout.types import Group, Outcome, Sequence, Span, Trajectory
from tests.dataset.examples import a_row


def sequence(first: int, prompt: int, sampled: int, version: int | None = 3) -> Sequence:
    """Token ids that no other sequence has, from `first`."""
    length = prompt + sampled
    return Sequence(
        role="main",
        token_ids=array("i", range(first, first + length)),
        loss_mask=bytes([0] * prompt + [1] * sampled),
        logprobs=array("f", [0.0] * prompt + [-0.5] * sampled),
        spans=(
            Span(start=0, end=prompt, kind="prompt"),
            Span(start=prompt, end=length, kind="sampled", step=0, policy_version=version),
        ),
        finish_reason="stop",
    )


def member(
    sample: int, reward: float | None, *sequences: Sequence, oldest: int | None = 3
) -> Trajectory:
    outcome = Outcome.SANDBOX_LOST if reward is None else Outcome.OK
    row = a_row(f"t{sample}", reward=reward, outcome=outcome)
    return replace(
        row,
        spec=replace(row.spec, sample=sample, group_id="g"),
        capture_level="tokens",
        sequences=sequences,
        policy_version_min=oldest,
    )


def group(*members: Trajectory) -> Group:
    return Group(group_id="g", arm="a", task_id="t", size=len(members), trajectories=tuple(members))


MIXED = group(
    member(0, 1.0, sequence(100, 3, 2), sequence(200, 1, 4)),
    member(1, 0.0, sequence(300, 2, 2)),
    member(2, None, sequence(400, 2, 2)),
    member(3, 1.0, sequence(500, 4, 0), sequence(600, 1, 1, version=None)),
)


def test_only_what_is_scored_and_sampled_is_there() -> None:
    found = [(s.trajectory_id, len(s), s.reward) for s in samples_of([MIXED])]
    assert found == [("t0", 5, 1.0), ("t0", 5, 1.0), ("t1", 4, 0.0), ("t3", 2, 1.0)]
    first, _, zero, _ = samples_of([MIXED], estimator="dr_grpo")
    assert first.advantage == pytest.approx(1 / 3)
    assert zero.advantage == pytest.approx(-2 / 3)


def test_padded_rows_say_all_of_their_tokens() -> None:
    batch = padded(samples_of([MIXED], estimator="dr_grpo"), pad_id=9)
    assert batch.input_ids.shape == (4, 5)
    assert batch.input_ids[2].tolist() == [300, 301, 302, 303, 9]
    assert batch.loss_mask[2].tolist() == [0, 0, 1, 1, 0]
    assert batch.logprobs[2].tolist() == [0.0, 0.0, -0.5, -0.5, 0.0]
    assert batch.policy_versions[2].tolist() == [-1, -1, 3, 3, -1]
    assert batch.policy_versions[3].tolist() == [-1] * 5
    assert batch.segments[2].tolist() == [1, 1, 1, 1, 0]
    assert batch.positions[2].tolist() == [0, 1, 2, 3, 0]
    assert np.allclose(batch.advantages[2], np.array([0, 0, 1, 1, 0]) * -2 / 3)
    assert (batch.rewards[2], batch.group_ids[2], batch.trajectory_ids[2]) == (
        (0.0,),
        ("g",),
        ("t1",),
    )


def test_a_flat_group_is_dropped_if_asked_for() -> None:
    flat = group(member(0, 1.0, sequence(1, 1, 1)), member(1, 1.0, sequence(9, 1, 1)))
    assert len(list(samples_of([flat]))) == 2
    assert list(samples_of([flat, flat], drop_flat=True)) == []


def test_what_is_too_stale_is_left_out_and_still_in_the_baseline() -> None:
    old = group(
        member(0, 1.0, sequence(1, 1, 1), oldest=1), member(1, 0.0, sequence(9, 1, 1), oldest=5)
    )
    (fresh,) = samples_of([old], estimator="dr_grpo", version=6, max_staleness=4)
    assert (fresh.trajectory_id, fresh.advantage) == ("t1", -0.5)
    assert len(list(samples_of([old], version=6, max_staleness=5))) == 2


def test_rows_without_tokens_and_sequences_too_long_are_said_by_name() -> None:
    text = group(replace(member(0, 1.0), capture_level="text"), member(1, 0.0))
    with pytest.raises(ValueError, match=r"t0 has no tokens .* model\.capture=tokens"):
        list(samples_of([text]))
    for make in (packed, padded):
        with pytest.raises(ValueError, match="t0 has 5 tokens, and a row has room for 4"):
            make(samples_of([MIXED]), length=4)


def test_no_samples_make_an_empty_batch() -> None:
    assert padded([]).input_ids.shape == (0, 0)
    assert packed([], length=8).input_ids.shape == (0, 8)


def trained(batch: Batch) -> Counter[tuple[int, float]]:
    mask = batch.loss_mask == 1
    pairs = zip(batch.input_ids[mask].tolist(), batch.advantages[mask].tolist(), strict=True)
    return Counter(pairs)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=2, max_size=24))
def test_packing_trains_the_same_tokens_in_fewer_rows(sizes: list[tuple[int, int]]) -> None:
    members = [
        member(number, float(number % 2), sequence(100 * number, *size))
        for number, size in enumerate(sizes)
    ]
    samples = list(samples_of([group(*members)]))
    one, many = padded(samples), packed(samples, length=20)
    assert trained(one) == trained(many)
    assert sum(trained(one).values()) == sum(sampled for _, sampled in sizes)
    assert len(many.input_ids) <= len(one.input_ids)
    for row, segments in enumerate(many.segments):
        for segment in range(1, len(many.rewards[row]) + 1):
            held = np.flatnonzero(segments == segment)
            assert held.tolist() == list(range(held[0], held[-1] + 1))
            assert many.positions[row, held].tolist() == list(range(len(held)))
