"""Which tasks a run takes."""

import pytest

from rollout.errors import ConfigError
from rollout.tasks.select import Selection

IDS = [f"task-{number:02}" for number in range(20)]


def order(**settings: object) -> list[str]:
    given: dict[str, object] = {
        "include": (),
        "exclude": (),
        "limit": None,
        "shuffle_seed": None,
        "on_error": "raise",
        **settings,
    }
    return Selection.of(**given).order(IDS, "here")  # type: ignore[arg-type]


def test_all_in_the_sources_order() -> None:
    assert order() == IDS


def test_include_and_exclude() -> None:
    assert order(include="task-0[1-3]", exclude=["*-02"]) == ["task-01", "task-03"]


def test_an_include_that_matches_nothing_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'taks-03' matches no task; did you mean 'task-03'"):
        order(include=["task-01", "taks-03"])


def test_nothing_left() -> None:
    with pytest.raises(ConfigError, match="leave none of the 20 tasks"):
        order(exclude="*")


def test_a_shuffle_is_the_same_every_time_and_differs_by_seed() -> None:
    first = order(shuffle_seed=1)
    assert first == order(shuffle_seed=1)
    assert sorted(first) == IDS
    assert first not in (IDS, order(shuffle_seed=2))


def test_a_task_more_moves_no_other() -> None:
    shuffled = order(shuffle_seed=5)
    fewer = order(shuffle_seed=5, exclude="task-07")
    assert fewer == [task_id for task_id in shuffled if task_id != "task-07"]


def test_shuffle_is_pinned() -> None:
    """The order is part of what makes two runs with `limit` comparable: it may never change."""
    assert order(shuffle_seed=0)[:4] == PINNED


PINNED = ["task-12", "task-19", "task-13", "task-03"]
