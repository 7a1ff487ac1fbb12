"""SkyRL's `GeneratorOutput` (skyrl 0.3), and its `GeneratorInterface` over a RolloutSource."""

from collections.abc import Sequence
from typing import Any

from rollout.training.adapters.split import members, split, trained
from rollout.types import Group

STOPS = {"length": "length", "tool_calls": "stop"}


def generator_output(groups: Sequence[Group]) -> dict[str, Any]:
    """One entry for each sequence of each trainable member, all lists aligned.

    `is_last_step` marks the last sequence of a rollout, which is what SkyRL's step-wise training
    reads where a rollout has several. `trajectory_ids` are (instance, repetition) pairs, from
    which `skyrl.train.generators.base.TrajectoryID(*pair)` makes its own.
    """
    out: dict[str, Any] = {
        name: []
        for name in (
            *("prompt_token_ids", "response_ids", "rewards", "loss_masks", "stop_reasons"),
            *("rollout_logprobs", "trajectory_ids", "trajectory_generation_times"),
            *("is_last_step", "env_metrics"),
        )
    }
    for group, row in members(groups):
        sequences = trained(row)
        seconds = (row.finished_at - row.started_at).total_seconds()
        for number, sequence in enumerate(sequences, start=1):
            part = split(sequence)
            out["prompt_token_ids"].append(part.prompt_ids)
            out["response_ids"].append(part.response_ids)
            out["rewards"].append(row.reward)
            out["loss_masks"].append(part.mask)
            out["stop_reasons"].append(STOPS.get(sequence.finish_reason, sequence.finish_reason))
            out["rollout_logprobs"].append(part.logprobs)
            out["trajectory_ids"].append((group.group_id, row.spec.sample))
            out["trajectory_generation_times"].append(seconds)
            out["is_last_step"].append(number == len(sequences))
            out["env_metrics"].append({score.name: score.value for score in row.scores})
    rewards = [row.reward for _, row in members(groups)]
    out["rollout_metrics"] = {
        "rollout/mean_reward": sum(map(float, filter(None, rewards))) / max(1, len(rewards)),
        "rollout/failed_members": sum(
            len(group.trajectories) - len(group.trainable) for group in groups
        ),
    }
    return out
