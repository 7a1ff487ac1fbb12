"""Gymnasium's own checker, and an episode by hand."""

import math
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit

from rollout.errors import ConfigError
from rollout.online.gymnasium_environment import DONE, ShellEnv
from tests.online.test_source import TASKS, config_of

pytestmark = pytest.mark.native


@pytest.fixture
def env(tmp_path: Path) -> Iterator[ShellEnv]:
    made = ShellEnv(config_of(tmp_path), max_steps=3)
    yield made
    made.close()
    made.close()  # is no error


def test_gymnasium_itself_finds_nothing_wrong(env: ShellEnv) -> None:
    check_env(env, skip_render_check=True)


def test_an_episode_is_scored_when_it_is_done(env: ShellEnv) -> None:
    assert env.tasks == TASKS
    observation, info = env.reset(options={"task_id": "b"})
    assert (observation, info) == ("make b", {"task_id": "b"})
    observation, reward, terminated, truncated, info = env.step("echo hello; touch b")
    assert ("hello" in observation, reward, terminated, truncated) == (True, 0.0, False, False)
    _, reward, terminated, truncated, info = env.step(DONE)
    assert (reward, terminated, truncated, info["outcome"]) == (1.0, True, False, "ok")


def test_a_seed_draws_the_same_tasks_and_a_wrapper_cuts_it_short(env: ShellEnv) -> None:
    drawn = [[env.reset(seed=seed)[1]["task_id"]] for seed in (1, 1, 2, 3, 4, 5)]
    assert drawn[0] == drawn[1]
    assert len({task for (task,) in drawn}) > 1
    limited: gymnasium.Env[str, str] = TimeLimit(env, max_episode_steps=1)
    limited.reset()
    assert limited.step("true")[2:4] == (False, True)


def test_where_we_fail_the_reward_is_no_number(tmp_path: Path) -> None:
    config = [word for word in config_of(tmp_path) if word != "scorer=command"]
    env = ShellEnv([*config, "scorer=pytest", "scorer.paths=[x.py]", "scorer.python=/no/such"])
    try:
        env.reset()
        _, reward, terminated, _, info = env.step(DONE)
        assert (math.isnan(reward), terminated) == (True, True), info
    finally:
        env.close()
    with pytest.raises(ConfigError, match="none_such"):
        ShellEnv(["task=none_such"])
