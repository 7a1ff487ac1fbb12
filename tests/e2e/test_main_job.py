"""The main job, whole: the command line, real sandboxes, real signals, exactly the planned rows.

What the dataset holds is read with plain pyarrow from the parts that the log names, so that a
fault of our own reader cannot hide one of our own writer.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.census import Place

ROOT = Path(__file__).parent.parent.parent
TASKS = ROOT / "rollout/tasks/quickstart"

pytestmark = pytest.mark.native


class Run:
    """One run name in one folder, started as often as one likes."""

    def __init__(self, folder: Path, here: Place, *args: str) -> None:
        self.folder = folder
        self.here = here
        self.root = folder / "runs" / "whole"
        self.args = ["+experiment=harbor", f"task.path={TASKS}", "name=whole"]
        self.args += [f"engine.root_dir={here.root_dir}", *args]

    def start(self, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "rollout", *self.args, *more]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**clean, **self.here.environment, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self, *more: str) -> tuple[int, str]:
        return ended(self.start(*more))

    def parts(self) -> list[Path]:
        """What the log names, folded here by hand."""
        named: set[str] = set()
        for entry in sorted((self.root / "_log").glob("*.json")):
            body = json.loads(entry.read_text())["body"]
            named.difference_update(body.get("removes", []))
            named.update(added["part"]["path"] for added in body.get("adds", []))
            named.update(p["path"] for c in body.get("commits", []) for p in c["parts"])
        return [self.root / path for path in sorted(named) if path.startswith("trajectories/")]

    def rows(self) -> list[dict[str, Any]]:
        return [row for part in self.parts() for row in pq.ParquetFile(part).read().to_pylist()]

    def ids(self) -> list[str]:
        return [row["trajectory_id"] for row in self.rows()]

    def wait_for_rows(self, count: int, process: subprocess.Popen[str]) -> None:
        give_up = time.monotonic() + 90
        while not self.root.exists() or len(self.ids()) < count:
            assert process.poll() is None, ended(process)
            assert time.monotonic() < give_up, f"{count} rows never came"
            time.sleep(0.05)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def slow(
    tmp_path: Path, here: Place, executor: str, scripts: str = "['sleep 0.5','sleep 0.3']"
) -> Run:
    """4 tasks × 2 arms × 6 samples that take a while, committed in small parts."""
    return Run(
        tmp_path,
        here,
        f"executor={executor}",
        "task.limit=4",
        "samples=6",
        "store.flush_s=0.2",
        "executor.episodes_per_worker=4",
        "executor.lease_batch=4",
        "agent=script",
        "~sweep.agent",
        f"+sweep.agent.script={scripts}",
    )


EXECUTORS = ["local", pytest.param("ray", marks=pytest.mark.ray)]


@pytest.mark.parametrize("executor", EXECUTORS)
class TestInterrupted:
    def test_first_interrupt_finishes_what_runs_and_the_next_start_does_the_rest(
        self, tmp_path: Path, here: Place, executor: str
    ) -> None:
        run = slow(tmp_path, here, executor)
        process = run.start()
        run.wait_for_rows(4, process)
        os.kill(process.pid, signal.SIGINT)
        code, output = ended(process)
        assert code == 130, output
        assert "Traceback" not in output
        part_way = run.ids()
        assert 4 <= len(part_way) < 48
        code, output = run.finish()
        assert code == 0, output
        assert len(run.ids()) == len(set(run.ids())) == 48
        assert set(part_way) <= set(run.ids())
        assert {row["outcome"] for row in run.rows()} == {"ok"}

    def test_second_interrupt_stops_at_once_and_leaves_a_dataset_that_opens(
        self, tmp_path: Path, here: Place, executor: str
    ) -> None:
        run = slow(tmp_path, here, executor, "['sleep 600','sleep 0.3']")
        process = run.start()
        run.wait_for_rows(2, process)
        os.kill(process.pid, signal.SIGINT)
        time.sleep(1)
        os.kill(process.pid, signal.SIGINT)
        code, output = ended(process)
        assert code == 130, output
        assert "Traceback" not in output
        assert len(run.ids()) == len(set(run.ids())) >= 2


def test_agents_out_of_memory_or_time_are_scored_on_what_they_left(
    tmp_path: Path, here: Place
) -> None:
    hog = "head -c 2000m /dev/zero | tail"
    run = Run(
        tmp_path,
        here,
        "executor=local",
        "task.limit=1",
        "agent=script",
        "~sweep.agent",
        f"+sweep.agent.script=['true','{hog}','sleep 600','exit 3']",
        "timeouts.agent_override_s=5",
    )
    code, output = run.finish()
    assert code == 0, output
    endings = sorted((row["outcome"], row["stop_reason"], row["reward"]) for row in run.rows())
    assert endings == [
        ("agent_error", "error", 0.0),
        ("agent_timeout", "timeout", 0.0),
        ("ok", "completed", 0.0),
        ("out_of_memory", "error", 0.0),
    ]


def test_oracle_scores_one_and_nop_zero_and_everything_is_told(tmp_path: Path, here: Place) -> None:
    run = Run(tmp_path, here, "executor=local", "samples=2")
    code, output = run.finish()
    assert code == 0, output
    rows = run.rows()
    assert {(row["agent_name"], row["reward"]) for row in rows} == {("oracle", 1.0), ("nop", 0.0)}
    assert not any(row["integrity"] for row in rows)
    assert {row["outcome"] for row in rows} == {"ok"}
    assert all(row["attempts"] and row["phases"] and row["limits_enforced"] for row in rows)
    assert (run.root / "run.json").exists()
    assert (run.root / "_final" / "1.json").exists()


def test_added_samples_run_and_a_changed_arm_is_refused(tmp_path: Path, here: Place) -> None:
    run = Run(tmp_path, here, "executor=local", "task.limit=2", "samples=1")
    assert run.finish()[0] == 0
    first = set(run.ids())
    code, output = run.finish("samples=3")
    assert code == 0, output
    assert first < set(run.ids())
    assert len(run.ids()) == 2 * 2 * 3
    code, output = run.finish("samples=3", "verifier.mode=shared")
    assert code == 2
    assert "verifier" in output or "score_mode" in output
    assert "Traceback" not in output
