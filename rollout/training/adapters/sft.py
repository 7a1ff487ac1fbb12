"""Solved rollouts as conversations to fine-tune on, as a `datasets.Dataset`."""

import json
from collections.abc import Iterator
from typing import Any

from rollout.dataset.reader import RolloutDataset


def sft_dataset(dataset: RolloutDataset, *, min_reward: float = 1.0) -> Any:
    """`messages` and `tools`, of rollouts that were scored at least so high; for TRL's SFTTrainer.

    ValueError where there is none. Arguments of tool calls are objects, as chat templates want
    them, but those that differ from row to row would not fit one Arrow schema: they stay JSON
    text, which templates print as it is.
    """
    from datasets import Dataset

    rows = list(_rows(dataset, min_reward))
    if not rows:
        raise ValueError(f"{dataset.uri} has no rollout with a reward of at least {min_reward:g}")
    return Dataset.from_list(rows)


def _rows(dataset: RolloutDataset, min_reward: float) -> Iterator[dict[str, Any]]:
    for row in dataset.to_sft(min_reward=min_reward):
        yield {"messages": row["messages"], "tools": json.dumps(row.get("tools") or [])}
