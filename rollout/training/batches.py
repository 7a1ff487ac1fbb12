"""Token sequences of groups as arrays for one optimiser step, padded or packed.

    samples = samples_of(groups, estimator="grpo", drop_flat=True)
    batch = padded(samples)                  # one sequence a row
    batch = packed(samples, length=8192)     # several behind each other in a row

Tokens, masks and log probabilities are those of the rows, as they were sampled; nothing is
tokenised again. The arrays are numpy's, which torch and JAX take without a copy.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rollout.training.advantages import advantages, is_flat
from rollout.types import Group, Trajectory
from rollout.types import Sequence as Tokens

UNKNOWN_VERSION = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sequence of a rollout, with what its trainer needs to know of it."""

    tokens: Tokens
    trajectory_id: str
    group_id: str
    reward: float
    advantage: float
    """Of the rollout, for each of its sampled tokens."""

    def __len__(self) -> int:
        return len(self.tokens.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Arrays of shape (rows, length), aligned; beyond a row's tokens masks are 0.

    Next-token losses shift by one: the log probability at t is of the token at t, given those
    before it in its segment.
    """

    input_ids: NDArray[np.int32]
    loss_mask: NDArray[np.uint8]
    """1 where the policy sampled the token and this is the sequence that trains it."""
    logprobs: NDArray[np.float32]
    """As the engine told them when it sampled; 0.0 where the mask is 0."""
    advantages: NDArray[np.float32]
    policy_versions: NDArray[np.int64]
    """Which weights sampled the token; -1 where nobody told, and where nothing was sampled."""
    segments: NDArray[np.int32]
    """Which of the row's sequences a token belongs to, from 1; 0 is padding. Tokens attend to
    their own segment alone."""
    positions: NDArray[np.int32]
    """Of the token in its segment, from 0."""
    rewards: tuple[tuple[float, ...], ...]
    """By row, of each segment."""
    group_ids: tuple[tuple[str, ...], ...]
    trajectory_ids: tuple[tuple[str, ...], ...]


def samples_of(
    groups: Iterable[Group],
    *,
    estimator: str = "grpo",
    drop_flat: bool = False,
    version: int | None = None,
    max_staleness: int | None = None,
) -> Iterator[Sample]:
    """Every sequence of the groups' trainable members that has a token to train on.

    drop_flat: leave out groups whose scored members all have the same reward: their advantages
        are zero, and they only dilute the batch.
    version, max_staleness: the trainer's version, and by how much a member's oldest token may be
        behind it. A stale member is left out of the batch, though not of its group's baseline.

    ValueError when members were made without `model.capture=tokens`.
    """
    for group in groups:
        members = group.trajectories
        rewards = [row.reward if row.trainable else None for row in members]
        if drop_flat and is_flat(rewards):
            continue
        for row, advantage in zip(members, advantages(rewards, estimator), strict=True):
            if advantage is not None and not _stale(row, version, max_staleness):
                yield from _samples(row, advantage)


def padded(samples: Iterable[Sample], *, pad_id: int = 0, length: int | None = None) -> Batch:
    """One sequence a row, filled up to the longest, or to `length`, beyond which none may be."""
    rows = [[sample] for sample in samples]
    return _batch(rows, pad_id, max(_lengths(rows), default=0) if length is None else length)


def packed(samples: Iterable[Sample], *, length: int, pad_id: int = 0) -> Batch:
    """Sequences behind each other in rows of `length`, the longest first into the first row that
    has room: few rows, and the same ones for the same samples."""
    rows: list[list[Sample]] = []
    room: list[int] = []
    for sample in sorted(samples, key=len, reverse=True):
        fits = (number for number, left in enumerate(room) if left >= len(sample))
        number = next(fits, len(rows))
        if number == len(rows):
            rows.append([])
            room.append(length)
        rows[number].append(sample)
        room[number] -= len(sample)
    return _batch(rows, pad_id, length)


def _stale(row: Trajectory, version: int | None, most: int | None) -> bool:
    oldest = row.policy_version_min
    return None not in (version, most, oldest) and version - oldest > most  # type: ignore[operator]


def _samples(row: Trajectory, advantage: float) -> Iterator[Sample]:
    if row.capture_level != "tokens":
        raise ValueError(
            f"trajectory {row.spec.trajectory_id} has no tokens (capture {row.capture_level!r}): "
            "run it with model.capture=tokens"
        )
    assert row.reward is not None
    for tokens in row.sequences:
        if any(tokens.loss_mask):
            yield Sample(
                tokens=tokens,
                trajectory_id=row.spec.trajectory_id,
                group_id=row.spec.group_id,
                reward=row.reward,
                advantage=advantage,
            )


def _lengths(rows: Sequence[Sequence[Sample]]) -> list[int]:
    return [sum(map(len, row)) for row in rows]


def _batch(rows: Sequence[Sequence[Sample]], pad_id: int, length: int) -> Batch:
    if max(_lengths(rows), default=0) > length:
        longest = max((sample for row in rows for sample in row), key=len)
        raise ValueError(
            f"a sequence of trajectory {longest.trajectory_id} has {len(longest)} tokens, and a "
            f"row has room for {length}: make rows longer, or leave it out"
        )
    shape = (len(rows), length)
    batch = Batch(
        input_ids=np.full(shape, pad_id, np.int32),
        loss_mask=np.zeros(shape, np.uint8),
        logprobs=np.zeros(shape, np.float32),
        advantages=np.zeros(shape, np.float32),
        policy_versions=np.full(shape, UNKNOWN_VERSION, np.int64),
        segments=np.zeros(shape, np.int32),
        positions=np.zeros(shape, np.int32),
        rewards=tuple(tuple(sample.reward for sample in row) for row in rows),
        group_ids=tuple(tuple(sample.group_id for sample in row) for row in rows),
        trajectory_ids=tuple(tuple(sample.trajectory_id for sample in row) for row in rows),
    )
    for number, row in enumerate(rows):
        start = 0
        for segment, sample in enumerate(row, start=1):
            _fill(batch, number, start, segment, sample)
            start += len(sample)
    return batch


def _fill(batch: Batch, row: int, start: int, segment: int, sample: Sample) -> None:
    here = (row, slice(start, start + len(sample)))
    tokens = sample.tokens
    batch.input_ids[here] = tokens.token_ids
    batch.loss_mask[here] = np.frombuffer(tokens.loss_mask, np.uint8)
    batch.logprobs[here] = tokens.logprobs
    batch.advantages[here] = sample.advantage * batch.loss_mask[here]
    batch.segments[here] = segment
    batch.positions[here] = np.arange(len(sample), dtype=np.int32)
    for span in tokens.spans:
        if span.kind == "sampled" and span.policy_version is not None:
            batch.policy_versions[row, start + span.start : start + span.end] = span.policy_version
