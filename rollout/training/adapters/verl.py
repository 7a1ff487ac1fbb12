"""verl's agent loop: `AgentLoopOutput`, one for each sequence (verl 0.9)."""

from collections.abc import Iterator, Sequence
from typing import Any

from rollout.training.adapters.split import members, split, trained
from rollout.types import Group


def agent_loop_fields(groups: Sequence[Group]) -> Iterator[dict[str, Any]]:
    """The fields of `verl.experimental.agent_loop.AgentLoopOutput`, as keyword arguments.

    `extra_fields` has what verl's replay buffer groups and ages by: `uid` of the prompt,
    `session_id` of the sample, `min_global_steps` and `max_global_steps` of the weights. Rollouts
    of several sequences give several, alike in `session_id`.
    """
    for group, row in members(groups):
        turns = sum(step.source == "agent" for step in row.steps)
        seconds = {phase.name: phase.ms / 1000 for phase in row.phases}
        tool_ms = sum(step.env_ms or 0.0 for step in row.steps)
        model_ms = sum(step.model_ms or 0.0 for step in row.steps)
        for number, sequence in enumerate(trained(row)):
            part = split(sequence)
            yield {
                "prompt_ids": part.prompt_ids,
                "response_ids": part.response_ids,
                "response_mask": part.mask,
                "response_logprobs": part.logprobs,
                "reward_score": row.reward,
                "num_turns": 2 * turns,
                "metrics": {
                    "generate_sequences": model_ms / 1000,
                    "tool_calls": tool_ms / 1000,
                    "compute_score": seconds.get("score", 0.0),
                },
                "extra_fields": {
                    "uid": group.group_id,
                    "session_id": row.spec.sample,
                    "sequence_index": number,
                    "trajectory_id": row.spec.trajectory_id,
                    "min_global_steps": row.policy_version_min,
                    "max_global_steps": row.policy_version_max,
                },
            }
