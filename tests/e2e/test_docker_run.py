"""A run on Docker whose worker and whose daemon are ended in the middle: it goes on, and is clean.

The daemon is this test's own, since others use the machine's.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from rollout.config import EngineConf
from rollout.sandbox.docker.container import OWNER
from rollout.sandbox.docker.daemon import find_daemon
from rollout.sandbox.docker.engine import DockerEngine

pytestmark = pytest.mark.docker
ROOT = Path(__file__).parent.parent.parent
BUSYBOX = "rollout-test-busybox"
SAMPLES = 10
PATIENCE_S = 60.0


class PrivateDaemon:
    """A dockerd with a socket, images and containers of its own, and no network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"unix://{folder}/docker.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["dockerd", "--host", self.url, "--bridge=none", "--iptables=false"]
        command += ["--ip6tables=false", "--pidfile", f"{self.folder}/pid"]
        command += ["--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        give_up_s = time.monotonic() + PATIENCE_S
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < give_up_s, "dockerd does not answer"
            time.sleep(0.1)

    def _answers(self) -> bool:
        done = subprocess.run(["docker", "--host", self.url, "version"], capture_output=True)
        return done.returncode == 0

    def stop(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(PATIENCE_S)


@pytest.fixture
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateDaemon]:
    if shutil.which("dockerd") is None or os.geteuid() != 0:
        pytest.skip("starts a dockerd of its own, as root")
    folder = tmp_path_factory.mktemp("dockerd")
    made = PrivateDaemon(folder)
    made.start()
    try:
        usual = find_daemon()
        usual.save(BUSYBOX, folder / "image.tar")
        usual.close()
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("DOCKER_HOST", made.url)
            own = find_daemon()
            with (folder / "image.tar").open("rb") as image:
                own.load(image)
            own.close()
            yield made
    finally:
        made.stop()
        shutil.rmtree(folder)


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
        daemon.stop()
        daemon.start()
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
    look = find_daemon()
    try:
        assert look.containers(OWNER) == []
        assert [i for i in look.images(OWNER) if i["Labels"][OWNER]] == []
    finally:
        look.close()
    assert list(root_dir.glob("owners/*")) == []
