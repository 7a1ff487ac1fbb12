"""Limits of the machine against the number of sandboxes that are to live on it at once."""

import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from rollout.doctor.base import Finding, Level, Wishes, ok, warn
from rollout.doctor.kernel import existing
from rollout.sandbox.volume import mkfs_program

PIDS_EACH = 8
"""Processes of a busy sandbox: its init, a shell, a tool with some children."""
INOTIFY_EACH = 64
"""What the engine allows to each sandbox, and the host counts for each range of uids alone."""
DESCRIPTORS_EACH = 4
"""Connections and pidfds that a worker may hold for a sandbox at work."""
DISK_MB_EACH = 16
DISK_FREE_MB = 2_048
PID_MAX = 4_194_304
SLACK = 1_024

_SYS = Path("/proc/sys")


def check(wishes: Wishes) -> Iterator[Finding]:
    n = wishes.sandboxes
    yield _knob("kernel/pid_max", n * PIDS_EACH + SLACK, PID_MAX, n)
    yield _knob("kernel/threads-max", n * PIDS_EACH + SLACK, PID_MAX, n)
    yield _knob("fs/inotify/max_user_instances", INOTIFY_EACH, 2 * INOTIFY_EACH, n)
    yield from _namespaces(n)
    yield _descriptors(n)
    yield _disk(wishes)
    yield _disk_limits()


def _knob(path: str, needed: int, better: int, n: int) -> Finding:
    """A sysctl that must be at least what `n` sandboxes need."""
    name = path.replace("/", ".")
    try:
        value = int((_SYS / path).read_text())
    except (OSError, ValueError) as exc:
        return warn(name, f"cannot be read: {exc}", "mount /proc, or look on the host")
    seen = f"{value:,}, and {n:,} sandboxes may need {needed:,}"
    if value >= needed:
        return ok(name, seen)
    return warn(name, seen, f"`sysctl -w {name}={max(better, needed)}`")


def _namespaces(n: int) -> Iterator[Finding]:
    """One line for all kinds, unless some are too few."""
    kinds = ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup")
    found = [_knob(f"user/max_{kind}_namespaces", n + SLACK, 2 * n + SLACK, n) for kind in kinds]
    short = [finding for finding in found if finding.level is not Level.OK]
    yield from short or [ok("user.max_*_namespaces", f"each at least {n + SLACK:,}")]


def _descriptors(n: int) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = min(n * DESCRIPTORS_EACH + SLACK, 20_000)
    seen = f"soft {_count(soft)}, hard {_count(hard)}, and {n:,} sandboxes may need {needed:,}"
    if _enough(hard, needed):
        return ok("open files", seen)
    change = f"raise the hard limit: `ulimit -Hn {needed}` as root, or LimitNOFILE={needed}"
    return warn("open files", seen, change)


def _disk(wishes: Wishes) -> Finding:
    folder = existing(wishes.root_dir)
    free_mb = shutil.disk_usage(folder).free // 2**20
    needed_mb = max(DISK_FREE_MB, wishes.sandboxes * DISK_MB_EACH)
    seen = f"{free_mb:,} MB free for {wishes.root_dir}, and {wishes.sandboxes:,} sandboxes at "
    seen += f"{DISK_MB_EACH} MB each need {needed_mb:,} MB"
    if free_mb >= needed_mb:
        return ok("disk space", seen)
    return warn("disk space", seen, "free some, or set engine.root_dir to a larger disk")


def _disk_limits(dev: Path = Path("/dev")) -> Finding:
    """What holds `disk_mb` of a sandbox."""
    lacking = []
    if mkfs_program() is None:
        lacking.append("no mkfs.btrfs (`apt-get install btrfs-progs`)")
    if not _knows_btrfs():
        lacking.append("no btrfs in this kernel (`modprobe btrfs`)")
    if not (dev / "loop-control").exists():
        lacking.append("no /dev/loop-control (`modprobe loop`; in a container, --privileged)")
    if not lacking:
        return ok("disk limits", "btrfs: a subvolume of a sparse image for each sandbox")
    seen = f"by tmpfs, so what such sandboxes write takes memory: {', '.join(lacking)}"
    return warn("disk limits", seen, "add what is lacking")


def _knows_btrfs() -> bool:
    """Built in, loaded, or a module that a first mount would load."""
    if "\tbtrfs\n" in Path("/proc/filesystems").read_text():
        return True
    modules = Path("/lib/modules") / os.uname().release / "modules.dep"
    return modules.is_file() and "/btrfs.ko" in modules.read_text()


def _count(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else f"{limit:,}"


def _enough(limit: int, needed: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= needed
