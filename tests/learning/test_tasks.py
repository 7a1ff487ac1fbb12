"""The generated tasks, each in a real sandbox: the right command solves it, nothing else does."""

import pytest

from rollout import Environment
from rollout.errors import ConfigError
from rollout.learning.tasks import KINDS, ShellTasks
from rollout.learning.words import FILES, VERBS

RIGHT = dict(zip(("read", "count", "find", "rename", "edit"), VERBS, strict=False))


def test_the_same_seed_makes_the_same_tasks() -> None:
    first, again, other = (ShellTasks(count=30, seed=seed).load() for seed in (1, 1, 2))
    assert [task.digest for task in first] == [task.digest for task in again]
    assert all(a.digest != b.digest for a, b in zip(first, other, strict=True))
    assert len({task.id for task in first}) == 30
    for task in first:
        texts = [
            data
            for step in task.blueprint.steps
            if step.tree
            for data in step.tree.files().values()
        ]
        assert len({text.count(b"\n") for text in texts}) == len(FILES), "the wrong file is wrong"
    with pytest.raises(ConfigError, match=r"task\.count"):
        ShellTasks(count=0)


@pytest.mark.native
async def test_the_right_command_solves_each_kind_and_others_do_not(tmp_path: object) -> None:
    words = ["task=shell_words", "scorer=command", "verifier.mode=fork", "engine=native"]
    async with Environment([*words, f"store.uri={tmp_path}"]) as env:
        for task_id in env.tasks[: len(KINDS)]:
            kind, letter, _ = task_id.split("-")
            name = f"{letter}.txt"
            for verb in VERBS[: len(KINDS)]:
                assert await rewards(env, task_id, verb + name) == (verb == RIGHT[kind])
            assert await rewards(env, task_id, RIGHT[kind] + FILES[3]) == 0.0, "another file"


async def rewards(env: Environment, task_id: str, command: str) -> float | None:
    await env.reset(task_id)
    await env.step(command)
    return (await env.finish())[1]
