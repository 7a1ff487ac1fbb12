"""Which task comes next, by how the tasks went."""

import random
from collections import Counter

import pytest

from rollout.compose import compose
from rollout.errors import ConfigError
from rollout.plugins import make, plugin_of
from rollout.samplers.base import History, Sampler
from rollout.samplers.curricula import DropSolved, RecentSuccess, RetryFailed
from rollout.samplers.uniform import Uniform

TASKS = ("always", "half", "never", "new")


def history() -> History:
    told = History(TASKS)
    for number in range(16):
        told.add("always", 1.0)
        told.add("half", float(number % 2))
        told.add("never", 0.0)
    return told


def drawn(sampler: Sampler, told: History, count: int = 4_000) -> Counter[str | None]:
    rng = random.Random(1)
    counts: Counter[str | None] = Counter()
    for _ in range(count):
        task_id = sampler.choose(told, rng)
        counts[task_id] += 1
        if task_id is not None:
            told.draw(task_id)
    return counts


def test_uniform_draws_each_as_often_as_the_others() -> None:
    assert drawn(Uniform(), history()) == dict.fromkeys(TASKS, 1_000)


def test_recent_success_looks_for_what_is_solved_now_and_then() -> None:
    counts = drawn(RecentSuccess(floor=0.1), history())
    weights = {"always": 0.1, "half": 1.0, "never": 0.1, "new": 1.0}
    for task_id, weight in weights.items():
        assert counts[task_id] / 4_000 == pytest.approx(weight / 2.2, abs=0.03)


def test_drop_solved_leaves_out_what_is_solved_and_ends_when_all_is() -> None:
    told = history()
    assert set(drawn(DropSolved(solved=0.9, rollouts=8), told)) == {"half", "never", "new"}
    for task_id in TASKS:
        for _ in range(32):
            told.add(task_id, 1.0)
    assert DropSolved().choose(told, random.Random(1)) is None


def test_drop_solved_does_not_believe_a_single_success() -> None:
    told = History(["lucky"])
    told.add("lucky", 1.0)
    assert DropSolved(rollouts=8).choose(told, random.Random(1)) == "lucky"


def test_retry_failed_comes_back_to_failures_and_to_what_we_failed() -> None:
    told = history()
    told.add("new", None)
    counts = drawn(RetryFailed(share=0.5, below=0.5), told)
    assert counts["never"] + counts["new"] == pytest.approx(2_000, rel=0.1)
    assert counts["always"] > 0
    assert drawn(RetryFailed(share=0.0), history()) == dict.fromkeys(TASKS, 1_000)


def test_what_we_failed_is_no_zero() -> None:
    told = History(["a"])
    told.add("a", None)
    told.add("a", 1.0)
    assert (told.mean("a"), told.failed("a")) == (1.0, 1)


@pytest.mark.parametrize("name", ["uniform", "recent_success", "drop_solved", "retry_failed"])
def test_each_option_of_the_group_makes_its_sampler(name: str) -> None:
    conf = compose(["task=quickstart", f"sampler={name}", "online.batch=1"]).conf
    assert make(plugin_of(conf.sampler)).choose(history(), random.Random(1)) in TASKS


def test_a_misspelt_argument_is_said_before_anything_starts() -> None:
    words = ["task=quickstart", "sampler=drop_solved", "+sampler.solve=1", "online.batch=1"]
    with pytest.raises(ConfigError, match=r'sampler\.solve: unknown key; did you mean "solved"\?'):
        compose(words)
