"""The census sees what a run could leave behind, and lets what is going away go."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollout.sandbox.cgroups import FOLDER, Hierarchies
from rollout.sandbox.owner import _mark
from tests.census import Place, census, difference, place

WAIT = [sys.executable, "-c", "import sys; sys.stdin.read()"]


@pytest.fixture
def here() -> Iterator[Place]:
    with place() as made:
        yield made


def _waiting(here: Place, *before: str) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, **here.environment}
    return subprocess.Popen([*before, *WAIT], stdin=subprocess.PIPE, env=environment)


def test_a_process_is_seen_with_those_it_starts_and_other_peoples_are_not(here: Place) -> None:
    before = census(here)
    left = _waiting(here, "setsid", "--fork", "--wait")
    with place() as elsewhere, _waiting(elsewhere) as other:
        try:
            deadline = time.monotonic() + 10
            while len(seen := difference(before, here, settle_s=0).get("processes", [])) < 2:
                assert time.monotonic() < deadline  # a new program has no environment for a moment
            pids = {int(name.split()[0]) for name in seen}
            assert left.pid in pids
            assert other.pid not in pids
        finally:
            left.communicate()
            other.communicate()
    assert difference(before, here) == {}


def test_a_temporary_folder_is_seen_and_other_peoples_are_not(here: Place) -> None:
    before = census(here)
    (here.tmp / "rollout-left").mkdir()
    with place() as elsewhere:
        (elsewhere.tmp / "rollout-left").mkdir()
        new = difference(before, here, settle_s=0)
    assert new == {"temporary files": [str(here.tmp / "rollout-left")]}


def test_the_folder_of_a_dead_owner_is_seen(here: Place) -> None:
    before = census(here)
    (here.root_dir / "owners" / "abc").mkdir(parents=True)
    new = difference(before, here, settle_s=0)
    assert new == {"temporary files": [str(here.root_dir / "owners" / "abc")]}


@pytest.mark.native
def test_a_control_group_is_seen_in_every_hierarchy_with_what_is_in_it(here: Place) -> None:
    before = census(here)
    hierarchies = Hierarchies.of_machine()
    owner = f"{_mark(here.root_dir)}-census"
    made = [point / FOLDER / owner for point in hierarchies.mount_points]
    with subprocess.Popen(WAIT, stdin=subprocess.PIPE, env={}) as inside:
        try:
            for folder in made:
                folder.mkdir(parents=True)
            (hierarchies.v2 / FOLDER / owner / "cgroup.procs").write_text(str(inside.pid))
            new = difference(before, here, settle_s=0)
            assert set(map(str, made)) == set(new["cgroups"])
            assert [name.split()[0] for name in new["processes"]] == [str(inside.pid)]
        finally:
            inside.communicate()
            for folder in made:
                folder.rmdir()


@pytest.mark.native
def test_a_network_namespace_is_seen_whatever_lives_in_it(here: Place) -> None:
    before = census(here)
    left = _waiting(here, "unshare", "--net")
    try:
        while Path(f"/proc/{left.pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
            pass
        inside = str(Path(f"/proc/{left.pid}/ns/net").readlink())
        assert difference(before, here, settle_s=0)["network namespaces"] == [inside]
    finally:
        left.communicate()


@pytest.mark.native
def test_a_mount_is_seen(here: Place) -> None:
    before = census(here)
    point = here.tmp / "point"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "census", str(point)], check=True)
    try:
        (seen,) = difference(before, here, settle_s=0)["mounts"]
        assert seen.startswith(f"{point} tmpfs")
    finally:
        subprocess.run(["umount", str(point)], check=True)


def test_what_goes_away_by_itself_is_no_leftover(here: Place) -> None:
    before = census(here)
    going = here.tmp / "rollout-going"
    going.mkdir()
    timer = threading.Timer(0.5, going.rmdir)
    timer.start()
    assert difference(before, here) == {}
    timer.join()
