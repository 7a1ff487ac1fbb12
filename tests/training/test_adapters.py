"""Groups in the words of other libraries: every field of the contract, and the library where it is.

The contracts are those of verl 0.9, skyrl 0.3 and prime-rl of August 2026, read in their sources.
"""

from typing import Any

import pytest

from rollout.training.adapters.prime_rl import training_samples
from rollout.training.adapters.skyrl import generator_output
from rollout.training.adapters.split import split
from rollout.training.adapters.verl import agent_loop_fields
from tests.training.test_batches import MIXED, group, member, sequence

TRAINED = ["t0", "t0", "t1", "t3"]
"""Trajectories of MIXED by sequence: the third has no reward, the fourth only one to train on."""


def test_a_sequence_is_split_where_the_policy_begins_to_speak() -> None:
    part = split(sequence(100, 3, 2))
    assert (part.prompt_ids, part.response_ids) == ([100, 101, 102], [103, 104])
    assert (part.mask, part.logprobs) == ([1, 1], [-0.5, -0.5])
    silent = split(sequence(100, 3, 0))
    assert (silent.prompt_ids, silent.response_ids) == ([100, 101, 102], [])


def test_verl_gets_agent_loop_outputs() -> None:
    outputs = list(agent_loop_fields([MIXED]))
    assert [out["extra_fields"]["trajectory_id"] for out in outputs] == TRAINED
    for out in outputs:
        lengths = {len(out[name]) for name in ("response_ids", "response_mask")}
        assert lengths == {len(out["response_logprobs"])}
        assert set(out["response_mask"]) == {1}
        assert out["extra_fields"]["uid"] == "g"
    assert [out["reward_score"] for out in outputs] == [1.0, 1.0, 0.0, 1.0]
    loop = pytest.importorskip("verl.experimental.agent_loop.agent_loop")
    made = [loop.AgentLoopOutput(**out) for out in outputs]
    assert [each.response_ids for each in made] == [out["response_ids"] for out in outputs]


def test_skyrl_gets_a_generator_output() -> None:
    out = generator_output([MIXED])
    lists = {name: value for name, value in out.items() if isinstance(value, list)}
    assert {len(value) for value in lists.values()} == {4}
    assert out["rewards"] == [1.0, 1.0, 0.0, 1.0]
    assert out["trajectory_ids"] == [("g", 0), ("g", 0), ("g", 1), ("g", 3)]
    assert out["is_last_step"] == [False, True, True, True]
    assert out["rollout_metrics"]["rollout/failed_members"] == 1
    for response, mask, logprobs in zip(
        out["response_ids"], out["loss_masks"], out["rollout_logprobs"], strict=True
    ):
        assert len(response) == len(mask) == len(logprobs)
    base = pytest.importorskip("skyrl.train.generators.base")
    assert out.keys() <= base.GeneratorOutput.__annotations__.keys()


def test_prime_rl_gets_flat_samples() -> None:
    samples = list(training_samples([MIXED]))
    assert len(samples) == 4
    for sample in samples:
        aligned = ("token_ids", "mask", "logprobs", "temperatures", "advantages")
        assert len({len(sample[name]) for name in aligned}) == 1
        assert all(
            not adv for adv, on in zip(sample["advantages"], sample["mask"], strict=True) if not on
        )
    assert list(training_samples([group(member(0, 1.0, sequence(1, 1, 1)))], drop_flat=True)) == []


def test_rows_without_tokens_are_refused_by_their_id() -> None:
    from dataclasses import replace

    bare: Any = replace(member(0, 1.0, sequence(1, 1, 1)), capture_level="text")
    for adapter in (agent_loop_fields, training_samples):
        with pytest.raises(ValueError, match=r"t0 .*model\.capture=tokens"):
            list(adapter([group(bare, bare)]))
