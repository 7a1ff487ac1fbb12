"""Tasks out of JSON lines."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rollout.compose import Composed, compose
from rollout.errors import ConfigError
from rollout.plugins import plugin_of
from rollout.sandbox.base import Image, SandboxSpec
from rollout.tasks.jsonl import JsonlTasks
from rollout.types import Blueprint, BuildStep, Resources, ScoreMode, Task, Tree


def source(tmp_path: Path, lines: list[Any], **settings: Any) -> JsonlTasks:
    file = tmp_path / "tasks.jsonl"
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    file.write_text("\n".join(texts))
    return JsonlTasks(path=str(file), **settings)


def load(tmp_path: Path, lines: list[Any], **settings: Any) -> list[Task]:
    return source(tmp_path, lines, **settings).load()


def files_of(task: Task) -> dict[str, bytes]:
    return (task.blueprint.steps[-1].tree or Tree()).files()


def test_own_names(tmp_path: Path) -> None:
    line = {
        "id": 7,
        "instruction": "Do it.",
        "files": {"a/b.py": "x = 1\n", "run": "#!/bin/sh\n"},
        "tests": {"test.sh": "exit 0"},
        "solution": "echo done",
        "command": "true",
        "timeout_s": 30,
        "level": "easy",
    }
    (task,) = load(tmp_path, [line], cpu=0.5, blueprint={"env": {"A": "b"}}, verifier_timeout_s=9)
    assert not task.blueprint.sudo
    assert (task.id, task.instruction, task.agent_timeout_s) == ("7", "Do it.", 30.0)
    assert files_of(task) == {"a/b.py": b"x = 1\n", "run": b"#!/bin/sh\n"}
    assert task.blueprint.steps[0].dest == "/app"
    assert task.blueprint.env == (("A", "b"),)
    assert task.blueprint.resources == Resources(cpu=0.5)
    assert task.tests.files() == {"test.sh": b"exit 0"}
    assert task.solution.files() == {"solve.sh": b"echo done"}
    assert (task.verifier.command, task.verifier.timeout_s) == ("true", 9.0)
    assert task.verifier.mode is ScoreMode.FORK
    assert not task.limits_imported
    assert json.loads(task.metadata) == {"level": "easy"}
    assert task.dataset == "tasks"


def test_sudo_goes_from_the_config_to_the_sandbox(tmp_path: Path) -> None:
    composed = compose(["task=jsonl", "task.path=x", "blueprint.sudo=true"])
    (task,) = load(tmp_path, [{"id": 1, "instruction": "x"}], blueprint=in_task(composed))
    image = Image(engine="memory", digest="d")
    spec = SandboxSpec.for_blueprint(image, task.blueprint)
    assert spec.sudo
    assert spec.fingerprint != replace(spec, sudo=False).fingerprint


def in_task(composed: Composed) -> dict[str, Any]:
    """The run's blueprint as the task source gets it."""
    blueprint: dict[str, Any] = plugin_of(composed.conf.task).kwargs()["blueprint"]
    return blueprint


def test_a_line_may_change_single_words_of_the_blueprint(tmp_path: Path) -> None:
    words = ["blueprint.workdir=/w", "blueprint.env={A: b}", "blueprint.steps=[{run: make}]"]
    composed = compose(["task=jsonl", "task.path=x", *words, "blueprint.size=small"])
    own = {"base": "host-frozen", "size": "x_small", "resources": {"memory_mb": 9}}
    lines = [GOOD, {"id": "b", "instruction": "x", "files": {"f": ""}, "blueprint": own}]
    plain, other = load(tmp_path, lines, cpu=7, blueprint=in_task(composed))
    assert plain.blueprint == Blueprint(
        name="host",
        steps=(
            BuildStep(op="workdir", dest="/w"),
            BuildStep(op="run", argv=("/bin/sh", "-c", "make")),
        ),
        env=(("A", "b"),),
        resources=Resources(cpu=7),
    )
    assert other.blueprint.base == "host-frozen"
    assert other.blueprint.steps[:2] == plain.blueprint.steps
    assert other.blueprint.steps[2].dest == "/w"
    assert other.blueprint.resources == Resources(cpu=0.5, memory_mb=9, disk_mb=4096)
    assert json.loads(other.metadata) == {}


def test_mapped_fields_and_templates(tmp_path: Path) -> None:
    line = {"meta": {"name": "p-1"}, "prompt": "Add", "test": "assert add(1, 2) == 3", "n": 3}
    (task,) = load(
        tmp_path,
        [line],
        fields={"id": "meta.name"},
        templates={
            "instruction": "${prompt} $n numbers for $$5.",
            "tests": {"check.py": "${test}\n", "test.sh": "python3 check.py"},
        },
    )
    assert task.id == "p-1"
    assert task.instruction == "Add 3 numbers for $5."
    assert task.tests.files()["check.py"] == b"assert add(1, 2) == 3\n"
    assert json.loads(task.metadata) == {"prompt": "Add", "test": line["test"], "n": 3}


