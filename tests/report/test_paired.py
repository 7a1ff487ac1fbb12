"""Arms compared task by task, against cases worked out by hand and against what must hold."""

import math

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.report.estimates import student_t_975
from rollout.report.paired import Difference, differences

Rows = list[tuple[str, str, float | None]]


def compared(
    *rows: tuple[str, str, float | None], arms: tuple[str, ...] = ("a", "b")
) -> Difference:
    return differences(table(list(rows)), arms)[0]


def table(rows: Rows) -> pa.Table:
    schema = pa.schema({"arm": pa.string(), "task_id": pa.string(), "reward": pa.float64()})
    names = schema.names
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema)


def test_each_task_against_itself() -> None:
    found = compared(
        ("a", "x", 0.0), ("a", "x", 1.0), ("b", "x", 1.0),
        ("a", "y", 0.0), ("b", "y", 0.5), ("b", "y", 0.0),
        ("a", "z", 1.0), ("b", "z", 1.0),
        ("a", "only a", 1.0), ("b", "only b", 0.0),
    )  # fmt: skip
    # The differences are 1/2, 1/4 and 0: mean 1/4, standard deviation 1/4.
    reach = student_t_975(2) * 0.25 / math.sqrt(3)
    assert (found.arm, found.against, found.tasks) == ("b", "a", 3)
    assert (found.higher, found.lower) == (2, 0)
    assert found.mean == pytest.approx(0.25)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((0.25 - reach, 0.25 + reach))


def test_hard_and_easy_tasks_do_not_widen_it() -> None:
    rows = [("a", str(n), n / 10) for n in range(10)]
    rows += [("b", str(n), n / 10 + (0.01 if n % 2 else 0.02)) for n in range(10)]
    found = compared(*rows)
    assert found.interval is not None
    assert 0.01 < found.interval.low < found.interval.high < 0.02


@pytest.mark.parametrize(
    ("rows", "tasks", "mean"),
    [
        ([], 0, None),
        ([("a", "x", 1.0)], 0, None),
        ([("a", "x", 1.0), ("b", "y", 1.0)], 0, None),
        ([("a", "x", 1.0), ("b", "x", 0.0)], 1, -1.0),
        ([("a", "x", 1.0), ("b", "x", 1.0), ("a", "y", 0.0), ("b", "y", 0.0)], 2, 0.0),
    ],
)
def test_what_says_too_little_has_no_interval(rows: Rows, tasks: int, mean: float | None) -> None:
    found = compared(*rows)
    assert (found.tasks, found.mean, found.interval) == (tasks, mean, None)


def test_one_arm_is_compared_with_nothing_and_three_with_the_first() -> None:
    rows: Rows = [("a", "x", 0.0), ("b", "x", 0.5), ("c", "x", 1.0)]
    assert differences(table(rows), ["a"]) == ()
    assert differences(table(rows), []) == ()
    found = differences(table(rows), ["a", "b", "c"])
    assert [(each.arm, each.against, each.mean) for each in found] == [
        ("b", "a", 0.5),
        ("c", "a", 1.0),
    ]


def test_what_has_no_reward_is_no_zero_and_is_told_of_both_arms() -> None:
    found = compared(
        ("a", "x", 0.0), ("b", "x", 1.0), ("b", "x", None),
        ("a", "y", None), ("b", "y", 1.0),
        ("a", "z", 1.0), ("b", "z", None), ("c", "z", None),
    )  # fmt: skip
    assert (found.tasks, found.mean, found.unscored) == (1, 1.0, 3)


rewards = st.floats(-5, 5).map(lambda value: round(value, 3))


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from("vwxyz"), st.one_of(st.none(), rewards))
    )
)
def test_the_other_way_round_it_is_the_same_with_another_sign(rows: Rows) -> None:
    one, other = compared(*rows), compared(*rows, arms=("b", "a"))
    assert (one.tasks, one.higher, one.lower) == (other.tasks, other.lower, other.higher)
    assert one.unscored == other.unscored == sum(reward is None for _, _, reward in rows)
    if one.mean is not None and other.mean is not None:
        assert one.mean == pytest.approx(-other.mean)
    if one.interval is not None and other.interval is not None:
        assert one.interval.low == pytest.approx(-other.interval.high)
        assert one.interval.low <= (one.mean or 0.0) <= one.interval.high


@given(st.lists(st.tuples(st.sampled_from("vwxyz"), rewards), min_size=1))
def test_arms_that_are_alike_differ_by_nothing(rows: list[tuple[str, float]]) -> None:
    found = compared(*((arm, task, reward) for arm in "ab" for task, reward in rows))
    assert (found.mean, found.interval, found.higher, found.lower) == (0.0, None, 0, 0)
