"""`rollout.Environment`: the caller in the agent's place, in the very episode of a run."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rollout import Environment
from rollout.errors import ConfigError, RolloutError

ROOT = Path(__file__).parent.parent
ENGINES = ["memory", pytest.param("native", marks=pytest.mark.native)]


@pytest.fixture(params=ENGINES)
def words(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """A config of two tasks that pass when their file is there."""
    rows = [
        {"id": name, "instruction": f"make {name}", "command": f"test -e {name}"}
        for name in ("this", "that")
    ]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        "task=jsonl",
        f"task.path={tmp_path}/tasks.jsonl",
        "scorer=command",
        f"store.uri={tmp_path}/runs",
        f"engine={request.param}",
        f"engine.root_dir={tmp_path}/engine",
    ]


async def test_steps_share_a_shell_and_the_last_one_brings_the_reward(words: list[str]) -> None:
    async with Environment(words) as env:
        assert env.tasks == ("this", "that")
        observation, info = await env.reset("that")
        assert (observation, info) == ("make that", {"task_id": "that"})
        seen = await env.step("mkdir sub; cd sub; echo hello; ls nothing")
        assert seen[0].startswith("hello\n")
        assert "nothing" in seen[0]
        assert seen[1:4] == (0.0, False, False)
        assert seen[4]["timed_out"] is False
        await env.step("touch ../that")
        _, reward, terminated, truncated, info = await env.finish()
        assert (reward, terminated, truncated, info["outcome"]) == (1.0, True, False, "ok")
        said = [m.content for m in info["trajectory"].messages if m.role == "assistant"]
        assert said == ["mkdir sub; cd sub; echo hello; ls nothing", "touch ../that"]
        with pytest.raises(RolloutError, match="call reset"):
            await env.step("ls")


async def test_an_episode_that_is_too_long_is_scored_on_what_it_left(words: list[str]) -> None:
    async with Environment(words, max_steps=2) as env:
        await env.reset()
        await env.step("touch this")
        observation, reward, terminated, truncated, info = await env.step("echo late")
        assert (observation, reward, terminated, truncated) == ("late\n", 1.0, False, True)
        assert info["outcome"] == "max_turns"


async def test_reset_gives_up_what_runs_and_begins_anew(words: list[str]) -> None:
    async with Environment(words) as env:
        for _ in range(3):
            await env.reset()
            observation, *_ = await env.step("ls; touch this")
            assert observation == ""
        assert (await env.finish())[1] == 1.0


async def test_what_we_could_not_score_has_no_reward(words: list[str], tmp_path: Path) -> None:
    row = {"id": "x", "instruction": "make x", "command": "/no/such/program"}
    (tmp_path / "tasks.jsonl").write_text(json.dumps(row) + "\n")
    async with Environment(words) as env:
        await env.reset()
        _, reward, *_, info = await env.finish()
        assert (reward, info["outcome"]) == (None, "scoring_error")


async def test_a_command_that_hangs_is_cut_off_and_the_episode_goes_on(words: list[str]) -> None:
    async with Environment(words, command_timeout_s=0.5) as env:
        await env.reset()
        observation, *_, info = await env.step("sleep 60")
        assert "cut off after 0.5 s" in observation
        assert info["timed_out"]
        await env.step("touch this")
        assert (await env.finish())[1] == 1.0


@pytest.mark.native
@pytest.mark.docs
def test_the_readmes_environment_runs_as_printed(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (code,) = (block for block in blocks if "rollout.Environment(" in block)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "ok 0.0\n"), done.stderr


async def test_what_cannot_be_is_said_at_once(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="one arm"):
        await Environment([*words, "+sweep.timeouts.multiplier=[1,2]"]).__aenter__()
    async with Environment(words) as env:
        with pytest.raises(ConfigError, match='did you mean "that"'):
            await env.reset("thaat")
        with pytest.raises(RolloutError, match="call reset"):
            await env.step("ls")
