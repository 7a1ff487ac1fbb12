"""Two optimiser steps with verl's own advantages and loss, on groups of real sandboxes."""

from pathlib import Path
from typing import Any

import pytest

from rollout import RolloutSource
from rollout.training.adapters.verl import agent_loop_fields
from tests.online.test_source import config_of
from tests.online.tiny_llama import VOCABULARY, llama, log_probs, weights_of

pytestmark = [
    pytest.mark.native,
    pytest.mark.filterwarnings("default"),  # of libraries that are not ours
]
loop = pytest.importorskip("verl.experimental.agent_loop.agent_loop")


def batch_of(outputs: list[Any]) -> dict[str, Any]:
    """As verl's workers lay it out: prompts padded on the left, responses on the right."""
    import torch

    prompt = max(len(each.prompt_ids) for each in outputs)
    response = max(len(each.response_ids) for each in outputs)
    rows: dict[str, list[list[float]]] = {
        name: [] for name in ("ids", "seen", "mask", "sampled", "rewards")
    }
    for each in outputs:
        left, right = prompt - len(each.prompt_ids), response - len(each.response_ids)
        pad = [VOCABULARY - 1]
        rows["ids"].append(pad * left + each.prompt_ids + each.response_ids + pad * right)
        known = len(each.prompt_ids) + len(each.response_ids)
        rows["seen"].append([0] * left + [1] * known + [0] * right)
        rows["mask"].append(each.response_mask + [0] * right)
        rows["sampled"].append(each.response_logprobs + [0.0] * right)
        last = len(each.response_ids) - 1
        rows["rewards"].append([each.reward_score * (at == last) for at in range(response)])
    kinds = {"ids": torch.long, "seen": torch.long}
    return {
        name: torch.tensor(row, dtype=kinds.get(name, torch.float32)) for name, row in rows.items()
    }


async def test_two_steps_of_its_own_loss(tmp_path: Path) -> None:
    import numpy as np
    import torch
    from verl.trainer.ppo import core_algos
    from verl.workers.config import ActorConfig

    conf = ActorConfig(strategy="fsdp", rollout_n=8, ppo_micro_batch_size_per_gpu=16)
    policy = llama()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    before = weights_of(policy)
    config = [*config_of(tmp_path), "executor=local", "samples=8"]
    async with RolloutSource(config) as source:
        for step in range(2):
            await source.update_policy(step)
            await source.submit(["a", "b"])
            groups = [group async for group in source.groups()]
            outputs = [loop.AgentLoopOutput(**fields) for fields in agent_loop_fields(groups)]
            assert {out.extra_fields["max_global_steps"] for out in outputs} == {step}
            batch = batch_of(outputs)
            uids = np.array([out.extra_fields["uid"] for out in outputs])
            shares, _ = core_algos.compute_grpo_outcome_advantage(
                batch["rewards"], batch["mask"], uids
            )
            now = log_probs(policy, batch["ids"], batch["seen"])[:, -batch["mask"].shape[1] :]
            loss, _ = core_algos.compute_policy_loss_vanilla(
                batch["sampled"], now, shares, batch["mask"], config=conf
            )
            optimizer.zero_grad()
            loss.backward()
            assert torch.isfinite(loss)
            optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, weights_of(policy), strict=True))
