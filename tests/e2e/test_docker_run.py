"""A run on Docker whose worker and whose daemon are ended in the middle: it goes on, and is clean.

The daemon is this test's own, since others use the machine's.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from rollout.config import EngineConf
from rollout.sandbox.docker.engine import DockerEngine
from tests.private_daemon import BUSYBOX, PATIENCE_S, PrivateDaemon, private_daemon

pytestmark = pytest.mark.docker
ROOT = Path(__file__).parent.parent.parent
SAMPLES = 10


@pytest.fixture
def daemon() -> Iterator[PrivateDaemon]:
    with private_daemon() as made:
        yield made


def rows(run: Path) -> list[dict[str, object]]:
    named = []
    for entry in sorted((run / "_log").glob("*.json")):
        for commit in json.loads(entry.read_text())["body"].get("commits", []):
            named += [part["path"] for part in commit["parts"]]
    tables = [path for path in named if path.startswith("trajectories/")]
    return [row for path in tables for row in pq.ParquetFile(run / path).read().to_pylist()]


def wait_for_rows(run: Path, count: int, process: "subprocess.Popen[str]") -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while len(rows(run)) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < give_up_s, f"{count} rows never came"
        time.sleep(0.05)


async def test_a_killed_worker_and_a_restarted_daemon_cost_attempts_and_no_row(
    daemon: PrivateDaemon, tmp_path: Path
) -> None:
    task = {"id": "one", "instruction": "make the file", "command": "test -e /app/done"}
    (tmp_path / "tasks.jsonl").write_text(json.dumps(task) + "\n")
    run, root_dir = tmp_path / "runs/whole", tmp_path / "engine"
    words = ["+experiment=jsonl", f"task.path={tmp_path}/tasks.jsonl", "name=whole"]
    words += ["engine=docker", f"engine.root_dir={root_dir}", f"blueprint.base=image:{BUSYBOX}"]
    words += ["executor=local", "executor.workers=2", "executor.episodes_per_worker=3"]
    words += ["executor.lease_batch=2", "store.flush_s=0.2", f"samples={SAMPLES}"]
    words += ["~sweep.agent", "agent=script", "agent.script='sleep 1; touch done'"]
    words += ["retry.max_attempts=20", "retry.backoff_s=0.2", "retry.storm_share=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "rollout", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_for_rows(run, 2, process)
        below = psutil.Process(process.pid).children(recursive=True)
        workers = [child for child in below if "local_worker" in " ".join(child.cmdline())]
        workers[0].kill()
        wait_for_rows(run, 5, process)
        daemon.restart()
        output, _ = process.communicate(timeout=2 * PATIENCE_S)
    finally:
        process.kill()
    assert process.returncode == 0, output
    found = rows(run)
    assert len({row["trajectory_id"] for row in found}) == len(found) == SAMPLES
    assert {(row["outcome"], row["reward"]) for row in found} == {("ok", 1.0)}
    assert max(len(row["attempts"]) for row in found) > 1  # type: ignore[arg-type]
    engine = DockerEngine(EngineConf(root_dir=str(root_dir)))
    await engine.start()
    await engine.close()
    assert daemon.left() == []
    assert list(root_dir.glob("owners/*")) == []
