"""The statistics of the table by arm, against cases worked out by hand and known tables."""

import itertools
import math

import numpy as np
import pytest

from rollout.report.estimates import (
    clustered_error,
    mean_interval,
    pass_at_k,
    percentiles,
    student_t_975,
    wilson,
)


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def test_clustered_error_of_four_rewards_in_two_tasks() -> None:
    # mean 1/2; sums of deviations per task: +1/2 and -1/2;
    # SE² = 2/1 · (1/4 + 1/4) / 4² = 1/16
    error = clustered_error(floats(1, 0.5, 0.5, 0), np.array([0, 0, 1, 1]))
    assert error == pytest.approx(0.25)


def test_equal_clusters_give_the_standard_error_of_the_task_means() -> None:
    rewards = floats(1, 1, 0, 1, 0, 0, 0.25, 0.5, 1, 1, 1, 1)
    tasks = np.repeat([0, 1, 2, 3], 3)
    means = rewards.reshape(4, 3).mean(axis=1)
    by_means = means.std(ddof=1) / math.sqrt(4)
    assert clustered_error(rewards, tasks) == pytest.approx(by_means)


def test_single_samples_give_the_plain_standard_error() -> None:
    rewards = floats(0, 1, 1, 0, 1)
    plain = rewards.std(ddof=1) / math.sqrt(5)
    assert clustered_error(rewards, np.arange(5)) == pytest.approx(plain)


def test_repeating_a_sample_does_not_narrow_the_interval() -> None:
    rewards, tasks = floats(0, 1, 1, 0.5), np.arange(4)
    once = mean_interval(rewards, tasks)
    tenfold = mean_interval(np.repeat(rewards, 10), np.repeat(tasks, 10))
    assert once is not None
    assert tenfold is not None
    assert (tenfold.low, tenfold.high) == pytest.approx((once.low, once.high))


def test_interval_uses_students_t_for_few_tasks() -> None:
    # Three task means 0, 1/2, 1: SE = 0.5/√3; t(0.975, 2) = 4.30265.
    interval = mean_interval(floats(0, 0.5, 1), np.array([0, 1, 2]))
    assert interval is not None
    assert interval.high - 0.5 == pytest.approx(4.30265 * 0.5 / math.sqrt(3), rel=1e-5)
    assert interval.low == pytest.approx(1 - interval.high)


def test_all_solved_is_not_certainty() -> None:
    interval = mean_interval(np.ones(96), np.repeat(np.arange(12), 8))
    assert interval == wilson(1.0, 12)
    assert interval.low == pytest.approx(12 / (12 + 1.959964**2))
    assert interval.high == 1.0


def test_none_solved_is_not_certainty() -> None:
    interval = mean_interval(np.zeros(96), np.repeat(np.arange(12), 8))
    assert interval is not None
    assert interval.low == 0.0
    assert interval.high == pytest.approx(1.959964**2 / (12 + 1.959964**2))


def test_one_task_or_no_spread_has_no_interval() -> None:
    assert mean_interval(floats(0, 1, 1), np.array([0, 0, 0])) is None
    assert mean_interval(floats(0.5, 0.5), np.array([0, 1])) is None


def test_wilson_against_a_published_value() -> None:
    # 9 of 10: the well-known [0.5958, 0.9821].
    interval = wilson(0.9, 10)
    assert (interval.low, interval.high) == pytest.approx((0.5958, 0.9821), abs=1e-4)


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [
        (1, 12.7062),
        (2, 4.3027),
        (3, 3.1824),
        (5, 2.5706),
        (11, 2.2010),
        (30, 2.0423),
        (97, 1.9847),
    ],
)
def test_student_t_against_the_table(freedom: int, expected: float) -> None:
    assert student_t_975(freedom) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(("n", "passed", "k"), [(4, 1, 2), (5, 2, 3), (6, 0, 4), (3, 3, 2)])
def test_pass_at_k_is_the_share_of_subsets_with_a_pass(n: int, passed: int, k: int) -> None:
    samples = [True] * passed + [False] * (n - passed)
    subsets = list(itertools.combinations(samples, k))
    assert pass_at_k(n, passed, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_refuses_too_few_samples() -> None:
    with pytest.raises(ValueError, match="pass@8 needs n >= 8"):
        pass_at_k(4, 1, 8)


def test_percentiles_interpolate() -> None:
    assert percentiles(floats(*range(1, 102))) == (51.0, 96.0)