def test_order_selection_and_blank_lines(tmp_path: Path) -> None:
    lines = [{"id": name, "instruction": "x"} for name in "cab"]
    assert [task.id for task in load(tmp_path, [*lines, " "])] == ["c", "a", "b"]
    assert [task.id for task in load(tmp_path, lines, exclude="a", limit=1)] == ["c"]
    shuffled = [task.id for task in load(tmp_path, lines, shuffle_seed=3)]
    assert shuffled == [task.id for task in load(tmp_path, lines, shuffle_seed=3)]
    assert sorted(shuffled) == ["a", "b", "c"]


GOOD = {"id": "a", "instruction": "x"}


@pytest.mark.parametrize(
    ("line", "settings", "said"),
    [
        ("{", {}, "line 2: the line: is no JSON"),
        ([1], {}, "line 2: the line: saw [1]; use an object"),
        ({"instruction": "x"}, {}, "line 2: id: is missing or empty"),
        ({"id": True, "instruction": "x"}, {}, "line 2: id: saw True; use a string"),
        (GOOD, {}, "line 2: id: saw 'a', which line 1 has"),
        ({"id": "b"}, {}, "line 2 (b): instruction: is missing or empty"),
        ({"id": "b", "instruction": 3}, {}, "line 2 (b): instruction: saw 3; use a string"),
        ({"id": "b", "instruction": "\ud800"}, {}, "line 2 (b): instruction: saw"),
        ({**GOOD, "id": "b", "files": ["x"]}, {}, "line 2 (b): files: saw ['x']; use an object"),
        ({**GOOD, "id": "b", "files": {"../x": ""}}, {}, "files: saw the path '../x'"),
        ({**GOOD, "id": "b", "files": {"/x": ""}}, {}, "files: saw the path '/x'"),
        ({**GOOD, "id": "b", "tests": {"a": "\udcff"}}, {}, "tests: 'a' holds half a character"),
        ({**GOOD, "id": "b", "timeout_s": 0}, {}, "timeout_s: saw 0; use seconds above 0"),
        ({**GOOD, "id": "b", "timeout_s": "5"}, {}, "timeout_s: saw '5'"),
        ({**GOOD, "id": "b", "blueprint": "big"}, {}, "blueprint: saw 'big'; use an object"),
        ({**GOOD, "id": "b", "blueprint": {"size": "big"}}, {}, "blueprint.size: 'big' is none of"),
        ({**GOOD, "id": "b", "blueprint": {"ready": "x"}}, {}, "blueprint.ready: is the whole run"),
        ({**GOOD, "id": "b", "files": {"x": "y" * 99}}, {"size_limit_mb": 5e-5}, "files: x brings"),
    ],
)
def test_bad_lines_are_told_by_number_and_field(
    tmp_path: Path, line: Any, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, [GOOD, line], **settings)
    assert said in str(caught.value)
    assert str(caught.value).startswith("1 task of ")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"fields": {"prompt": "x"}}, "task.fields.prompt: unknown part of a task"),
        ({"fields": {"tests": 3}}, "task.fields.tests: saw 3"),
        ({"templates": {"timeout_s": "3"}}, "task.templates.timeout_s: no such part"),
        ({"templates": {"command": 3}}, "task.templates.command: saw 3"),
        ({"fields": {"tests": "tset"}}, "line 1 (a): tset: the line has no such field"),
        ({"templates": {"command": "$idd"}}, "template command: the line has no field 'idd'; did"),
        ({"templates": {"command": "cost $5"}}, "write $$ for a dollar sign"),
        ({"blueprint": {"workdir": "app"}}, "blueprint.workdir: saw 'app'"),
        ({"blueprint": {"bace": "host"}}, "task.blueprint.bace: unknown key; did you mean 'base'?"),
    ],
)
def test_wrong_settings(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, [GOOD], **settings)
    assert said in str(caught.value)


def test_all_bad_lines_are_one_error_and_skip_leaves_them_out(tmp_path: Path) -> None:
    lines = [GOOD, "{", {"id": "b"}, {"id": "c", "instruction": "x"}]
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, lines)
    assert "line 2: " in str(caught.value)
    assert "line 3 (b): " in str(caught.value)
    tasks = source(tmp_path, lines, on_error="skip")
    assert [task.id for task in tasks.load()] == ["a", "c"]
    assert len(tasks.skipped) == 2


def test_empty_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no line"):
        load(tmp_path, [])
    with pytest.raises(ConfigError, match=r"did you mean 'tasks\.jsonl'"):
        JsonlTasks(path=str(tmp_path / "task.jsonl")).load()
    with pytest.raises(ConfigError, match="is a folder"):
        JsonlTasks(path=str(tmp_path)).load()
