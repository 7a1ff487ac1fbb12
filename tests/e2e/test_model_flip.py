"""Two models by the names of their files, on shipped tasks: what one override prints."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rollout

pytestmark = pytest.mark.native

SHIPPED = Path(rollout.__file__).parent / "tasks/quickstart"
TASKS = ["access-log-report", "rename-photos", "csv-totals", "merge-json"]
GIVES_UP = {"turns": [{"text": "I do not know."}]}
LINE = r"model=b +-0\.333 +\[-1\.768, \+1\.101\] +3 +0 +1 +1\n"
"""Of three tasks one differs, by 1: mean -1/3, standard error 1/3, t(0.975, 2) = 4.303. The fourth
task has no reward in one arm."""


def solves(task: str) -> dict[str, object]:
    # In parentheses, so that its `set -e` does not end the agent's shell.
    solution = (SHIPPED / task / "solution/solve.sh").read_text()
    return {"when": asked(task), "turns": [{"run": f"(\n{solution}\n)"}, {"text": "Done."}]}


def asked(task: str) -> str:
    """A pattern for the task's heading."""
    return re.escape((SHIPPED / task / "instruction.md").read_text().splitlines()[0])


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of one's own with models `a` and `b`; `b` has no rule for the last task."""
    rules = {
        "a": [solves(TASKS[0]), solves(TASKS[1]), GIVES_UP],
        "b": [solves(TASKS[0]), *({"when": asked(task), **GIVES_UP} for task in TASKS[1:3])],
    }
    folder = tmp_path / "mine"
    (folder / "model").mkdir(parents=True)
    for name, told in rules.items():
        script = tmp_path / f"{name}.json"
        script.write_text(json.dumps({"rules": told}))
        words = {"kind": "scripted", "name": name, "script": str(script)}
        (folder / "model" / f"{name}.yaml").write_text(json.dumps(words))
    return folder


def cli(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "rollout", *words]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=200)


def run(folder: Path, models: Path, choice: str) -> subprocess.CompletedProcess[str]:
    return cli(
        folder, "--config-dir", str(models), "+experiment=eval", choice, "name=flip", "samples=1",
        f"task.include=[{','.join(TASKS)}]", "executor=local", "retry.max_attempts=1",
        f"engine.root_dir={folder}/root",
    )  # fmt: skip


def test_a_model_flip_is_one_override(tmp_path: Path, models: Path) -> None:
    done = run(tmp_path, models, "+sweep.model=[a,b]")
    assert done.returncode == 1, done.stderr  # one rollout has no reward
    shown = cli(tmp_path, "show", "flip")
    assert shown.returncode == 0, shown.stderr
    for out in (done.stdout, shown.stdout):
        assert "against model=a" in out
        assert re.search(LINE, out), out


def test_one_model_is_compared_with_nothing(tmp_path: Path, models: Path) -> None:
    done = run(tmp_path, models, "model=a")
    assert done.returncode == 0, done.stderr
    assert "against" not in done.stdout + cli(tmp_path, "show", "flip").stdout
