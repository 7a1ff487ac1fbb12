"""The documents are true: their commands and snippets run as printed, their links exist."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.census import left_clean

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(ROOT.glob("*.md"))
README = (ROOT / "README.md").read_text()

native = pytest.mark.native


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = "\n".join(blocks("sh")).splitlines()
    return [line.split("  #")[0].split("   #")[0].strip() for line in lines if line.strip()]


def run(command: list[str], cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "ROLLOUT_"))}
    return subprocess.run(
        command,
        cwd=cwd,
        env={**clean, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )


def rollout(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-m", "rollout", *args], cwd, PYTHONPATH=str(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_local_links_and_named_files_exist(document: Path) -> None:
    text = document.read_text()
    linked = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    named = re.findall(
        r"`((?:rollout|tests|conf|benchmarks|notebooks|infra|\.ci)/[\w./-]*\w)`", text
    )
    assert [name for name in [*linked, *named] if not (ROOT / name).exists()] == []


def test_ci_calls_the_commands_of_the_readme() -> None:
    script = (ROOT / ".ci/run").read_text().splitlines()
    first_block = blocks("sh")[0].splitlines()
    wanted = [line.split("#")[0].strip() for line in first_block]
    assert wanted == ["make quickstart", "make test"]
    assert [line for line in script if line.startswith("make")] == [
        "make tools",
        "make setup &  # Python's packages and Debian's have nothing to do with each other",
        "make docker images",
        *wanted,
    ]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's first command, run as printed but for where dataset and sandboxes go."""
    folder = tmp_path_factory.mktemp("readme")
    with left_clean() as here:
        # With all its samples it runs in CI, before the tests.
        places = f"store.uri={folder}/runs engine.root_dir={here.root_dir} samples=1"
        done = run(["make", "quickstart", f"ARGS={places}"], ROOT, **here.environment)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@native
@pytest.mark.docs
@pytest.mark.parametrize(("experiment", "count"), [("eval", 64), ("rft", 128)])
def test_the_commands_for_models_make_their_plan_as_printed(
    tmp_path: Path, experiment: str, count: int
) -> None:
    (command,) = (c for c in commands() if f"+experiment={experiment}" in c)
    done = rollout(*shlex.split(command)[3:], "dry_run=true", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count} = 1 arms × 16" in done.stdout


@native
@pytest.mark.docs
def test_sandboxes_of_the_readme_run_as_printed(tmp_path: Path) -> None:
    short, long = (block for block in blocks("python") if "rollout.sandbox(" in block)
    done = run([sys.executable, "-W", "error", "-c", short], tmp_path, PYTHONPATH=str(ROOT))
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    done = run([sys.executable, "-W", "error", "-c", long], tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert "/dev/pts/" in done.stdout  # among what a terminal echoes
    assert done.stdout.endswith(2 * "b'hello from the host\\n'\n")


@native
@pytest.mark.docs
@pytest.mark.ray
class TestReadme:
    def test_snippet_runs_as_printed(self, quickstart: Path) -> None:
        table, groups = (block for block in blocks("python") if re.search(r"\bruns[. ]", block))
        done = run([sys.executable, "-c", table + groups], quickstart, PYTHONPATH=str(ROOT))
        assert done.returncode == 0, done.stderr
        assert "'reward_mean': 1.0" in done.stdout
        assert "'reward_mean': 0.0" in done.stdout

    def test_finished_run_says_so_and_keeps_its_exit_code(self, quickstart: Path) -> None:
        done = rollout("+experiment=quickstart", "samples=1", cwd=quickstart)
        assert done.returncode == 0, done.stderr
        assert "finished" in done.stdout + done.stderr

    @pytest.mark.parametrize(
        "command", [c for c in commands() if c.startswith("python -m rollout") and "+" not in c]
    )
    def test_verbs_run_as_printed(self, quickstart: Path, command: str) -> None:
        tasks = str(ROOT / "rollout/tasks/quickstart/fix-median")
        args = shlex.split(command.replace("path/to/tasks", tasks).replace("PATH", tasks))[3:]
        done = rollout(*args, cwd=quickstart)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in done.stderr

    def test_harbor_command_runs_on_a_users_folder(self, quickstart: Path) -> None:
        (command,) = (c for c in commands() if "+experiment=harbor" in c)
        tasks = str(ROOT / "rollout/tasks/quickstart")
        args = shlex.split(command.replace("path/to/harbor/tasks", tasks))[3:]
        done = rollout(*args, "task.limit=2", "executor=local", cwd=quickstart)
        assert done.returncode == 0, done.stdout + done.stderr
