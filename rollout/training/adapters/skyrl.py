"""SkyRL's `GeneratorOutput` (skyrl 0.3); `rollout.online.skyrl` is its generator."""

from collections.abc import Iterable, Sequence
from typing import Any

from rollout.training.adapters.split import Split, members, split, trained
from rollout.types import Group, Trajectory

STOPS = {"length": "length", "tool_calls": "stop"}
LISTS = (
    *("prompt_token_ids", "response_ids", "rewards", "loss_masks", "stop_reasons"),
    *("rollout_logprobs", "trajectory_ids", "trajectory_generation_times"),
    *("is_last_step", "env_metrics"),
)


def generator_output(groups: Sequence[Group]) -> dict[str, Any]:
    """One entry for each sequence of each trainable member, all lists aligned.

    `is_last_step` marks the last sequence of a rollout, which is what SkyRL's step-wise training
    reads where a rollout has several. `trajectory_ids` are (instance, repetition) pairs, from
    which `skyrl.train.generators.base.TrajectoryID(*pair)` makes its own.
    """
    out: dict[str, Any] = {name: [] for name in LISTS}
    for group, row in members(groups):
        _add(out, (group.group_id, row.spec.sample), row, float(row.reward or 0.0))
    out["rollout_metrics"] = _metrics(groups)
    return out


def answers(
    asked: Iterable[tuple[Any, Group, Trajectory]], *, pad_token_id: int = 0
) -> dict[str, Any]:
    """The same for a generator, which owes an entry for each prompt, in their order.

    A member that *we* failed is one token that no loss counts, with the mean reward of the others:
    so it moves no baseline, and its own advantage is 0.

    asked: for each prompt the id that its entries have, and the rollout with its group.
    """
    asked = list(asked)
    out: dict[str, Any] = {name: [] for name in LISTS}
    nothing = Split(
        prompt_ids=[pad_token_id], response_ids=[pad_token_id], mask=[0], logprobs=[0.0]
    )
    for name, group, row in asked:
        mean = [float(each.reward or 0.0) for each in group.trainable]
        reward = float(row.reward or 0.0) if row.trainable else sum(mean) / max(1, len(mean))
        if not row.trainable or not _add(out, name, row, reward):
            _put(out, name, row, reward, nothing, "error", last=True)
    out["rollout_metrics"] = _metrics({group.group_id: group for _, group, _ in asked}.values())
    return out


def _add(out: dict[str, Any], name: Any, row: Trajectory, reward: float) -> int:
    sequences = trained(row)
    for number, sequence in enumerate(sequences, start=1):
        stop = STOPS.get(sequence.finish_reason, sequence.finish_reason)
        _put(out, name, row, reward, split(sequence), stop, last=number == len(sequences))
    return len(sequences)


def _put(
    out: dict[str, Any],
    name: Any,
    row: Trajectory,
    reward: float,
    part: Split,
    stop: str,
    *,
    last: bool,
) -> None:
    out["prompt_token_ids"].append(part.prompt_ids)
    out["response_ids"].append(part.response_ids)
    out["rewards"].append(reward)
    out["loss_masks"].append(part.mask)
    out["stop_reasons"].append(stop)
    out["rollout_logprobs"].append(part.logprobs)
    out["trajectory_ids"].append(name)
    out["trajectory_generation_times"].append((row.finished_at - row.started_at).total_seconds())
    out["is_last_step"].append(last)
    out["env_metrics"].append({score.name: score.value for score in row.scores})


def _metrics(groups: Iterable[Group]) -> dict[str, float]:
    groups = list(groups)
    rewards = [row.reward or 0.0 for _, row in members(groups)]
    return {
        "rollout/mean_reward": sum(rewards) / max(1, len(rewards)),
        "rollout/failed_members": sum(
            len(group.trajectories) - len(group.trainable) for group in groups
        ),
    }
