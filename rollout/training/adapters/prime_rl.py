"""prime-rl's `TrainingSample`, which verifiers' traces become: flat, one for each sequence."""

from collections.abc import Iterator, Sequence
from typing import Any

from rollout.training.batches import samples_of
from rollout.types import Group


def training_samples(
    groups: Sequence[Group], *, estimator: str = "grpo", drop_flat: bool = False
) -> Iterator[dict[str, Any]]:
    """The fields of `prime_rl.transports.rollouts.types.TrainingSample`, all of one length.

    `advantages` are per token, 0.0 where the mask is; `temperatures` those of the sampling.
    """
    tasks = {group.group_id: group.task_id for group in groups}
    for sample in samples_of(groups, estimator=estimator, drop_flat=drop_flat):
        tokens = sample.tokens
        mask = [bool(each) for each in tokens.loss_mask]
        yield {
            "token_ids": list(tokens.token_ids),
            "mask": mask,
            "logprobs": list(tokens.logprobs),
            "temperatures": [tokens.temperature if each else 0.0 for each in mask],
            "env_name": tasks[sample.group_id],
            "advantages": [sample.advantage if each else 0.0 for each in mask],
        }
