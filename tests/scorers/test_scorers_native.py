"""What only real users and permissions can show about scoring."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rollout.aio import Deadline
from rollout.config import EngineConf
from rollout.errors import ScoreError
from rollout.sandbox.base import Engine, SandboxSpec
from rollout.sandbox.native import NativeEngine
from rollout.scorers.harbor import HarborVerifier
from rollout.types import Blueprint, BuildStep, Task, Tree, Verifier

pytestmark = pytest.mark.native
TESTS = Tree.of({"test.sh": "id -un; echo 1 > /logs/verifier/reward.txt\n"})
AS_NOBODY = Blueprint(steps=(BuildStep(op="user", value="nobody"),))


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    made = NativeEngine(EngineConf(root_dir=str(tmp_path / "engine")))
    await made.start()
    try:
        yield made
    finally:
        await made.close()


@pytest.mark.parametrize(
    ("blueprint", "user", "who"),
    [(AS_NOBODY, "", "nobody"), (AS_NOBODY, "root", "root"), (Blueprint(), "nobody", "nobody")],
    ids=["image's", "root", "verifier's"],
)
async def test_whoever_the_verifier_runs_as_can_write_the_reward(
    engine: Engine, blueprint: Blueprint, user: str, who: str
) -> None:
    box = await engine.create(SandboxSpec.for_blueprint(await engine.build(blueprint), blueprint))
    task = Task(id="t", instruction="x", tests=TESTS, verifier=Verifier(user=user))
    verdict = await HarborVerifier().score(task, box, Deadline.after(20))
    assert (verdict.reward, verdict.output) == (1.0, f"{who}\n")


@pytest.mark.parametrize("what", ["mkfifo", "ln -s /dev/zero", "head -c 100000 /dev/zero >"])
async def test_a_hostile_reward_file_gives_no_verdict(engine: Engine, what: str) -> None:
    box = await engine.create(SandboxSpec(image=await engine.build(Blueprint())))
    tests = Tree.of({"test.sh": f"#!/bin/sh\n{what} /logs/verifier/reward.json\n"})
    with pytest.raises(ScoreError, match=r"reward\.json cannot be read"):
        await HarborVerifier().score(
            Task(id="t", instruction="x", tests=tests), box, Deadline.after(20)
        )
