"""The command line as people use it: in a process of its own, judged by its words and exit code."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import rollout
from rollout.errors import ConfigError
from tests.forked import Forked

ROOT = Path(__file__).parents[1]
TASK_TOML = 'version = "1.0"\n[metadata]\n[verifier]\ntimeout_sec = 20.0\n'


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


Cli = Callable[..., Said]


@pytest.fixture
def cli(tmp_path: Path, forked: Forked) -> Cli:
    """Runs `python -m rollout` in a folder of its own."""

    def call(*words: str, **variables: str) -> Said:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("HYDRA_")}
        env = {**clean, "PYTHONPATH": str(ROOT), **variables}
        done = forked.run(list(words), cwd=tmp_path, env=env, timeout_s=120)
        return Said(done.returncode, done.stdout.decode(), done.stderr.decode())

    return call


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """Two tasks in Harbor's format: write the right word into a file."""
    folder = tmp_path / "tasks"
    for name, word in (("greet", "hello"), ("leave", "bye")):
        write_task(folder / name, solution=f"echo {word} > /app/word.txt", word=word)
    return folder


def write_task(folder: Path, *, solution: str, word: str) -> None:
    files = {
        "task.toml": TASK_TOML,
        "instruction.md": f"Write {word} to /app/word.txt.",
        "environment/Dockerfile": "FROM python:3.11-slim\nWORKDIR /app\n",
        "solution/solve.sh": solution,
        "tests/test.sh": (
            f'if [ "$(cat /app/word.txt)" = "{word}" ]; then echo 1 > /logs/verifier/reward.txt\n'
            "else echo 0 > /logs/verifier/reward.txt; fi\n"
        ),
    }
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


def run_words(tasks: Path, *more: str) -> list[str]:
    """A run on the engine that needs nothing of the machine."""
    small = ["engine=memory", "executor=local", "executor.workers=1", "samples=2"]
    return ["+experiment=harbor", f"task.path={tasks}", "name=small", *small, *more]


# ---------------------------------------------------------------- words


def test_help_names_every_verb_and_every_experiment(cli: Cli) -> None:
    said = cli("--help")
    assert said.code == 0
    for path in (ROOT / "conf" / "experiment").glob("*.yaml"):
        assert f"+experiment={path.stem}" in said.out
    for verb in ("tasks check", "show", "retry", "export", "doctor"):
        assert f"python -m rollout {verb}" in said.out


@pytest.mark.parametrize("words", [["show"], ["retry"], ["tasks"], ["export"]])
def test_every_verb_explains_itself(cli: Cli, words: list[str]) -> None:
    said = cli(*words, "--help")
    assert (said.code, said.err) == (0, "")
    assert f"python -m rollout {words[0]}" in said.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["+experimnt=quickstart"], ["experimnt", "+experiment"]),
        (["+experiment=quickstart", "samplez=2"], ["samplez", '"samples"']),
        (["+experiment=quickstart", "engine=nativ"], ["engine", '"native"']),
        (["engine.max_slots=big"], ["engine.max_slots", "'big'"]),
        (["+experiment=harbor", "task.path=no/such/folder"], ["task.path", "no/such/folder"]),
        (["+experiment=mine", "--config-dir", "no/such/folder"], ["no/such/folder"]),
        (["--multirun", "+experiment=quickstart", "samples=1,0"], ["samples", "above 0"]),
        (["quickstart"], ["quickstart", "neither a verb nor key=value"]),
        (["retyr", "run"], ["retyr", '"retry"']),
        (["show"], ["show", "python -m rollout show RUN"]),
        (["show", "no-such-run"], ["no-such-run"]),
        (["retry", "no-such-run", "outcome=[sandbox_lst]"], ["sandbox_lst", '"sandbox_lost"']),
        (["retry", "no-such-run"], ["no-such-run"]),
        (["export", "no-such-run"], ["format=sft", "format=atif"]),
        (["export", "no-such-run", "format=sft"], ["no-such-run"]),
        (["export", "r", "format=sft", "min_reward=x"], ["min_reward", "'x'"]),
        (["tasks", "chek", "x"], ["check PATH"]),
        (["tasks", "check", "no/such/folder"], ["no/such/folder"]),
    ],
)
def test_a_slip_exits_with_2_and_one_message(cli: Cli, words: list[str], told: list[str]) -> None:
    said = cli(*words)
    assert said.code == 2, said
    assert "Traceback" not in said.err
    assert said.err.startswith("rollout: ")
    for word in told:
        assert word in said.err, said.err


