"""A Ray of our own leaves nothing, not even when its driver was killed."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from rollout.executor.ray_home import RayHome, sweep

OWNER = """
import subprocess, sys, time
from rollout.executor.ray_home import RayHome
home = RayHome()
home.keep_token("secret")
log = open(home.path / "agent.log", "w")
orphan = subprocess.Popen(["sleep", "300"], stdout=log, stderr=log, start_new_session=True)
print(home.path, orphan.pid, flush=True)
time.sleep(300)
"""


@pytest.fixture
def owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A process that has a home, and in it a process that would outlive it."""
    short = Path(tempfile.mkdtemp(prefix="rh-"))
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    environment = {**os.environ, "TMPDIR": str(short), "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        path, orphan = process.stdout.readline().split()
        yield process, Path(path), int(orphan)
        process.kill()
    sweep()
    short.rmdir()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_home_of_a_living_owner_is_left_alone(owner) -> None:
    _, path, orphan = owner
    sweep()
    assert (path / "token").read_text() == "secret"
    assert (path / "token").stat().st_mode & 0o777 == 0o600
    assert alive(orphan)


def test_the_next_start_removes_what_a_killed_owner_left(owner) -> None:
    process, path, orphan = owner
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert alive(orphan)
    home = RayHome()
    assert not path.exists()
    while alive(orphan):
        time.sleep(0.01)
    assert home.path.is_dir()
    home.close()
    home.close()
    assert not home.path.exists()
