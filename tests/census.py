"""What is on the machine that a run could have left behind, before and after.

    before = census()
    ...
    assert difference(before, census()) == {}

Only what appears counts. What is going away needs a moment: a killed init is reaped, the kernel
takes network namespaces apart in the background; so `difference` looks again until nothing new is
left or the time is up. It sees the whole machine: runs of others meanwhile are in it.
"""

import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from rollout.config import EngineConf
from rollout.sandbox.cgroups import FOLDER

Census = Mapping[str, frozenset[str]]

SETTLE_S = 45.0
"""Thousands of network namespaces take the kernel about 40 s."""
LOOK_AGAIN_S = 0.25

_OURS = re.compile(
    r"rollout-box|-m rollout|rollout\.executor|bin/rollout\b|^rollout"
    r"|\bray::|/raylet\b|gcs_server|ray/_private|ray/dashboard|ray/autoscaler|^ray"
)
_TEMPORARY = re.compile(r"\.?rollout|session_\d|plasma")
_CGROUP = re.compile(r"^rollout")


def census(root_dir: str = EngineConf.root_dir) -> Census:
    """Everything of ours on this machine now, by kind, each thing named so that one can find it."""
    return {
        "processes": frozenset(_processes()),
        "mounts": frozenset(_mounts()),
        "cgroups": frozenset(_cgroups()),
        "network namespaces": frozenset(_network_namespaces()),
        "loop devices": frozenset(_loop_devices()),
        "temporary files": frozenset(_temporary_files(Path(root_dir))),
    }


def difference(
    before: Census,
    after: Census,
    *,
    root_dir: str = EngineConf.root_dir,
    settle_s: float = SETTLE_S,
) -> dict[str, list[str]]:
    """What is there now and was not before, by kind, once it has had `settle_s` to go away."""
    give_up_s = time.monotonic() + settle_s
    while (new := _new(before, after)) and time.monotonic() < give_up_s:
        time.sleep(LOOK_AGAIN_S)
        after = census(root_dir)
    return new


def _new(before: Census, after: Census) -> dict[str, list[str]]:
    new = {kind: sorted(after[kind] - before[kind]) for kind in after}
    return {kind: names for kind, names in new.items() if names}


def _processes() -> Iterator[str]:
    own = set(_own_line())
    for pid in _pids():
        command = _command(pid)
        if pid not in own and _OURS.search(command):
            yield f"{pid} {command[:200]}"


def _own_line() -> Iterator[int]:
    """This process and those above it: what runs the tests is no leftover."""
    pid = os.getpid()
    while pid > 0:
        yield pid
        stat = Path(f"/proc/{pid}/stat").read_text()
        pid = int(stat.rpartition(")")[2].split()[1])


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _command(pid: int) -> str:
    """Empty for zombies, kernel threads and processes that have gone."""
    try:
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    except OSError:
        return ""


def _mounts() -> Iterator[str]:
    """With their ids: a second mount at the same place is a second thing."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        yield f"{fields[4]} {right.split()[0]} (mount {fields[0]})"


def _cgroups() -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.split()[0] in ("cgroup", "cgroup2"):
            yield from _groups_below(Path(left.split()[4]))


def _groups_below(point: Path) -> Iterator[str]:
    """What stands in or below a folder named `rollout…`, but not that fixed folder itself."""
    for folder, names, _ in os.walk(point):
        inside = any(map(_CGROUP.match, Path(folder).relative_to(point).parts))
        ours = (name for name in names if inside or (_CGROUP.match(name) and name != FOLDER))
        yield from (f"{folder}/{name}" for name in ours)


def _network_namespaces() -> Iterator[str]:
    """Those a process lives in, and those somebody keeps by a mount."""
    for pid in _pids():
        try:
            yield str(Path(f"/proc/{pid}/ns/net").readlink())
        except OSError:
            continue
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        root = line.split()[3]
        if root.startswith("net:["):
            yield root


def _loop_devices() -> Iterator[str]:
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            yield f"{backing.parts[3]} {backing.read_text().strip()}"
        except OSError:
            continue


def _temporary_files(root_dir: Path) -> Iterator[str]:
    for folder in (Path("/tmp"), Path("/tmp/ray"), Path("/dev/shm"), Path("/var/tmp")):
        if folder.is_dir():
            names = (path for path in folder.iterdir() if _TEMPORARY.match(path.name))
            yield from map(str, names)
    yield from map(str, root_dir.glob("owners/*"))
