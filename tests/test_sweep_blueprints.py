"""One run over several computers: two images and two sizes, by arm or by task."""

import json
from pathlib import Path

import pytest

import rollout
from rollout import build
from rollout.commands.preview import preview
from rollout.compose import compose, restore
from rollout.errors import ConfigError

OPTIONS = {
    "a": "base: host\nsize: x_small\nworkdir: /app\nenv: {WHO: a}\nsteps: [{run: 'echo a > is'}]\n",
    "b": "base: host\nsize: small\nworkdir: /app\nenv: {}\nsteps: [{run: 'echo b > is'}]\n",
}
COMMAND = 'test "$(cat /app/is)$WHO" = aa'


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A run of one task, over two blueprints of a folder of one's own."""
    (tmp_path / "conf/blueprint").mkdir(parents=True)
    for name, text in OPTIONS.items():
        (tmp_path / f"conf/blueprint/{name}.yaml").write_text(text)
    line = {"id": "one", "instruction": "go", "command": COMMAND, "files": {"f": "x"}}
    (tmp_path / "tasks.jsonl").write_text(json.dumps(line) + "\n")
    return [
        *("+experiment=jsonl", "~sweep.agent", "agent=nop", "engine=memory", "executor=local"),
        *("name=both", f"task.path={tmp_path}/tasks.jsonl", f"store.uri={tmp_path}/runs"),
        *("resources.unenforceable=record", "store.flush_s=0.2", "samples=2"),
    ]


def test_arms_of_two_images_and_two_sizes_are_one_run(tmp_path: Path, words: list[str]) -> None:
    swept, folder = [*words, "+sweep.blueprint=[a,b]"], str(tmp_path / "conf")
    composed = compose(swept, folder)
    assert restore(composed.saved).points == composed.points
    with rollout.run(swept, config_dir=folder) as data:
        rows = data.scan(columns=["arm", "reward", "blueprint_digest", "task_digest"]).to_pylist()
    assert sorted((row["arm"], row["reward"]) for row in rows) == [
        *(("blueprint=a", 1.0), ("blueprint=a", 1.0)),
        *(("blueprint=b", 0.0), ("blueprint=b", 0.0)),
    ]
    assert len({(row["arm"], row["blueprint_digest"], row["task_digest"]) for row in rows}) == 2
    job = build.prepare(compose(swept, folder))
    assert job.standing.missing == 0
    sizes = {job.plan.tasks[0].blueprint.resources, job.plan.variants[0][1].blueprint.resources}
    assert {(size.cpu, size.memory_mb) for size in sizes} == {(0.5, 1024), (1.0, 2048)}
    (tmp_path / "conf/blueprint/b.yaml").write_text(OPTIONS["b"] + "ready: 'true'\n")
    for name, line in {
        "images": "2 on base host, for 2 tasks",
        "sandbox": "cpu 0.5, memory MB 1024, disk MB 4096, pids 1024, network none: 1 tasks",
        "launch": "ready when `true`: 1 tasks",
    }.items():
        other = compose([*swept, "name=other"], folder)
        assert f"{name:<9} {line}" in preview(build.prepare(other)).splitlines()
    with pytest.raises(ConfigError, match=r"arm blueprint=b: blueprint was '[0-9a-f]{64}', is"):
        build.prepare(compose(swept, folder))


def test_tasks_of_two_images_and_two_sizes_are_one_run(tmp_path: Path, words: list[str]) -> None:
    own = {"size": "small", "env": {"WHO": "b"}}
    line = {"id": "two", "instruction": "go", "command": COMMAND, "blueprint": own}
    with (tmp_path / "tasks.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    folder = str(tmp_path / "conf")
    with rollout.run([*words, "blueprint=a"], config_dir=folder) as data:
        rows = data.scan(columns=["task_id", "reward"]).to_pylist()
    assert sorted((row["task_id"], row["reward"]) for row in rows) == [
        *(("one", 1.0), ("one", 1.0), ("two", 0.0), ("two", 0.0))
    ]
