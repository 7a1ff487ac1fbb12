"""Estimators against their definitions, and what has no reward."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.training.advantages import ESTIMATORS, advantages, is_flat

rewards = st.lists(st.floats(-100, 100), min_size=2, max_size=16)


@given(rewards)
def test_they_are_what_their_papers_say(values: list[float]) -> None:
    array = np.array(values)
    others = (array.sum() - array) / (len(array) - 1)
    expected = {
        "grpo": (array - array.mean()) / (array.std() + 1e-6),
        "dr_grpo": array - array.mean(),
        "rloo": array - others,
    }
    assert expected.keys() == ESTIMATORS.keys()
    for name, wanted in expected.items():
        assert np.allclose(np.array(advantages(values, name), float), wanted, atol=1e-6)


@given(rewards, st.data())
def test_members_without_a_reward_change_nothing_for_the_others(
    values: list[float], data: st.DataObject
) -> None:
    mixed: list[float | None] = list(values)
    for _ in range(data.draw(st.integers(1, 4))):
        mixed.insert(data.draw(st.integers(0, len(mixed))), None)
    for name in ESTIMATORS:
        found = advantages(mixed, name)
        assert [a is None for a in found] == [reward is None for reward in mixed]
        assert [a for a in found if a is not None] == advantages(values, name)


def test_a_single_scored_member_has_no_baseline() -> None:
    assert advantages([None, 1.0, None]) == [None, 0.0, None]
    assert advantages([]) == []


def test_flat_groups() -> None:
    assert is_flat([1.0, None, 1.0])
    assert is_flat([None, 1.0])
    assert not is_flat([0.0, 1.0, None])
    assert advantages([1.0, 1.0]) == [0.0, 0.0]


def test_what_is_no_estimator_and_no_number() -> None:
    with pytest.raises(ValueError, match="'ppo' is none of grpo, dr_grpo, rloo"):
        advantages([1.0, 0.0], "ppo")
    with pytest.raises(ValueError, match="finite"):
        advantages([1.0, float("nan")])
