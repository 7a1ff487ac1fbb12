"""A token sequence as prompt and response, which most libraries want."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rollout.types import Group, Sequence, Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """`response` begins with the first sampled token; what tools said in it has mask 0."""

    prompt_ids: list[int]
    response_ids: list[int]
    mask: list[int]
    """Over the response: 1 where the policy sampled the token and this sequence trains it."""
    logprobs: list[float]
    """Over the response; 0.0 where the mask is 0."""


def split(sequence: Sequence) -> Split:
    """Nothing is tokenised again: ids, masks and log probabilities are those of the row."""
    start = sequence.loss_mask.find(1)
    start = len(sequence.token_ids) if start < 0 else start
    return Split(
        prompt_ids=list(sequence.token_ids[:start]),
        response_ids=list(sequence.token_ids[start:]),
        mask=list(sequence.loss_mask[start:]),
        logprobs=list(sequence.logprobs[start:]),
    )


def trained(row: Trajectory) -> list[Sequence]:
    """Its sequences with a token to train on; ValueError where no tokens were captured."""
    if row.capture_level != "tokens":
        raise ValueError(
            f"trajectory {row.spec.trajectory_id} has no tokens (capture {row.capture_level!r}): "
            "run it with model.capture=tokens"
        )
    return [sequence for sequence in row.sequences if any(sequence.loss_mask)]


def members(groups: Iterable[Group]) -> Iterator[tuple[Group, Trajectory]]:
    """Those that may be trained on: a member that *we* failed is left out, and is no zero."""
    for group in groups:
        for row in group.trainable:
            yield group, row
