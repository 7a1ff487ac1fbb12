"""The census sees what a run could leave behind, and lets what is going away go."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from rollout.sandbox.cgroups import FOLDER, Hierarchies
from tests.census import census, difference


def _pids(new: dict[str, list[str]]) -> list[str]:
    return [name.split()[0] for name in new.get("processes", [])]


def test_a_process_of_ours_is_seen() -> None:
    before = census()
    wait = "import sys; sys.stdin.read()"
    left = subprocess.Popen([sys.executable, "-c", wait, "-m rollout"], stdin=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 10
        while str(left.pid) not in _pids(difference(before, census(), settle_s=0)):
            assert time.monotonic() < deadline  # a new program has no command line for a moment
    finally:
        left.communicate()


def test_a_temporary_folder_is_seen_and_other_peoples_are_not() -> None:
    before = census()
    with (
        tempfile.TemporaryDirectory(prefix="rollout-census-", dir="/tmp") as ours,
        tempfile.TemporaryDirectory(prefix="census-", dir="/tmp"),
    ):
        new = difference(before, census(), settle_s=0)
    assert ours in new["temporary files"]
    assert not [name for name in new["temporary files"] if Path(name).name.startswith("census-")]


def test_the_folder_of_a_dead_owner_is_seen(tmp_path: Path) -> None:
    before = census(str(tmp_path))
    (tmp_path / "owners" / "abc").mkdir(parents=True)
    new = difference(before, census(str(tmp_path)), root_dir=str(tmp_path), settle_s=0)
    assert str(tmp_path / "owners" / "abc") in new["temporary files"]


@pytest.mark.native
def test_a_control_group_is_seen_in_every_hierarchy() -> None:
    before = census()
    made = [
        point / FOLDER / f"census-{os.getpid()}" for point in Hierarchies.of_machine().mount_points
    ]
    try:
        for folder in made:
            folder.mkdir(parents=True)
        new = difference(before, census(), settle_s=0)
        assert set(map(str, made)) <= set(new["cgroups"])
    finally:
        for folder in made:
            folder.rmdir()


@pytest.mark.native
def test_a_network_namespace_is_seen_whatever_lives_in_it() -> None:
    before = census()
    left = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
    try:
        while Path(f"/proc/{left.pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
            pass
        inside = str(Path(f"/proc/{left.pid}/ns/net").readlink())
        assert inside in difference(before, census(), settle_s=0)["network namespaces"]
    finally:
        left.communicate()


@pytest.mark.native
def test_a_mount_is_seen(tmp_path: Path) -> None:
    before = census()
    subprocess.run(["mount", "-t", "tmpfs", "census", str(tmp_path)], check=True)
    try:
        new = difference(before, census(), settle_s=0)
        assert [name for name in new["mounts"] if name.startswith(f"{tmp_path} tmpfs")]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_what_goes_away_by_itself_is_no_leftover() -> None:
    before = census()
    folder = tempfile.mkdtemp(prefix="rollout-census-", dir="/tmp")
    timer = threading.Timer(0.5, os.rmdir, (folder,))
    timer.start()
    new = difference(before, census())
    timer.join()
    assert folder not in new.get("temporary files", [])
