"""SkyRL's generator over real sandboxes, and two steps of its own loss on what it gives."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rollout.errors import ConfigError, RolloutError
from rollout.online.skyrl import SkyRlGenerator
from rollout.training.adapters.skyrl import answers
from tests.online.test_source import config_of
from tests.online.tiny_llama import VOCABULARY, llama, log_probs, weights_of
from tests.training.test_batches import MIXED

pytestmark = pytest.mark.native


@pytest.fixture
async def generator(tmp_path: Path) -> AsyncIterator[SkyRlGenerator]:
    made = SkyRlGenerator([*config_of(tmp_path), "executor=local"], pad_token_id=VOCABULARY - 1)
    yield made
    await made.close()


def asked(step: int, *tasks: str, samples: int = 4) -> dict[str, Any]:
    """A GeneratorInput: each prompt as often as there are samples, one after the other."""
    names = [(task, sample) for task in tasks for sample in range(samples)]
    return {
        "prompts": [[{"role": "user", "content": f"make {task}"}] for task, _ in names],
        "env_classes": ["rollout"] * len(names),
        "env_extras": None,
        "sampling_params": None,
        "trajectory_ids": [
            SimpleNamespace(instance_id=task, repetition_id=sample) for task, sample in names
        ],
        "batch_metadata": SimpleNamespace(global_step=step, training_phase="train"),
    }


async def test_each_prompt_has_its_entry_in_order_also_with_many_calls_at_once(
    generator: SkyRlGenerator,
) -> None:
    batches = [asked(0, "a", "b"), asked(0, "c", samples=2), asked(0, "b", "a", samples=1)]
    outs = await asyncio.gather(*map(generator.generate, batches))
    for batch, out in zip(batches, outs, strict=True):
        assert out["trajectory_ids"] == batch["trajectory_ids"]
        assert all(out["is_last_step"])
        for reward, name in zip(out["rewards"], batch["trajectory_ids"], strict=True):
            assert reward in ((0.0, 1.0) if name.instance_id == "a" else (0.0,))
        for ids, mask, logprobs in zip(
            out["response_ids"], out["loss_masks"], out["rollout_logprobs"], strict=True
        ):
            assert len(ids) == len(mask) == len(logprobs)
            assert any(mask)
    named = {**asked(1, "a", samples=1), "prompts": ["?"], "env_extras": [{"task_id": "d"}]}
    (after,) = (await generator.generate(named))["rewards"]
    assert after == 0.0


async def test_slips_are_told(generator: SkyRlGenerator, tmp_path: Path) -> None:
    with pytest.raises(RolloutError, match="no task's instruction"):
        await generator.generate({"prompts": ["make nothing"]})
    with pytest.raises(ConfigError, match="is no task of this source"):
        await generator.generate({"prompts": ["make a"], "env_extras": [{"task_id": "nothing"}]})
    lone = [*config_of(tmp_path), "executor=local", "name=drawn"]
    drawn = SkyRlGenerator([*lone, "sampler=uniform", "online.batch=1"])
    with pytest.raises(ConfigError, match="sampler: SkyRL says which tasks come"):
        await drawn.generate({"prompts": ["make a"]})


async def test_a_prompt_of_two_tasks_tells_neither(tmp_path: Path) -> None:
    config = [*config_of(tmp_path), "executor=local"]
    alike = [{"id": name, "instruction": "do it", "command": "true"} for name in "xy"]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in alike))
    generator = SkyRlGenerator(config)
    try:
        with pytest.raises(RolloutError, match=r"SkyRL: this prompt is that of 2 tasks: 'do it'"):
            await generator.generate({"prompts": ["do it"]})
        out = await generator.generate({"prompts": ["do it"], "env_extras": [{"task_id": "y"}]})
        assert out["rewards"] == [1.0]
    finally:
        await generator.close()


def test_a_member_that_we_failed_moves_no_baseline() -> None:
    out = answers([(row.spec.sample, MIXED, row) for row in MIXED.trajectories], pad_token_id=7)
    assert out["trajectory_ids"] == [0, 0, 1, 2, 3]
    assert out["rewards"] == [1.0, 1.0, 0.0, pytest.approx(2 / 3), 1.0]
    assert (out["response_ids"][3], out["loss_masks"][3]) == ([7], [0])
    assert out["is_last_step"] == [False, True, True, True, True]
    assert out["stop_reasons"][3] == "error"
    assert out["rollout_metrics"]["rollout/failed_members"] == 1


async def test_two_steps_of_its_own_loss(generator: SkyRlGenerator) -> None:
    pytest.importorskip("skyrl")
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import numpy as np
    from skyrl.backends.skyrl_train.utils import ppo_utils
    from skyrl.train.config import AlgorithmConfig
    from skyrl.train.dataset.preprocess import convert_prompts_responses_to_batch_tensors
    from skyrl.train.generators.base import GeneratorOutput
    from skyrl.train.utils.trainer_utils import validate_generator_output

    policy = llama()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    before = weights_of(policy)
    tokenizer = SimpleNamespace(pad_token_id=VOCABULARY - 1)
    for step in range(2):
        out = await generator.generate(asked(step, "a", "b", samples=8))
        assert out.keys() <= GeneratorOutput.__annotations__.keys()
        validate_generator_output(16, out)
        ends = [[0.0] * (len(ids) - 1) + [reward] for ids, reward in zip(
            out["response_ids"], out["rewards"], strict=True)]  # fmt: skip
        ids, seen, acted, rewards, mask, sampled, _ = convert_prompts_responses_to_batch_tensors(
            tokenizer, out["prompt_token_ids"], out["response_ids"], ends, out["loss_masks"],
            out["rollout_logprobs"],
        )  # fmt: skip
        uids = np.array([name.instance_id for name in out["trajectory_ids"]])
        shares, _ = ppo_utils.compute_grpo_outcome_advantage(rewards, acted, uids)
        now = log_probs(policy, ids, seen)[:, -acted.shape[1] :]
        loss, _ = ppo_utils.ppo_policy_loss(
            now, sampled, shares, AlgorithmConfig(policy_loss_type="regular"), mask
        )
        optimizer.zero_grad()
        loss.backward()
        assert torch.isfinite(loss)
        optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, weights_of(policy), strict=True))
