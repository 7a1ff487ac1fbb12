"""Scorers, on the memory engine. What has no trustworthy verdict is an error, never a zero."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from rollout.aio import Deadline
from rollout.errors import ConfigError, SandboxLost, ScoreError
from rollout.sandbox.base import Sandbox, SandboxSpec
from rollout.sandbox.memory import MemoryEngine
from rollout.scorers.base import Scorer, Verdict
from rollout.scorers.command import Command
from rollout.scorers.harbor import HarborVerifier, parse_rewards
from rollout.scorers.weighted import Weighted
from rollout.types import Blueprint, BuildStep, Score, Task, Tree, Verifier

BLUEPRINT = Blueprint(steps=(BuildStep(op="workdir", dest="/app"),))


@pytest.fixture
async def box() -> AsyncIterator[Sandbox]:
    engine = MemoryEngine()
    await engine.start()
    try:
        yield await engine.create(
            SandboxSpec.for_blueprint(await engine.build(BLUEPRINT), BLUEPRINT)
        )
    finally:
        await engine.close()


def task(test: str = "", **verifier: Any) -> Task:
    tests = Tree.of({"test.sh": f"#!/bin/sh\n{test}\n", "data": "secret"}) if test else Tree()
    return Task(id="t", instruction="x", tests=tests, verifier=Verifier(**verifier))


async def score(scorer: Scorer, work: Task, box: Sandbox, seconds: float = 20.0) -> Verdict:
    return await scorer.score(work, box, Deadline.after(seconds))


def txt(value: str) -> str:
    return f"echo '{value}' > /logs/verifier/reward.txt"


def as_json(value: str) -> str:
    return f"echo '{value}' > /logs/verifier/reward.json"


class TestHarbor:
    @pytest.mark.parametrize(
        ("test", "reward"),
        [
            (txt("1"), 1.0),
            (txt(" 0.25 "), 0.25),
            (txt("-1e-3"), -0.001),
            (txt("1") + "; exit 7", 1.0),
            (as_json('{"reward": 0.5, "style": 9}') + ";" + txt("1"), 0.5),
            (as_json('{"style": 3}'), 3.0),
            (as_json('{"a": 1, "b": 0.5}'), 0.75),
        ],
    )
    async def test_rewards(self, box: Sandbox, test: str, reward: float) -> None:
        assert (await score(HarborVerifier(), task(test), box)).reward == reward

    async def test_all_rewards_are_scores_and_output_is_kept(self, box: Sandbox) -> None:
        test = "echo out; echo err >&2; " + as_json('{"a": 1, "b": 0}')
        verdict = await score(HarborVerifier(), task(test), box)
        assert verdict.scores == (Score(name="a", value=1.0), Score(name="b", value=0.0))
        assert verdict.output == "out\nerr\n"

    @pytest.mark.parametrize(
        ("test", "said"),
        [
            ("echo hello", "no reward.json and no reward.txt in /logs/verifier, which holds noth"),
            ("echo hello", "it printed: hello"),
            ("echo x > /logs/verifier/other; exit 4", "which holds other; test.sh ended with"),
            ("exit 4", "exit code 4"),
            (": > /logs/verifier/reward.txt", "reward.txt is empty"),
            (": > /logs/verifier/reward.json;" + txt("1"), "reward.json is empty"),
            (txt("nan"), "the reward is nan, not finite"),
            (txt("inf"), "the reward is inf, not finite"),
            (txt("full marks"), "reward.txt holds b'full marks\\n', no verdict"),
            (as_json("{"), "reward.json holds b'{\\n', no verdict"),
            (as_json("1"), "reward.json holds b'1\\n'; it must be an object"),
            (as_json("{}"), "it must be an object of name to number"),
            (as_json('{"a": NaN}'), "'a' is nan, not finite"),
            (as_json('{"a": 1e999}'), "'a' is inf, not finite"),
            (as_json('{"a": true}'), "'a' is True, no number"),
            (as_json('{"a": "1"}'), "'a' is '1', no number"),
            (as_json('{"a": 1, "b": null}'), "'b' is None, no number"),
            ("mkdir /logs/verifier/reward.json", "reward.json cannot be read"),
            ("rm -r /logs/verifier", "nothing: the folder is gone"),
        ],
    )
    async def test_no_trustworthy_verdict(self, box: Sandbox, test: str, said: str) -> None:
        with pytest.raises(ScoreError) as caught:
            await score(HarborVerifier(), task(test), box)
        assert said in str(caught.value)
        assert str(caught.value).startswith("task t: ")

    async def test_a_timeout_is_no_verdict_even_with_a_reward(self, box: Sandbox) -> None:
        with pytest.raises(ScoreError, match="did not end within"):
            await score(HarborVerifier(), task(txt("1") + "; sleep 30"), box, seconds=0.3)

    async def test_nothing_the_agent_left_counts(self, box: Sandbox) -> None:
        await box.write_file("/tests/planted.py", b"planted")
        await box.write_file("/logs/verifier/reward.json", b'{"reward": 1}')
        test = "ls /tests /logs/verifier; " + txt("0")
        verdict = await score(HarborVerifier(), task(test), box)
        assert verdict.reward == 0.0
        assert "planted" not in verdict.output
        assert "reward.json" not in verdict.output

    async def test_a_planted_link_is_not_followed(self, box: Sandbox) -> None:
        await box.exec(["sh", "-c", "mkdir -p /mine /logs; echo keep > /mine/file"])
        await box.exec(["sh", "-c", "rm -rf /logs/verifier; ln -s /mine /logs/verifier"])
        await box.exec(["sh", "-c", "ln -s /mine /tests"])
        assert (await score(HarborVerifier(), task(txt("1")), box)).reward == 1.0
        assert await box.read_file("/mine/file") == b"keep\n"
        assert [e.path for e in (await box.get_tree("/mine")).entries] == ["file"]

    async def test_artifacts_stay(self, box: Sandbox) -> None:
        await box.write_file("/logs/artifacts/result", b"mine")
        verdict = await score(
            HarborVerifier(), task("cat /logs/artifacts/result; " + txt("1")), box
        )
        assert verdict.output == "mine"

    async def test_environment_folder_and_user(self, box: Sandbox) -> None:
        work = task('echo "$MODE"; pwd; id -u; ' + txt("1"), env=(("MODE", "hard"),), user="nobody")
        assert (await score(HarborVerifier(), work, box)).output == "hard\n/app\n65534\n"

    async def test_an_unknown_user_is_no_verdict(self, box: Sandbox) -> None:
        with pytest.raises(ScoreError, match="task t: scoring could not run"):
            await score(HarborVerifier(), task(txt("1"), user="nobody-there"), box)

    async def test_a_lost_sandbox_stays_lost(self, box: Sandbox) -> None:
        await box.close()
        with pytest.raises(SandboxLost):
            await score(HarborVerifier(), task(txt("1")), box)

    async def test_missing_tests_are_known_before(self, box: Sandbox) -> None:
        assert HarborVerifier().problems(task("true")) is None
        assert "no tests/test.sh" in str(HarborVerifier().problems(task()))
        with pytest.raises(ScoreError, match=r"no tests/test\.sh"):
            await score(HarborVerifier(), task(), box)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 50_000,
        b'{"a": 1' + b"0" * 400 + b"}",
        b"\xff\xfe",
        b'{"a": [1]}',
        b'{"a": -Infinity}',
    ],
)
def test_hostile_reward_files(data: bytes) -> None:
    for name in ("reward.json", "reward.txt"):
        with pytest.raises(ScoreError):
            parse_rewards(name, data)


class TestCommand:
    @pytest.mark.parametrize(
        ("command", "reward"), [("true", 1.0), ("false", 0.0), ("exit 3", 0.0)]
    )
    async def test_exit_code(self, box: Sandbox, command: str, reward: float) -> None:
        verdict = await score(Command(), task(command=command), box)
        assert verdict.reward == reward
        assert verdict.scores == (Score(name="command", value=reward),)

    async def test_the_tasks_own_goes_before_the_configs(self, box: Sandbox) -> None:
        scorer = Command(command="false", name="check")
        assert (await score(scorer, task(command="true"), box)).reward == 1.0
        assert (await score(scorer, task(), box)).scores == (Score(name="check", value=0.0),)

    async def test_tests_are_at_hand(self, box: Sandbox) -> None:
        verdict = await score(
            Command(command="cat /tests/data; /tests/test.sh"), task("exit 1"), box
        )
        assert (verdict.reward, verdict.output) == (0.0, "secret")

    @pytest.mark.parametrize(
        ("command", "said"),
        [
            ("no-such-program", "could not run (exit code 127)"),
            ("/app", "could not run (exit code 126)"),
            ("sleep 30", "did not end within"),
        ],
    )
    async def test_no_verdict(self, box: Sandbox, command: str, said: str) -> None:
        with pytest.raises(ScoreError) as caught:
            await score(Command(), task(command=command), box, seconds=0.5)
        assert said in str(caught.value)

    async def test_no_command_is_known_before(self, box: Sandbox) -> None:
        assert Command().problems(task(command="true")) is None
        assert Command(command="true").problems(task()) is None
        assert "set scorer.command" in str(Command().problems(task()))
        with pytest.raises(ScoreError, match=r"scorer\.command"):
            await score(Command(), task(), box)


def part(command: str, weight: float = 1.0) -> dict[str, Any]:
    target = {"_target_": "rollout.scorers.command.Command", "command": command}
    return {"scorer": target, "weight": weight}


class TestWeighted:
    async def test_sum(self, box: Sandbox) -> None:
        scorer = Weighted(
            parts={
                "tests": {"scorer": HarborVerifier(), "weight": 0.5},
                "lint": part("echo fine", 0.25),
                "size": part("false", 2.0),
            }
        )
        verdict = await score(scorer, task(txt("0.5")), box)
        assert verdict.reward == 0.5
        assert verdict.scores == (
            Score(name="tests", value=0.5, weight=0.5),
            Score(name="lint", value=1.0, weight=0.25),
            Score(name="size", value=0.0, weight=2.0),
        )
        assert "== lint: 1\nfine" in verdict.output

    async def test_a_part_without_verdict_fails_it_all(self, box: Sandbox) -> None:
        scorer = Weighted(parts={"a": part("true"), "b": part("no-such-program")})
        with pytest.raises(ScoreError, match=r"part b: task t: .*could not run"):
            await score(scorer, task(), box)

    def test_problems_of_parts(self) -> None:
        scorer = Weighted(parts={"a": part("true"), "b": {"scorer": HarborVerifier()}})
        assert scorer.problems(task("true")) is None
        assert str(scorer.problems(task())).startswith("part b: task t: it has no tests/test.sh")

    @pytest.mark.parametrize(
        ("parts", "said"),
        [
            ({}, "scorer.parts: is empty"),
            ({"a": {"weight": 1}}, "scorer.parts.a: saw"),
            ({"a": {"scorer": 3}}, "scorer.parts.a.scorer: saw 3"),
            ({"a": {"scorer": HarborVerifier(), "wieght": 1}}, "scorer.parts.a: saw"),
            ({"a": {"scorer": HarborVerifier(), "weight": "1"}}, "scorer.parts.a.weight: saw '1'"),
            (
                {"a": {"scorer": {"_target_": "rollout.scorers.harbor.Nothing"}}},
                "scorer.parts.a.scorer._target_",
            ),
            (
                {"a": {"scorer": {"_target_": "rollout.scorers.command.Command", "cmd": "x"}}},
                "scorer.parts.a.scorer.cmd: unknown key",
            ),
        ],
    )
    def test_wrong_settings(self, parts: dict[str, Any], said: str) -> None:
        with pytest.raises(ConfigError) as caught:
            Weighted(parts=parts)
        assert said in str(caught.value)
