"""Advantages of one group's rewards, as the usual group-relative estimators have them.

They are the trainer's to compute, never stored: the same rows serve another estimator tomorrow. A
member without a reward is one that *we* failed to score. It says nothing of the policy, so it is in
no baseline and has no advantage; to count it as a zero would punish the policy for a lost machine.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, pstdev

EPSILON = 1e-6
"""Added to the standard deviation, so that a group of nearly equal rewards is not blown up."""
FLAT = 1e-6
"""Rewards that differ by no more are equal: there is nothing to learn from their group."""

Rewards = Sequence[float | None]


def advantages(rewards: Rewards, estimator: str = "grpo") -> list[float | None]:
    """The advantage of each member, in order; None for those without a reward.

    grpo      (r - mean) / std, of the group's scored members (DeepSeekMath, arXiv:2402.03300)
    dr_grpo   r - mean: no division, which favours easy and hard tasks (arXiv:2503.20783)
    rloo      r - mean of the others (arXiv:2402.14740)

    A group with a single scored member has no baseline: its advantage is 0. ValueError for an
    estimator that is none of these, and for a reward that is no number.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator {estimator!r} is none of {', '.join(ESTIMATORS)}")
    scored = [reward for reward in rewards if reward is not None]
    if not all(map(math.isfinite, scored)):
        raise ValueError(f"rewards must be finite, were {scored}")
    if len(scored) < 2:
        return [None if reward is None else 0.0 for reward in rewards]
    of = ESTIMATORS[estimator](scored)
    return [None if reward is None else of(reward) for reward in rewards]


def is_flat(rewards: Rewards) -> bool:
    """Whether all scored members have the same reward, or fewer than two are scored."""
    scored = [reward for reward in rewards if reward is not None]
    return len(scored) < 2 or max(scored) - min(scored) <= FLAT


def _grpo(scored: Sequence[float]) -> Callable[[float], float]:
    mean, deviation = fmean(scored), pstdev(scored)
    return lambda reward: (reward - mean) / (deviation + EPSILON)


def _dr_grpo(scored: Sequence[float]) -> Callable[[float], float]:
    mean = fmean(scored)
    return lambda reward: reward - mean


def _rloo(scored: Sequence[float]) -> Callable[[float], float]:
    total, others = math.fsum(scored), len(scored) - 1
    return lambda reward: reward - (total - reward) / others


ESTIMATORS: Mapping[str, Callable[[Sequence[float]], Callable[[float], float]]] = {
    "grpo": _grpo,
    "dr_grpo": _dr_grpo,
    "rloo": _rloo,
}