def test_an_unreachable_bucket_is_told_before_anything_starts(cli: Cli, tasks: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        store = ["store=s3", "store.uri=s3://bucket/runs", f"store.endpoint_url={url}"]
        said = cli(
            *run_words(tasks, *store),
            AWS_ACCESS_KEY_ID="a",
            AWS_SECRET_ACCESS_KEY="b",
            AWS_MAX_ATTEMPTS="1",
        )
    assert said.code == 2, said
    assert "store.uri" in said.err
    assert "bucket" in said.err
    assert "Traceback" not in said.err


def test_a_store_that_is_no_folder_is_told(cli: Cli, tasks: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    said = cli(*run_words(tasks, "store.uri=taken"))
    assert said.code == 2, said
    assert "taken" in said.err
    assert "Traceback" not in said.err


def test_hydras_own_flags_still_work(cli: Cli, tmp_path: Path) -> None:
    said = cli("+experiment=quickstart", "--cfg", "job", "samples=3")
    assert said.code == 0
    assert "samples: 3" in said.out
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- a run


def test_a_dry_run_prints_the_plan_and_leaves_nothing(
    cli: Cli, tasks: Path, tmp_path: Path
) -> None:
    said = cli(*run_words(tasks, "dry_run=true"))
    assert said.code == 0, said
    assert "8 = 2 arms × 2 tasks × 2 samples" in said.out
    assert "agent=oracle: 4 rollouts, 0 there" in said.out
    assert "a guess" in said.out
    assert [path.name for path in tmp_path.iterdir()] == ["tasks"]


def test_the_whole_life_of_a_run(cli: Cli, tasks: Path, tmp_path: Path) -> None:
    """First start, second start, more samples, a look, one rollout's story, a change."""
    first = cli(*run_words(tasks))
    assert first.code == 0, first
    dataset = rollout.open_dataset(str(tmp_path / "runs" / "small"))
    rows = dataset.scan(columns=["arm", "outcome", "reward", "trajectory_id"]).to_pylist()
    assert {(row["arm"], row["outcome"], row["reward"]) for row in rows} == {
        ("agent=oracle", "ok", 1.0),
        ("agent=nop", "ok", 0.0),
    }
    assert len({row["trajectory_id"] for row in rows}) == len(rows) == 8
    assert str(tmp_path / "runs" / "small") in first.out

    again = cli(*run_words(tasks))
    assert (again.code, "is finished" in again.out) == (0, True)
    assert len(dataset.starts()) == 1

    preview = cli(*run_words(tasks, "samples=3", "dry_run=true"))
    assert "8 already, 4 to do" in preview.out
    assert "as measured in this run" in preview.out
    more = cli(*run_words(tasks, "samples=3"))
    assert more.code == 0, more
    assert len(dataset.finished_ids()) == 12

    fewer = cli(*run_words(tasks, "samples=1"))
    assert fewer.code == 0, fewer
    assert len(dataset.finished_ids()) == 12

    table = cli("show", "small")
    assert (table.code, table.err) == (0, ""), table
    assert table.out.index("agent=nop") < table.out.index("agent=oracle")
    id_ = rows[0]["trajectory_id"]
    story = cli("show", str(tmp_path / "runs" / "small"), id_[:12])
    assert story.code == 0, story
    assert id_ in story.out
    assert "Write" in story.out
    assert cli("show", "small", "nothing").code == 2

    (tasks / "greet" / "instruction.md").write_text("Write something else.")
    changed = cli(*run_words(tasks))
    assert changed.code == 2
    assert "task greet" in changed.err
    assert "name=" in changed.err
    assert len(dataset.finished_ids()) == 12


def test_rollouts_without_a_reward_exit_with_1_until_they_are_made_again(
    cli: Cli, tasks: Path, tmp_path: Path
) -> None:
    """A verifier that gives no verdict stands for all that is ours to answer for."""
    good = (tasks / "greet" / "tests" / "test.sh").read_text()
    flaky = f"[ -e {tmp_path}/never ] || [ ! -e /app/word.txt ] || exit 0\n{good}"
    (tasks / "greet" / "tests" / "test.sh").write_text(flaky)
    words = run_words(tasks, "retry.max_attempts=1", "retry.storm_share=1")
    first = cli(*words)
    assert first.code == 1, first
    again = cli(*words)
    assert again.code == 1
    assert "2 ended without a reward" in again.out
    dataset = rollout.open_dataset(str(tmp_path / "runs" / "small"))
    lost = {id_ for id_, (_, reward) in dataset.state.accepted.items() if reward is None}
    assert len(lost) == 2
    said = cli("retry", "small", "outcome=[scoring_error]")
    assert said.code == 1, said
    assert "2 rollouts of small are taken back" in said.out
    assert {len(dataset.state.attempts[id_]) for id_ in lost} == {2}
    assert len(dataset.finished_ids()) == 8
    assert "0 rollouts of small" in cli("retry", "small", "outcome=canceled").out


def test_a_changed_agent_of_the_same_name_is_refused_with_the_difference(
    cli: Cli, tasks: Path
) -> None:
    script = ["~sweep", "agent=script", "samples=1"]
    assert cli(*run_words(tasks, *script, "agent.script='echo bye > word.txt'")).code == 0
    said = cli(*run_words(tasks, *script, "agent.script='echo hi > word.txt'"))
    assert said.code == 2
    assert (
        "arm default: agent.script was 'echo bye > word.txt', is 'echo hi > word.txt'" in said.err
    )
    assert "Traceback" not in said.err


def test_several_runs_of_one_line(cli: Cli, tasks: Path, tmp_path: Path) -> None:
    words = [word for word in run_words(tasks) if not word.startswith("name=")]
    said = cli("--multirun", *words, "name=one,two", "samples=1")
    assert said.code == 0, said
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["one", "two"]


def test_a_reader_that_goes_away_does_not_end_the_run(tasks: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "rollout", *run_words(tasks)]
    with subprocess.Popen(
        words,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stderr.close()
        assert process.wait(120) == 0
    assert len(rollout.open_dataset(str(tmp_path / "runs" / "small")).finished_ids()) == 8


# ---------------------------------------------------------------- tasks check


def test_tasks_check_tells_right_from_wrong(cli: Cli, tasks: Path) -> None:
    fine = cli("tasks", "check", str(tasks), "engine=memory")
    assert fine.code == 0, fine
    assert "2 of 2 tasks are right" in fine.out
    write_task(tasks / "wrong-gold", solution="echo no > /app/word.txt", word="yes")
    write_task(tasks / "free-lunch", solution="echo > /app/word.txt", word="")
    bad = cli("tasks", "check", str(tasks), "engine=memory")
    assert bad.code == 1, bad
    lines = {line.split()[0]: line for line in bad.out.splitlines() if line}
    assert "WRONG" in lines["wrong-gold"]
    assert "WRONG" in lines["free-lunch"]
    assert "WRONG" not in lines["greet"]
    assert "2 of 4 tasks are right" in bad.out


# ---------------------------------------------------------------- the library


def test_the_public_names_are_there_and_importing_is_light() -> None:
    for name in rollout.__all__:
        assert getattr(rollout, name) is not None
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, rollout; print(sorted(sys.modules))"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for heavy in ("ray", "pyarrow", "hydra", "omegaconf", "boto3", "rich"):
        assert f"'{heavy}'" not in loaded
    with pytest.raises(AttributeError):
        _ = rollout.no_such_name


async def test_a_run_is_a_call(tasks: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    dataset = await rollout.run_async(
        run_words(tasks, f"store.uri={tmp_path}/library", "samples=1"),
        on_progress=lambda progress: seen.append(progress.done),
    )
    assert len(dataset.finished_ids()) == 4
    assert seen[-1] == 4
    assert json.loads((tmp_path / "library/small/run.json").read_text())["config"]["arms"]
    shutil.rmtree(tmp_path / "library")
    with pytest.raises(ConfigError, match="samples"):
        await rollout.run_async(["samples=0"])
