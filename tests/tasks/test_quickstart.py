"""The shipped tasks: each is solved by its own solution and by nothing else."""

import tomllib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from rollout.agents.base import Agent
from rollout.agents.nop import Nop
from rollout.agents.oracle import Oracle
from rollout.aio import Deadline
from rollout.config import EngineConf
from rollout.sandbox.base import Engine, SandboxSpec
from rollout.sandbox.native import NativeEngine
from rollout.scorers.harbor import HarborVerifier
from rollout.tasks.harbor import HarborTasks
from rollout.transcript import Transcript
from rollout.types import ScoreMode, Task

PATH = "pkg://rollout/tasks/quickstart"
IMAGES = {"python:3.11-slim": "host"}
TASKS = {
    task.id: task for task in HarborTasks(path=PATH, images=IMAGES, default_mode="fork").load()
}


def folders() -> Iterator[Path]:
    root = Path(__file__).parents[2] / "rollout/tasks/quickstart"
    return (path for path in sorted(root.iterdir()) if path.is_dir())


def test_there_are_enough_of_them() -> None:
    assert len(TASKS) >= 12


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_each_is_whole(task: Task) -> None:
    assert task.instruction.startswith("# ")
    assert Oracle().problems(task) is None
    assert HarborVerifier().problems(task) is None
    assert task.verifier.mode is ScoreMode.FORK
    assert task.blueprint.resources.memory_mb
    assert not any("/tests" in step.dest for step in task.blueprint.steps)


def test_each_says_its_category_and_needs_no_network() -> None:
    for folder in folders():
        declared = tomllib.loads((folder / "task.toml").read_text())
        assert {"category", "difficulty", "tags"} <= set(declared["metadata"])
        assert declared["environment"]["network_mode"] == "no-network"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    made = NativeEngine(EngineConf(root_dir=str(tmp_path_factory.mktemp("engine"))))
    await made.start()
    try:
        yield made
    finally:
        await made.close()


async def reward(engine: Engine, task: Task, agent: Agent) -> float:
    """One rollout by hand, scored in a clean sandbox on what the agent left."""
    image = await engine.build(task.blueprint)
    box = await engine.create(SandboxSpec.for_blueprint(image, task.blueprint))
    try:
        await agent.run(task, box, None, Deadline.after(60), Transcript(lambda name: None))
        left = await box.end_as_image()
    finally:
        await box.close()
    try:
        clean = await engine.create(SandboxSpec.for_blueprint(left, task.blueprint))
        try:
            verdict = await HarborVerifier().score(task, clean, Deadline.after(60))
        finally:
            await clean.close()
    finally:
        await engine.discard(left)
    return verdict.reward


@pytest.mark.native
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
async def test_solution_gets_one_and_nothing_gets_zero(engine: Engine, task: Task) -> None:
    assert await reward(engine, task, Oracle()) == 1.0
    assert await reward(engine, task, Nop()) == 0.0
