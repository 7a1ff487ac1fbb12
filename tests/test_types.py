"""Digests and ids: what changes a result changes them, nothing else does."""

import dataclasses

import pytest

from rollout.types import (
    Arm,
    Blueprint,
    BuildStep,
    Outcome,
    Plugin,
    Resources,
    Task,
    Tree,
    Verifier,
    canonical_json,
    group_id,
    trajectory_id,
)

ARM = Arm(name="a", agent=Plugin(target="x.Y"), scorer=Plugin(target="x.Z"))
TASK = Task(id="t", instruction="do it")


def test_outcomes_of_ours_are_never_scored() -> None:
    scored = {o for o in Outcome if o.scored}
    assert scored == {
        "ok",
        "max_turns",
        "budget",
        "context_overflow",
        "agent_timeout",
        "agent_error",
        "out_of_memory",
        "out_of_disk",
    }


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical_json({"b": 1, "a": (1, 2)}) == canonical_json({"a": [1, 2], "b": 1})


@pytest.mark.parametrize(
    "change",
    [
        {"instruction": "do that"},
        {"blueprint": Blueprint(resources=Resources(memory_mb=64))},
        {"tests": Tree.of({"test.sh": "exit 0"})},
        {"verifier": Verifier(timeout_s=1)},
        {"agent_timeout_s": 3.0},
    ],
)
def test_task_digest_covers_what_changes_a_result(change: dict[str, object]) -> None:
    assert dataclasses.replace(TASK, **change).digest != TASK.digest


def test_task_digest_leaves_out_what_is_only_told() -> None:
    told = dataclasses.replace(TASK, metadata='{"author": "x"}', dataset="d", split="train")
    assert told.digest == TASK.digest


def test_arm_digest_ignores_its_name_but_not_its_agent() -> None:
    assert dataclasses.replace(ARM, name="b", settings=(("k", "v"),)).digest == ARM.digest
    assert dataclasses.replace(ARM, agent=Plugin(target="x.Other")).digest != ARM.digest


def test_blueprints_that_differ_in_limits_share_an_image() -> None:
    step = BuildStep(op="put", dest="/app", tree=Tree.of({"a": "1"}))
    small = Blueprint(steps=(step,), resources=Resources(memory_mb=64))
    large = Blueprint(steps=(step,), resources=Resources(memory_mb=128))
    other = Blueprint(steps=(dataclasses.replace(step, tree=Tree.of({"a": "2"})),))
    assert small.image_digest == large.image_digest != other.image_digest
    assert small.digest != large.digest


def test_ids_are_stable_for_ever() -> None:
    """Datasets of earlier versions are resumed by these; a change here loses or doubles rows."""
    assert trajectory_id("run", "arm", "task", 3) == "46f4ddb2eb260596b56bec7cc8e221af"
    assert group_id("run", "arm", "task") != trajectory_id("run", "arm", "task", 0)


def test_tree_without_leaves_out_by_path_name_and_folder() -> None:
    tree = Tree.of({"a/b.pyc": "", "a/c.py": "", "cache/x": "", "d": ""})
    kept = [entry.path for entry in tree.without(["*.pyc", "cache"]).entries]
    assert kept == ["a/c.py", "d"]
