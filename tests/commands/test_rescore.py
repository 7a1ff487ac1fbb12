"""`rescore`: end states scored again, as people start it, held against what the first run has."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import rollout
from tests.forked import Forked

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(os.geteuid() != 0, reason="end states are kept by root alone"),
]

TASKS = [
    {"id": "one", "instruction": "Write 1 to out.txt", "command": "grep -qx 1 out.txt"},
    {"id": "two", "instruction": "Write 2 to out.txt", "command": "grep -qx 2 out.txt"},
]
AGENT = "echo 1 > out.txt; echo x > /usr/local/tool; test $(hostname) = none || exit 3"
"""Right for one of the two; it ends badly, so its outcome is agent_error."""

JSONL = "task.path=tasks.jsonl"


class Place:
    """A folder of runs, and the command line in it."""

    def __init__(self, folder: Path, forked: Forked) -> None:
        self.folder, self.forked = folder, forked
        self.declare(TASKS)

    def declare(self, tasks: list[dict[str, Any]]) -> None:
        (self.folder / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))

    def call(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = self.forked.said([*words], cwd=self.folder)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def run(self, *words: str, code: int = 0) -> None:
        self.call(
            *(() if "samples=1" in words else ("samples=2",)),
            *(() if "+experiment=harbor" in words else ("+experiment=jsonl", JSONL)),
            *("name=first", "pool=cold", "~sweep", "agent=script"),
            *("executor=local", "executor.workers=1", f"engine.root_dir={self.folder}/root"),
            *(() if any("script=" in word for word in words) else (f"agent.script='{AGENT}'",)),
            *words,
            code=code,
        )

    def rows(self, name: str) -> dict[tuple[str, int], dict[str, Any]]:
        with rollout.open_dataset(str(self.folder / "runs" / name)) as dataset:
            rows: list[dict[str, Any]] = dataset.scan().to_pylist()
        return {(row["task_id"], row["sample_index"]): row for row in rows}


@pytest.fixture
def place(tmp_path: Path, forked: Forked) -> Place:
    return Place(tmp_path, forked)


def rewards(rows: dict[tuple[str, int], dict[str, Any]]) -> dict[str, set[float | None]]:
    return {task: {row["reward"] for at, row in rows.items() if at[0] == task}
            for task in ("one", "two")}  # fmt: skip


def test_another_scorer_on_the_same_states(place: Place) -> None:
    place.run("keep_on=[agent_error]")
    first = place.rows("first")
    assert rewards(first) == {"one": {1.0}, "two": {0.0}}
    place.call("rescore", "first", "scorer=file", "scorer.path=/app/out.txt", "scorer.gold='1'")
    again = place.rows("first-rescored")
    assert rewards(again) == {"one": {1.0}, "two": {1.0}}
    for at, row in again.items():
        before = first[at]
        assert row["trajectory_id"] != before["trajectory_id"]
        extra = json.loads(row["extra"])["rescored"]
        assert extra["trajectory_id"] == before["trajectory_id"]
        assert extra["run"] == str(place.folder / "runs/first")
        for column in ("outcome", "stop_reason", "messages", "steps", "agent_name", "blueprint"):
            assert row[column] == before[column]
        assert "rescored" in [event["kind"] for event in row["events"]]
        assert [phase["name"] for phase in row["phases"]] == ["claim", "freeze", "score", "release"]
    with rollout.open_dataset(str(place.folder / "runs/first-rescored")) as dataset:
        config = dataset.run["config"]["config"]
    assert config["rescore"]["uri"] == str(place.folder / "runs/first")
    assert "is finished" in place.call("rescore", "first", "scorer=file", "scorer.gold='1'",
                                       "scorer.path=/app/out.txt").stdout  # fmt: skip


@pytest.mark.parametrize("mode", ["fork", "shared"])
def test_what_the_scorer_sees_is_what_the_mode_lets_through(place: Place, mode: str) -> None:
    place.run("keep_on=[all]", "samples=1")
    tool = ["scorer=file", "scorer.path=/usr/local/tool", "scorer.gold=x"]
    place.call("rescore", "first", *tool, f"verifier.mode={mode}", f"name={mode}")
    seen = 1.0 if mode == "shared" else 0.0
    assert rewards(place.rows(mode)) == {"one": {seen}, "two": {seen}}


def test_in_fresh_mode_only_declared_outputs_travel(place: Place) -> None:
    files = {
        "task.toml": 'artifacts = ["/app/out.txt"]\nversion = "1.0"\n',
        "instruction.md": "Write 1 to out.txt",
        "environment/Dockerfile": "FROM python:3.11-slim\nWORKDIR /app\n",
        "tests/test.sh": "ls /usr/local/tool && exit; cp /app/out.txt /logs/verifier/reward.txt",
    }
    for name, text in files.items():
        path = place.folder / "tasks" / "one" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    harbor = ["+experiment=harbor", "task.path=tasks", "verifier.mode=fresh", "samples=1"]
    place.run(*harbor, "keep_on=[all]")
    place.call("rescore", "first", "name=a")
    assert rewards(place.rows("a"))["one"] == rewards(place.rows("first"))["one"] == {1.0}


def test_tests_that_were_mended_score_anew(place: Place) -> None:
    place.run("keep_on=[all]")
    place.declare([{**task, "command": "test -s out.txt"} for task in TASKS])
    place.call("rescore", "first", "name=mended")
    assert rewards(place.rows("mended")) == {"one": {1.0}, "two": {1.0}}


def test_what_kept_no_files_is_left_out_and_told(place: Place) -> None:
    place.run("keep_on=[agent_error]", "keep_limit_mb=1", "samples=1",
              "agent.script='echo 1 > out.txt; test $ROLLOUT_NOTHING || grep -q 1 /app/out.txt'",
              )  # fmt: skip
    refused = place.call("rescore", "first", code=2)
    assert "kept the files of no rollout" in refused.stderr
    assert "keep_on=[all]" in refused.stderr


def test_a_task_on_another_computer_is_refused(place: Place) -> None:
    place.run("keep_on=[all]", "samples=1")
    place.declare([TASKS[0], {**TASKS[1], "blueprint": {"env": {"A": "b"}}}])
    assert "task two: its computer is another" in place.call("rescore", "first", code=2).stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["first"], "there is no run"),
        (["first", "second"], "takes one run"),
        (["first", "agent=nop"], "agent: unknown"),
        (["first", "scorr=x"], "scorr: unknown"),
    ],
)
def test_what_is_refused(place: Place, words: list[str], reason: str) -> None:
    assert reason in place.call("rescore", *words, code=2).stderr


def test_a_judge_hears_what_was_said_then(place: Place) -> None:
    solves = {"rules": [{"turns": [{"run": "echo 1 > out.txt"}, {"text": "I wrote a ONE."}]}]}
    good = {"text": json.dumps({"grades": {"grade": 0.5}})}
    judges = {"rules": [{"when": "I wrote a ONE", "turns": [good]}, {"turns": [{"text": "?"}]}]}
    for name, script in {"solves": solves, "judges": judges}.items():
        (place.folder / f"{name}.json").write_text(json.dumps(script))
    place.run("keep_on=[all]", "samples=1", "agent=bash", "model=scripted",
              "model.script=solves.json")  # fmt: skip
    judge = [
        "scorer=judge",
        "scorer.rubric=x",
        "scorer.model.kind=scripted",
        "scorer.model.urls=[]",
    ]
    place.call(
        "rescore", "first", *judge, "scorer.model.name=j", "+scorer.model.script=judges.json"
    )
    again = place.rows("first-rescored")
    assert rewards(again) == {"one": {0.5}, "two": {0.5}}
    first = place.rows("first")
    assert {at: row["prompt_tokens"] for at, row in again.items()} == {
        at: row["prompt_tokens"] for at, row in first.items()
    }
