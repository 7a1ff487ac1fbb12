"""What runs leave behind on the machine, before and after: theirs, and nobody else's.

    with left_clean() as here:
        ...  # runs with `here.environment` and `engine.root_dir={here.root_dir}`

A process is theirs if it has the place's TMPDIR in its environment, which it got from whoever
started it, or is in a control group of the place's root folder, as all in a sandbox are. So tests
run side by side. Only what appears counts. What is going away needs a moment: a killed init is
reaped, the kernel takes control groups apart in the background; so `difference` looks again until
nothing new is left or the time is up.
"""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from rollout.sandbox.cgroups import FOLDER
from rollout.sandbox.owner import _mark

Census = Mapping[str, frozenset[str]]

SETTLE_S = 45.0
"""Thousands of network namespaces take the kernel about 40 s."""
LOOK_AGAIN_S = 0.1

_TEMPORARY = re.compile(r"\.?rollout|ray|session_\d|plasma")
"""Ours and Ray's; its dashboard, when killed, leaves empty folders of Python's multiprocessing."""

SHARED_MEMORY = Path("/dev/shm")
"""Where Ray keeps its objects, in a file that it removes as soon as it is open."""


@dataclass(frozen=True)
class Place:
    """Where the runs of a test leave all they leave."""

    tmp: Path
    """Short, since Ray's sockets are far below it."""
    root_dir: Path
    """Of their engines."""

    @property
    def environment(self) -> dict[str, str]:
        return {"TMPDIR": str(self.tmp)}


@contextmanager
def left_clean(root_dir: Path | None = None) -> Iterator[Place]:
    """A place that must be as before at the end, unless the block failed anyway."""
    with place(root_dir) as here:
        before = census(here)
        yield here
        if left := difference(before, here):
            pytest.fail(f"left behind: {left}")


@contextmanager
def place(root_dir: Path | None = None) -> Iterator[Place]:
    tmp = Path(tempfile.mkdtemp(prefix="place-", dir="/tmp"))
    try:
        yield Place(tmp, root_dir or tmp / "engine")
    finally:
        shutil.rmtree(tmp)


def census(here: Place) -> Census:
    """Everything at this place now, by kind, each thing named so that one can find it."""
    pids = list(_pids(here))
    return {
        "processes": frozenset(f"{pid} {_command(pid)[:200]}" for pid in pids),
        "mounts": frozenset(_mounts(here)),
        "cgroups": frozenset(cgroups(here.root_dir)),
        "network namespaces": frozenset(_network_namespaces(pids)),
        "loop devices": frozenset(loop_devices(here.root_dir)),
        "temporary files": frozenset(_temporary_files(here)),
    }


def difference(before: Census, here: Place, *, settle_s: float = SETTLE_S) -> dict[str, list[str]]:
    """What is there now and was not before, by kind, once it has had `settle_s` to go away."""
    give_up_s = time.monotonic() + settle_s
    while (new := _new(before, census(here))) and time.monotonic() < give_up_s:
        time.sleep(LOOK_AGAIN_S)
    return new


def _new(before: Census, after: Census) -> dict[str, list[str]]:
    new = {kind: sorted(after[kind] - before[kind]) for kind in after}
    return {kind: names for kind, names in new.items() if names}


def _pids(here: Place) -> Iterator[int]:
    """Not this process, and none that has ended and waits to be reaped."""
    variable = f"TMPDIR={here.tmp}".encode()
    group = f"/{FOLDER}/{_mark(here.root_dir)}-"
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        try:
            inside = group in (process / "cgroup").read_text()
            inside = inside or variable in (process / "environ").read_bytes().split(b"\0")
            if inside and (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                yield int(process.name)
        except OSError:
            continue


def _command(pid: int) -> str:
    try:
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    except OSError:
        return ""


def _mounts(here: Place) -> Iterator[str]:
    """On, below or made of it, with their ids: a second mount at a point is a second thing."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if str(here.tmp) in line or str(here.root_dir) in line:
            left, _, right = line.partition(" - ")
            fields = left.split()
            yield f"{fields[4]} {right.split()[0]} (mount {fields[0]})"


def cgroups(root_dir: Path) -> Iterator[str]:
    """Those of this root folder's owners, in every hierarchy."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.split()[0] in ("cgroup", "cgroup2"):
            yield from _groups_below(Path(left.split()[4]) / FOLDER, f"{_mark(root_dir)}-*")


def _groups_below(point: Path, owners: str) -> Iterator[str]:
    for owner in point.glob(owners):
        yield from (folder for folder, _, _ in os.walk(owner))


def _network_namespaces(pids: list[int]) -> Iterator[str]:
    """Those a process of the place lives in, but for the one it shares with this process."""
    for pid in pids:
        try:
            found = Path(f"/proc/{pid}/ns/net").readlink()
        except OSError:
            continue
        if found != Path("/proc/self/ns/net").readlink():
            yield str(found)


def loop_devices(root_dir: Path) -> list[str]:
    """Whose file is below this folder."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            found.append(f"{backing.parts[3]} {backing.read_text().strip()}")
    return [loop for loop in found if f" {root_dir}/" in loop]


def _temporary_files(here: Place) -> Iterator[str]:
    yield from (str(path) for path in here.tmp.iterdir() if _TEMPORARY.match(path.name))
    yield from map(str, SHARED_MEMORY.glob("plasma*"))
    yield from map(str, here.root_dir.glob("owners/*"))
